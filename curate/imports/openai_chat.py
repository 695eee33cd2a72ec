"""OpenAI's files for fine-tuning: chat JSONL, and preferences.

    {"messages": […, {"role": "assistant", …}], "tools": […]}
    {"input": {"messages": […], "tools": […]}, "preferred_output": […],
     "non_preferred_output": […]}

Of a conversation with several answers the last one that is trained on (`weight` is not 0) makes
the pair, and what comes before it is its prompt. Source of both formats: OpenAI's guides to
supervised fine-tuning and to direct preference optimization.
"""

from __future__ import annotations

from typing import Any

from curate.imports.items import Item, Read, Unreadable, asked, messages_of, plain, tools_of


def fits(record: dict[str, Any]) -> bool:
    """Whether a record looks like one of these."""
    return "messages" in record or "preferred_output" in record


def read(record: dict[str, Any]) -> Read:
    """One record.

    Raises:
        Unreadable: it has no answer, or one that calls tools.
    """
    if "preferred_output" in record:
        return _preference(record)
    given = record.get("messages")
    messages = messages_of(given)
    assert isinstance(given, list)
    answers = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise Unreadable("there is no answer: no message of the role assistant")
    trained = [n for n in answers if given[n].get("weight", 1) != 0]
    if not trained:
        raise Unreadable("every answer has weight 0")
    last = trained[-1]
    if last == answers[-1] and last != len(messages) - 1:
        raise Unreadable("it does not end with an answer")
    return Item(
        messages=asked(messages[:last]),
        tools=tools_of(record.get("tools")),
        right=plain(given[last] | messages[last], "the answer"),
        trusted=True,
    )


def _preference(record: dict[str, Any]) -> Read:
    given = record.get("input")
    if not isinstance(given, dict):
        raise Unreadable("input is not an object")
    return Item(
        messages=asked(messages_of(given.get("messages"), "input.messages")),
        tools=tools_of(given.get("tools")),
        response=_only(record, "non_preferred_output"),
        right=_only(record, "preferred_output"),
        trusted=True,
    )


def _only(record: dict[str, Any], name: str) -> str:
    messages = messages_of(record.get(name), name)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise Unreadable(f"{name} is not one message of the role assistant")
    return plain(record[name][0] | messages[0], name)
