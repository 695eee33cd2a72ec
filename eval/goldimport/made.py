"""What an import makes, question by question, and what it cannot make."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import regex
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from pydantic import ValidationError

from ledger.gold import GoldQuestion

CheckKind = Literal["exact", "normalised", "contains", "icontains", "starts"]

#: How an answer is compared with a target, where a format does not say it.
CHECKS: tuple[CheckKind, ...] = ("exact", "normalised", "contains", "icontains", "starts")


class Options(NamedTuple):
    """What the file itself may not say.

    Attributes:
        check: how an answer is compared with a target.
        prompt: template of the user's message, where a line holds fields only.
        target: template of the right answer, likewise.
        system: a system message put before conversations that have none.
        slice: name of the field, in a line or its metadata, that is the question's slice.
        max_tokens: longest answer to each question.
        prefix: of the ids that are made up; unset: the file's name.
    """

    check: CheckKind = "normalised"
    prompt: str | None = None
    target: str | None = None
    system: str | None = None
    slice: str | None = None
    max_tokens: int | None = None
    prefix: str | None = None


class LeftOut(NamedTuple):
    """A question that could not be carried over: where it stands in the file, and why."""

    where: str
    reason: str


class Imported(NamedTuple):
    """What came of a file.

    Attributes:
        notes: what a question lost that does not change whether an answer is right, such as a
            name for it in reports; how often.
    """

    questions: list[GoldQuestion]
    left_out: list[LeftOut]
    notes: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "questions": len(self.questions),
            "left_out": [one._asdict() for one in self.left_out],
            "reasons": dict(Counter(one.reason for one in self.left_out).most_common()),
            "notes": self.notes,
        }


class Refused(Exception):
    """A part of a question that cannot be carried over; the message is the reason."""


class Maker:
    """Collects what is made of a file."""

    def __init__(self, file: Path, options: Options) -> None:
        self.file, self.options = file, options
        self._questions: dict[str, GoldQuestion] = {}
        self._left: list[LeftOut] = []
        self._notes: Counter[str] = Counter()

    @property
    def made(self) -> Imported:
        """So far."""
        return Imported(list(self._questions.values()), self._left, dict(self._notes))

    def leave(self, where: str, reason: str) -> None:
        """A question is left out."""
        self._left.append(LeftOut(where, reason))

    def note(self, what: str) -> None:
        """Something is lost that does not change whether an answer is right."""
        self._notes[what] += 1

    def id(self, number: int | str) -> str:
        """An id for a question that has none."""
        return f"{self.options.prefix or self.file.stem}-{number}"

    def add(
        self,
        where: str,
        *,
        id: str,
        messages: Sequence[Mapping[str, Any]],
        checks: Sequence[Mapping[str, Any]],
        facts: Mapping[str, Any] | None = None,
        tools: Any = None,
    ) -> None:
        """A question; where it breaks a rule of gold sets, it is left out with that rule.

        Args:
            facts: fields of the line among which the slice may be.
        """
        turns = [dict(message) for message in messages]
        if self.options.system and not any(m.get("role") == "system" for m in turns):
            turns.insert(0, {"role": "system", "content": self.options.system})
        fields = {
            "id": id,
            "messages": turns,
            "checks": list(checks),
            "slice": _slice(facts or {}, self.options.slice),
            "max_tokens": self.options.max_tokens,
            "tools": tools or None,
        }
        if not checks:
            return self.leave(where, "nothing is demanded of the answer")
        if id in self._questions:
            return self.leave(where, f"the id {id!r} is used already")
        try:
            self._questions[id] = GoldQuestion.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(str(part) for part in first["loc"])
            self.leave(where, f"{at}: {first['msg'].removeprefix('Value error, ')}")
        return None


def targets(given: Any, kind: CheckKind) -> list[dict[str, Any]]:
    """Checks that an answer is one of the targets.

    Raises:
        Refused: there is no target.
    """
    listed = [str(one) for one in (given if isinstance(given, list) else [given]) if one != ""]
    if given is None or not listed:
        raise Refused("no target")
    return one_of([target(one, kind) for one in dict.fromkeys(listed)])


def target(text: str, kind: CheckKind) -> dict[str, Any]:
    """A check of one target."""
    if kind == "starts":
        return starts(text)
    if kind in ("contains", "icontains"):
        return {"type": "contains", "value": text, "ignore_case": kind == "icontains"}
    return {"type": kind, "value": text}


def starts(text: str) -> dict[str, Any]:
    """A check that an answer begins with a text."""
    return {"type": "regex", "value": rf"\A{regex.escape(text)}"}


def one_of(checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One check that passes where one of these does."""
    return checks if len(checks) == 1 else [{"type": "any_of", "value": checks}]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class _Templates(SandboxedEnvironment):
    """Templates as promptfoo and OpenAI write them; nothing but the fields can be reached."""

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
        # JSON as these write it: jinja's own escapes what HTML would take for marks.
        self.filters["dump"] = self.filters["tojson"] = _json


_templates = _Templates()


def rendered(template: str, fields: Mapping[str, Any]) -> str:
    """A template with its fields in it.

    Raises:
        Refused: it names a field that is not there, or uses what no template here can.
    """
    if "{{" not in template and "{%" not in template:
        return template
    try:
        return _templates.from_string(template).render(dict(fields))
    except TemplateError as error:
        raise Refused(f"template: {error}") from None
    except Exception as error:  # a template may divide by zero, call what is no function, …
        raise Refused(f"template: {type(error).__name__}") from None


def _slice(facts: Mapping[str, Any], name: str | None) -> str | None:
    if name is None:
        return None
    metadata = facts.get("metadata")
    inside = metadata.get(name) if isinstance(metadata, Mapping) else None
    value = facts.get(name) if inside is None else inside
    return None if value in (None, "") else str(value)
