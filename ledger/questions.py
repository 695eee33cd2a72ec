"""The question of a row: the text that says what it is about.

The last thing the user typed, and where that is too short to say anything ("yes, please") the
user's turn before it. Covers neither system messages nor answers: what the product says of
itself is in every row alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ledger.redact.placeholders import PLACEHOLDER

#: A question shorter than this is given the one before it, characters.
SHORT = 24
#: What is read of a question, characters.
LONGEST = 2000


def question(messages: Sequence[Mapping[str, Any]] | None) -> str:
    """The question of a conversation, without placeholders of personal data; "" where none is.

    Args:
        messages: chat messages as stored.
    """
    turns = [_text(m.get("content")) for m in messages or () if m.get("role") == "user"]
    turns = [turn for turn in turns if turn]
    if not turns:
        return ""
    text = turns[-1]
    if len(text) < SHORT and len(turns) > 1:
        text = f"{turns[-2][:LONGEST]}\n{text}"
    return text[:LONGEST]


def _text(content: Any) -> str:
    """The text of a message's content, in whatever form the client sent it."""
    if isinstance(content, str):
        found = content
    elif isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, Mapping))
        found = "\n".join(part for part in parts if isinstance(part, str))
    else:
        return ""
    return PLACEHOLDER.sub(" ", found).strip()
