"""Rules in YAML: which rows get which tag, so that they come before eyes.

    - name: unsure-refunds
      when: {alias: support, mean_logprob: {below: -1.5}, question: {contains: refund}}
      tag: check-refund
      sample: 0.25
      why: refunds are expensive to get wrong

All conditions of `when` must hold. `sample` tags that share of the rows that match; which ones is a
keyed hash of the rule's name and the row's id, so that a second run chooses the same ones and two
rules choose apart. Text is opened only for rows that fit in all that can be seen without it.

Covers what a rule can say, and reading rules. Finding the rows they match is
`curate.tagging.matching`; trying them on the past is `curate.tagging.trial`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, Self

import regex
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from curate.acceptance.wording import question
from ledger.database import tables
from ledger.errors import ConfigError
from ledger.records import Api, Interaction, Tag
from ledger.store import Store, now
from ledger.strict_yaml import read_yaml

#: Longest time of one search of a pattern, seconds.
PATTERN_SECONDS = 0.1
#: Characters of a text that a pattern sees.
SEARCHED = 100_000
_NUMBERS = (
    "mean_logprob",
    "min_logprob",
    "completion_tokens",
    "prompt_tokens",
    "latency_ms",
    "ttft_ms",
)
_rows = tables.interactions
#: What is read of every row; no text.
COLUMNS = tuple(
    _rows.c[name]
    for name in (
        "seq", "row_id", "ts", "alias", "version", "arm", "api", "finish_reason", "stored_text",
        *_NUMBERS,
    )
)  # fmt: skip


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Range(_Part):
    """A number below one bound, above another, or both; rows without the number do not match."""

    below: float | None = None
    above: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.below is None and self.above is None:
            raise ValueError("say `below`, `above` or both")
        if self.below is not None and self.above is not None and self.above >= self.below:
            raise ValueError(f"nothing is above {self.above:g} and below {self.below:g}")
        return self

    def holds(self, value: float | None) -> bool:
        """Whether a value lies within."""
        return (
            value is not None
            and (self.below is None or value < self.below)
            and (self.above is None or value > self.above)
        )


class Wording(_Part):
    """What a text must have in it; case counts in `matches` only."""

    contains: str | None = Field(None, min_length=1)
    matches: str | None = Field(None, min_length=1, max_length=2000)
    equals: str | None = None

    @field_validator("matches")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            regex.compile(value or "")
        except regex.error as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.contains is None and self.matches is None and self.equals is None:
            raise ValueError("say `contains`, `matches` or `equals`")
        return self

    def holds(self, text: str) -> bool:
        """Whether all of it is so.

        Raises:
            TimeoutError: the pattern took longer than `PATTERN_SECONDS`.
        """
        if self.equals is not None and text.strip().casefold() != self.equals.strip().casefold():
            return False
        if self.contains is not None and self.contains.casefold() not in text.casefold():
            return False
        if self.matches is None:
            return True
        seen = text[:SEARCHED]
        return regex.search(self.matches, seen, timeout=PATTERN_SECONDS) is not None


class When(_Part):
    """The conditions of a rule; all of those that are given must hold."""

    alias: str | None = None
    version: str | None = Field(None, description="with `*` and `?`, as `support@*`")
    arm: Literal["live", "candidate", "pinned"] | None = None
    api: Api | None = None
    finish_reason: str | None = None
    mean_logprob: Range | None = Field(None, description="nats")
    min_logprob: Range | None = Field(None, description="nats")
    completion_tokens: Range | None = None
    prompt_tokens: Range | None = None
    latency_ms: Range | None = None
    ttft_ms: Range | None = None
    hour: Range | None = Field(None, description="of the UTC day, 0 to 23")
    feedback: Literal["negative", "any", "none"] | None = None
    tagged: str | None = None
    not_tagged: str | None = None
    cluster: int | str | None = Field(None, description="its number or its name")
    question: Wording | None = Field(None, description="the last message of the user")
    answer: Wording | None = None
    metadata: dict[str, str | int | float | bool] | None = None

    @model_validator(mode="before")
    @classmethod
    def _metadata_keys(cls, value: Any) -> Any:
        """`metadata.plan: pro` as `metadata: {plan: pro}`."""
        if not isinstance(value, dict):
            return value
        fields = {k: v for k, v in value.items() if not str(k).startswith("metadata.")}
        nested = {
            str(key).removeprefix("metadata."): item
            for key, item in value.items()
            if str(key).startswith("metadata.")
        }
        if nested:
            fields["metadata"] = {**(fields.get("metadata") or {}), **nested}
        return fields

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("no condition: the rule would tag every row")
        return self

    @property
    def opens(self) -> bool:
        """Whether text is needed."""
        return bool(self.question or self.answer or self.metadata)

    @cached_property
    def _plain(self) -> list[Callable[[Any], bool]]:
        """What is asked of columns, as one call each: a sweep asks it of every row."""
        tests: list[Callable[[Any], bool]] = []
        for name in ("alias", "arm", "api", "finish_reason"):
            if (wanted := getattr(self, name)) is not None:
                tests.append(_same(attrgetter(name), wanted))
        for name in _NUMBERS:
            if (bounds := getattr(self, name)) is not None:
                tests.append(_within(attrgetter(name), bounds))
        if self.opens:
            tests.append(attrgetter("stored_text"))
        if (version := self.version) is not None:
            tests.append(lambda row: fnmatchcase(row.version, version))
        if (hours := self.hour) is not None:
            tests.append(lambda row: hours.holds(int(row.ts % 86_400 // 3600)))
        return tests

    def fits(self, row: Any) -> bool:
        """Whether all that stands in columns holds.

        Args:
            row: a row of `COLUMNS`.
        """
        return all(test(row) for test in self._plain)

    def says(self, row: Interaction) -> bool:
        """Whether all that needs the text holds.

        Raises:
            TimeoutError: a pattern took longer than `PATTERN_SECONDS`.
        """
        if self.metadata is not None:
            given = row.metadata or {}
            if any(str(given.get(key)) != str(item) for key, item in self.metadata.items()):
                return False
        if self.question is not None and not self.question.holds(question(row)):
            return False
        return self.answer is None or self.answer.holds(row.response or "")


def _same(column: Callable[[Any], Any], wanted: Any) -> Callable[[Any], bool]:
    return lambda row: bool(column(row) == wanted)


def _within(column: Callable[[Any], Any], bounds: Range) -> Callable[[Any], bool]:
    return lambda row: bounds.holds(column(row))


class Rule(_Part):
    """One rule."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    when: When
    tag: str = Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9_:.-]*$")
    sample: float = Field(1.0, gt=0, le=1, description="share of the matching rows, 0 to 1")
    why: str = ""

    @property
    def who(self) -> str:
        """Who tags, as in `Tag.who`."""
        return f"rule:{self.name}"

    def sampled(self, store: Store, row_id: str) -> bool:
        """Whether a matching row is in the sample; the same whenever it is asked."""
        if self.sample >= 1:
            return True
        return int(store.mac("rule", f"{self.name}\n{row_id}".encode())[:13], 16) < (
            self.sample * 16**13
        )

    def mark(self, row_id: str) -> Tag:
        """The tag that it puts on a row."""
        return Tag(row_id=row_id, tag=self.tag, who=self.who, why=self.why, ts=now())


_RULES: TypeAdapter[list[Rule]] = TypeAdapter(list[Rule])


def load_rules(paths: Sequence[Path | str]) -> list[Rule]:
    """Read files of rules, in order.

    Raises:
        ConfigError: a file is missing or no YAML, a rule is malformed, or two have one name. All
            that is wrong is listed, with its file and its rule.
    """
    rules: list[Rule] = []
    errors: list[str] = []
    first_seen: dict[str, str] = {}
    for path in map(Path, paths):
        for rule in _read(path, errors):
            if rule.name in first_seen:
                where = first_seen[rule.name]
                errors.append(f"{path}: rule {rule.name!r}: the name is used already in {where}")
            first_seen.setdefault(rule.name, str(path))
            rules.append(rule)
    if errors:
        raise ConfigError(
            f"the rules have {len(errors)} error(s)",
            rule="\n".join(f"  {error}" for error in errors),
            remedy="Nothing was tagged; docs/curation.md lists the conditions.",
        )
    return rules


def _read(path: Path, errors: list[str]) -> list[Rule]:
    try:
        raw = read_yaml(path)
    except OSError as error:
        errors.append(f"{path}: {error.strerror}")
        return []
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        errors.append(f"{path}: cannot be read as YAML: {error}")
        return []
    if not isinstance(raw, list) or not raw:
        errors.append(f"{path}: a list of rules is wanted, found {type(raw).__name__}")
        return []
    try:
        return _RULES.validate_python(raw)
    except ValidationError as error:
        for item in error.errors():
            number, *rest = item["loc"]
            one = raw[int(number)]
            name = one.get("name") if isinstance(one, dict) else None
            said = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                said = "no such key"
            where = ".".join(map(str, rest)) or "the rule"
            errors.append(f"{path}: rule {name or int(number) + 1}: {where}: {said}")
        return []
