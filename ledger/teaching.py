"""How a teacher is asked, wherever it is asked: for corrections, and the gate's questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# A reasoning model whose server does not part thought and answer.
_THOUGHT = "</think>"


def with_instructions(
    messages: Sequence[dict[str, Any]], instructions: str
) -> list[dict[str, Any]]:
    """A conversation with the teacher's instructions first.

    They join the conversation's own where it has some: templates take one system message.
    """
    messages = list(messages)
    if not instructions:
        return messages
    head = messages[0] if messages else {}
    if head.get("role") == "system" and isinstance(head.get("content"), str):
        return [head | {"content": f"{instructions}\n\n{head['content']}"}, *messages[1:]]
    return [{"role": "system", "content": instructions}, *messages]


def without_thought(text: str) -> str:
    """An answer without what a reasoning model thought before it."""
    return text.rpartition(_THOUGHT)[2].strip()
