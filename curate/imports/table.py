"""Plain CSV: one question a line, columns known by their names.

    question | prompt | text | input                what was asked
    answer | output | response                      what was answered
    correction | expected | label | category        what is right
    system, user, session, ts | timestamp, rating | score, tags | tag

Names are compared without case. Other columns are not read.
"""

from __future__ import annotations

import re
from typing import Any

from curate.imports.items import (
    Item,
    Opinion,
    Read,
    Unreadable,
    name_of,
    opinion_of,
    text_of,
    time_of,
)

_COLUMNS = {
    "question": ("question", "prompt", "text", "input"),
    "answer": ("answer", "output", "response"),
    "right": ("correction", "expected", "label", "category"),
    "system": ("system",),
    "user": ("user",),
    "session": ("session",),
    "ts": ("ts", "timestamp"),
    "rating": ("rating", "score"),
    "tags": ("tags", "tag"),
}
_TAG = re.compile(r"[a-z0-9][a-z0-9_:.-]{0,63}")


def fits(record: dict[str, Any]) -> bool:
    """Whether the columns can be understood."""
    names = {name.casefold() for name in record}
    return bool(names & {*_COLUMNS["question"]}) and bool(
        names & {*_COLUMNS["answer"], *_COLUMNS["right"]}
    )


def read(record: dict[str, Any]) -> Read:
    """One line.

    Raises:
        Unreadable: there is no question, or neither an answer nor what is right.
    """
    cells = {name.casefold(): value for name, value in record.items()}
    found = {
        what: next((text for name in names if (text := text_of(cells.get(name)))), None)
        for what, names in _COLUMNS.items()
    }
    if found["question"] is None:
        raise Unreadable(f"no question: {' and '.join(_COLUMNS['question'])} are empty or missing")
    if found["answer"] is None and found["right"] is None:
        raise Unreadable("neither an answer nor a correction in the line")
    opinions: tuple[Opinion, ...] = ()
    if found["rating"] is not None:
        opinion = opinion_of(found["rating"], user=name_of(found["user"]))
        if opinion is None:
            raise Unreadable("the rating is neither up nor down nor a number from 0 to 1")
        opinions = (opinion,)
    messages = [{"role": "system", "content": found["system"]}] if found["system"] else []
    return Item(
        messages=[*messages, {"role": "user", "content": found["question"]}],
        response=found["answer"],
        right=found["right"],
        trusted=True,
        user=name_of(found["user"]),
        session=name_of(found["session"]),
        ts=time_of(found["ts"]),
        opinions=opinions,
        tags=tags_of(found["tags"]),
    )


def tags_of(value: Any) -> tuple[str, ...]:
    """Tags from a list, or from a text with commas, semicolons or bars between them.

    Raises:
        Unreadable: one of them cannot be a tag.
    """
    parts = value if isinstance(value, list) else re.split(r"[,;|]", value or "")
    tags = [re.sub(r"\s+", "_", str(part).strip().casefold()) for part in parts]
    for tag in filter(None, tags):
        if not _TAG.fullmatch(tag):
            raise Unreadable("a tag holds more than letters, digits, _ : . and -")
    return tuple(dict.fromkeys(filter(None, tags)))
