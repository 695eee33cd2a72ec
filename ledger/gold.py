"""Gold sets: questions with checks that no training data may touch.

A gold set is a JSONL file, one question a line:

    {"id": "refund-1", "messages": [{"role": "user", "content": "Where is my refund?"}],
     "checks": [{"type": "normalised", "value": "refunds"}], "slice": "billing"}

Covers reading them and knowing a question again in other clothes (`question_key`). Asking and
scoring them is `eval`.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ledger.checks import Check
from ledger.errors import GoldError
from ledger.hashing import canonical_json, content_hash
from ledger.redact import redact
from ledger.redact.placeholders import PLACEHOLDER

_ROLES = ("system", "developer", "user", "assistant", "tool")
_SHOWN_ERRORS = 100


class Labelled(BaseModel):
    """Two answers to a question, and which of them people prefer: what a judge is measured by."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    a: str
    b: str
    preferred: Literal["a", "b", "tie"]


class GoldQuestion(BaseModel):
    """A question and what its answer must satisfy: all of the checks."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: str = Field(min_length=1, max_length=200, description="unique over all gold sets in use")
    messages: list[dict[str, Any]] = Field(
        min_length=1, description="a chat that ends with the user or a tool"
    )
    checks: list[Check] = Field(
        default_factory=list, description="none only where a judge compares the answers"
    )
    slice: str | None = Field(None, min_length=1, description="part of the set it is reported with")
    max_tokens: int | None = Field(
        None, ge=1, description="longest answer, tokens; unset: gate.max_tokens"
    )
    tools: list[dict[str, Any]] | None = Field(None, min_length=1)
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="arguments of the chat template, such as `{enable_thinking: false}`"
    )
    conversation: str | None = Field(
        None, min_length=1, description="questions that share it are not independent of each other"
    )
    reference: str | None = Field(None, description="a good answer, shown to a judge")
    human: list[Labelled] | None = Field(
        None, min_length=1, description="pairs of answers of which people said which is better"
    )

    @field_validator("messages")
    @classmethod
    def _a_question(cls, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for number, message in enumerate(messages, 1):
            role, content = message.get("role"), message.get("content")
            if role not in _ROLES:
                raise ValueError(f"message {number} has the role {role!r}, not one of {_ROLES}")
            if not isinstance(content, str | list) and not (
                role == "assistant" and content is None
            ):
                raise ValueError(f"message {number} ({role}) has no content")
        if messages[-1]["role"] not in ("user", "tool"):
            raise ValueError(
                f"the last message is the {messages[-1]['role']}'s, so there is nothing to answer"
            )
        return messages

    @property
    def text(self) -> str:
        """The text of the last message, for reports."""
        return _text(self.messages[-1].get("content"))


def load_gold(paths: Sequence[Path | str], *, checks: bool = True) -> list[GoldQuestion]:
    """Read gold sets, in order.

    Args:
        checks: whether a question without checks is an error; a judge needs none.

    Raises:
        GoldError: a file is missing, empty or not UTF-8, a line is broken or an id is used
            twice. All that is wrong is listed, with files and line numbers.
    """
    if not paths:
        raise GoldError(
            "there is no gold set",
            rule="A version is judged on questions with known answers.",
            remedy="Name one under aliases.<alias>.gate.gold in the configuration.",
        )
    questions: list[GoldQuestion] = []
    first_seen: dict[str, str] = {}
    errors: list[str] = []
    for path in map(Path, paths):
        lines = _lines(path, errors)
        for number, line in lines:
            where = f"{path}:{number}"
            try:
                question = _parse(line)
            except ValidationError as error:
                errors += [f"{where}: {_explain(item)}" for item in error.errors()]
            except (ValueError, RecursionError) as error:
                errors.append(f"{where}: not JSON: {error}")
            else:
                if checks and not question.checks:
                    errors.append(f"{where}: checks: an answer can only be scored by a check")
                if question.id in first_seen:
                    errors.append(
                        f"{where}: id {question.id!r} is used already at {first_seen[question.id]}"
                    )
                first_seen.setdefault(question.id, where)
                questions.append(question)
    if errors:
        more = len(errors) - _SHOWN_ERRORS
        shown = errors[:_SHOWN_ERRORS] + ([f"… and {more} more"] if more > 0 else [])
        raise GoldError(
            f"the gold set has {len(errors)} error(s)",
            rule="\n".join(f"  {error}" for error in shown),
            remedy="Nothing was asked; mend these lines and run it again.",
        )
    return questions


def gold_hash(questions: Sequence[GoldQuestion]) -> str:
    """`fw1:gold:…` over the questions and their checks, whatever their order and files."""
    dumped = [question.model_dump(exclude_defaults=True) for question in questions]
    return content_hash("gold", sorted(dumped, key=lambda question: question["id"]))


def question_key(messages: Sequence[dict[str, Any]]) -> str:
    """`fw1:question:…`: the same for two prompts that ask the same thing; see `question_turns`.

    Args:
        messages: a chat prompt, with or without its answer.
    """
    return turns_key(question_turns(messages))


def turns_key(turns: list[list[Any]]) -> str:
    """`question_key` of the turns that `question_turns` found."""
    return content_hash("question", turns)


def question_turns(messages: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """What a prompt asks: for each turn its role, its folded text and the calls in it.

    Case, white space and punctuation do not count, nor do system messages (a product rewords
    its prompt, the question stays), nor an answer at the end. Earlier turns do count. Personal
    data is redacted first, so that a stored row and the gold question it came from agree.
    """
    turns = [m for m in messages if m.get("role") not in ("system", "developer")]
    while turns and turns[-1].get("role") == "assistant":
        turns.pop()
    return [_folded_turn(_bare(redact(message))) for message in turns]


def _bare(value: Any) -> Any:
    """Without the numbers of placeholders: `[PHONE_2]` counts what came before, in a row."""
    if isinstance(value, str):
        return PLACEHOLDER.sub(r"[\1]", value)
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items()}
    return [_bare(item) for item in value] if isinstance(value, list) else value


def _folded_turn(message: dict[str, Any]) -> list[Any]:
    calls = [
        [call.get("function", {}).get("name"), call.get("function", {}).get("arguments")]
        for call in message.get("tool_calls") or ()
    ]
    return [message.get("role"), _fold(_text(message.get("content"))), calls]


def _text(content: Any) -> str:
    """A message's content as one text; parts that are not text stand as JSON."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    return "\n".join(
        part["text"]
        if isinstance(part, dict) and isinstance(part.get("text"), str)
        else canonical_json(part).decode("utf-8", errors="replace")
        for part in parts
    )


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = []
    for char in folded:
        category = unicodedata.category(char)
        if category != "Cf":  # joiners and marks of direction, which nobody sees
            kept.append(" " if category[0] in "PZC" else char)
    # A message of punctuation alone ("???") still is a message.
    return " ".join("".join(kept).split()) or " ".join(folded.split())


def _lines(path: Path, errors: list[str]) -> list[tuple[int, str]]:
    """The lines of a file that are not blank, numbered from 1; what is wrong goes to `errors`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        errors.append(f"{path}: {error.strerror}")
        return []
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        errors.append(f"{path}:{line}: not UTF-8 (byte {data[error.start]:#04x})")
        return []
    # Not splitlines(): it would cut a text at the line separators that JSON allows in it.
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        errors.append(f"{path}: the file is empty")
    return lines


def _parse(line: str) -> GoldQuestion:
    value = json.loads(line, parse_constant=_refuse)
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair, which is no character") from None
    return GoldQuestion.model_validate(value)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _explain(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "the line"
    if item["type"] == "extra_forbidden":
        return f"{where}: no such field"
    message = item["msg"].removeprefix("Value error, ")
    shown = "" if item["type"] in ("missing", "value_error") else f", found {item['input']!r:.80}"
    return f"{where}: {message}{shown}"
