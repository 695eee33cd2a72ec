"""What the readers of all formats make of a record: one form, checked.

Covers the shape of messages and times. Text is neither redacted nor hashed here: the store does
that with everything that comes in.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ledger.dialects import conversation

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


class Unreadable(Exception):
    """A record that cannot be imported. Its message says why and quotes no text of users."""


class Opinion(NamedTuple):
    """What somebody said of an answer; fields as in `ledger.records.Feedback`."""

    rating: str | None = None
    score: float | None = None
    success: bool | None = None
    reason: str | None = None
    user: str | None = None
    ts: float | None = None


class Item(NamedTuple):
    """An answer of another system.

    Attributes:
        key: its id there, so that what is said of it elsewhere finds it; None: it has none.
        response: what was answered; None where only the right answer is known.
        right: what should have been answered; None where nobody said.
        trusted: whether the format holds what was made to be trained on.
        ts: seconds since the epoch; None where the record does not say.
    """

    messages: list[dict[str, Any]]
    key: str | None = None
    tools: list[dict[str, Any]] | None = None
    response: str | None = None
    right: str | None = None
    trusted: bool = False
    user: str | None = None
    session: str | None = None
    ts: float | None = None
    opinions: tuple[Opinion, ...] = ()
    tags: tuple[str, ...] = ()
    model: str | None = None


class About(NamedTuple):
    """Something said of an answer that stands in another record, or in another file."""

    key: str
    opinion: Opinion | None = None
    right: str | None = None
    user: str | None = None


class Skip(NamedTuple):
    """A record that is none of our business, such as a span of a trace; `why` is counted."""

    why: str


Read = Item | About | Skip


def messages_of(given: Any, what: str = "messages") -> list[dict[str, Any]]:
    """Chat messages in the form that the ledger keeps.

    Raises:
        Unreadable: it is no list of messages, or one of them has no known role or no content.
    """
    if not isinstance(given, list) or not given:
        raise Unreadable(f"{what} is not a list of messages")
    for number, message in enumerate(given):
        if not isinstance(message, dict):
            raise Unreadable(f"{what}[{number}] is not an object")
        if message.get("role") not in _ROLES:
            raise Unreadable(f"{what}[{number}] has no role, or one that is not known")
        if message.get("content") is None and not message.get("tool_calls"):
            raise Unreadable(f"{what}[{number}] says nothing")
    said = conversation("chat", {"messages": given}).messages
    # Chat templates know no developer; vLLM's own dialects call it system, too.
    return [m | {"role": "system"} if m["role"] == "developer" else m for m in said]


def tools_of(given: Any) -> list[dict[str, Any]] | None:
    """Function tools in the chat form; None where there are none."""
    return conversation("chat", {"tools": given}).tools


def plain(message: dict[str, Any], what: str) -> str:
    """The text of an answer.

    Raises:
        Unreadable: it calls tools, or holds something other than text, or nothing.
    """
    if message.get("tool_calls") or message.get("function_call"):
        raise Unreadable(f"{what} calls tools; only text can be a training target")
    content = message.get("content")
    if not isinstance(content, str):
        raise Unreadable(f"{what} is not text")
    if not content.strip():
        raise Unreadable(f"{what} is empty")
    return content


def asked(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same messages, if they ask something.

    Raises:
        Unreadable: they end with an answer, or hold nothing but instructions.
    """
    if not messages or all(m["role"] == "system" for m in messages):
        raise Unreadable("nothing is asked: there is no message but instructions")
    if messages[-1]["role"] == "assistant":
        raise Unreadable("the question ends with an answer")
    return messages


def text_of(value: Any) -> str | None:
    """An output as text: a string as it is, another JSON value as JSON, None where empty."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.strip() else None


def name_of(value: Any) -> str | None:
    """A user's or session's name; None where there is none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).strip() or None


def time_of(value: Any) -> float | None:
    """Seconds since the epoch from a number (seconds, milliseconds, microseconds) or ISO 8601.

    A time without a zone is UTC.

    Raises:
        Unreadable: it is neither.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    number = _number(value)
    if number is not None:
        for unit in (1.0, 1e3, 1e6, 1e9):
            if 0 <= number / unit < 1e10:  # until the year 2286
                return number / unit
        raise Unreadable("the time is out of range")
    try:
        parsed = datetime.fromisoformat(str(value).strip().removesuffix(" UTC"))
    except ValueError:
        raise Unreadable("the time is neither a number of seconds nor ISO 8601") from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


_UP = frozenset(("up", "thumbs_up", "thumbs up", "👍", "positive", "good", "like", "liked", "+1"))
_DOWN = frozenset(
    ("down", "thumbs_down", "thumbs down", "👎", "negative", "bad", "dislike", "disliked", "-1")
)
_YES, _NO = frozenset(("true", "yes")), frozenset(("false", "no"))


def opinion_of(value: Any, *, reason: str | None = None, user: str | None = None) -> Opinion | None:
    """A value that somebody gave: thumbs, yes or no, or a number from 0 to 1.

    -1 is a thumb down. Other numbers (stars, per cent) have no known scale.

    Returns:
        None where the value is not understood.
    """
    if isinstance(value, bool):
        return Opinion(rating="up" if value else "down", reason=reason, user=user)
    said = str(value).strip().casefold()
    if said in _UP | _DOWN:
        return Opinion(rating="up" if said in _UP else "down", reason=reason, user=user)
    if said in _YES | _NO:
        return Opinion(rating="up" if said in _YES else "down", reason=reason, user=user)
    number = _number(value)
    if number == -1:
        return Opinion(rating="down", reason=reason, user=user)
    if number is not None and 0 <= number <= 1:
        return Opinion(score=number, reason=reason, user=user)
    return None


#: Names of scores that say what a person made of an answer. Others may measure anything, and in
#: either direction (toxicity, cost): they are left out.
PERSONAL = re.compile(r"feedback|thumb|rating|vote|helpful|satisf|like|user", re.IGNORECASE)
