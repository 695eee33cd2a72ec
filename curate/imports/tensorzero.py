"""TensorZero: inferences and what was said of them, one JSON object a line.

Covers rows of the tables ChatInference and JsonInference (`input` and `output` as JSON, or as
JSON in a text), the stored inferences of its API (`dispreferred_outputs` where a demonstration
takes the place of the output), and rows of DemonstrationFeedback, BooleanMetricFeedback,
FloatMetricFeedback and CommentFeedback, in the same file or a later one. Fields as in
TensorZero's data model.

A demonstration is a correction. A boolean metric says whether the task succeeded; a float metric
counts where its name says that a person gave it (`items.PERSONAL`). What is said about a whole
episode is left out, and so are thoughts. A system prompt that is arguments of a template is
kept as JSON: the template is not in the data.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from curate.imports.items import (
    PERSONAL,
    About,
    Item,
    Opinion,
    Read,
    Skip,
    Unreadable,
    asked,
    messages_of,
    name_of,
    opinion_of,
    text_of,
    time_of,
    tools_of,
)

_FEEDBACK = ("target_id", "target_type")
_MARKS = {"function_name", "inference_id", "episode_id", "variant_name", *_FEEDBACK}


def fits(record: dict[str, Any]) -> bool:
    """Whether a record looks like one of these."""
    return bool(_MARKS & record.keys()) and bool({"input", "value"} & record.keys())


def read(record: dict[str, Any]) -> Read:
    """One record.

    Raises:
        Unreadable: it holds no question or no answer of a known shape.
    """
    if "input" not in record:
        return _about(record)
    key = text_of(record.get("inference_id") or record.get("id"))
    output = record["output"] if "output" in record else record.get("stored_output")
    response, right = _said(output), _demonstration(record)
    instead = _json(record.get("dispreferred_outputs"))
    if isinstance(instead, list) and instead:  # the output is a demonstration
        response, right = _said(instead[0]), response
    if response is None and right is None:
        raise Unreadable("there is no output")
    tags = _json(record.get("tags"))
    user = name_of(tags.get("user_id")) if isinstance(tags, dict) else None
    return Item(
        messages=_question(record["input"]),
        key=key,
        tools=_tools(record.get("tool_params")),
        response=response,
        right=right,
        user=user,
        session=name_of(record.get("episode_id")),
        ts=time_of(record.get("timestamp")) or _time_in(key),
    )


# -- input and output ------------------------------------------------------------------------


def _json(given: Any) -> Any:
    """A value; JSON in a text, as ClickHouse has it, is opened."""
    if isinstance(given, str) and given.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(given)
        except (ValueError, RecursionError):
            return given
    return given


def _question(given: Any) -> list[dict[str, Any]]:
    value = _json(given)
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
        raise Unreadable("the input is not {system, messages}")
    messages: list[dict[str, Any]] = []
    if system := text_of(value.get("system")):
        messages.append({"role": "system", "content": system})
    for message in value["messages"]:
        if not isinstance(message, dict):
            raise Unreadable("a message of the input is not an object")
        messages += _turn(message.get("role"), _json(message.get("content")))
    return asked(messages_of(messages, "the input"))


def _turn(role: Any, content: Any) -> list[dict[str, Any]]:
    """A message of theirs as messages of the chat form: results of tools are their own."""
    blocks = content if isinstance(content, list) else [content]
    texts, calls, results = [], [], []
    for block in blocks:
        if not isinstance(block, dict):
            texts.append(str(block))
        elif block.get("type") == "tool_call":
            calls.append(_call(block))
        elif block.get("type") == "tool_result":
            result = {"role": "tool", "tool_call_id": block.get("id")}
            results.append(result | {"content": str(block.get("result") or "")})
        elif block.get("type") != "thought":
            texts.append(_text(block))
    message: dict[str, Any] = {"role": role}
    if texts:
        message["content"] = "\n".join(texts)
    if calls:
        message["tool_calls"] = calls
    return [*results, *([message] if texts or calls else [])]


def _text(block: dict[str, Any]) -> str:
    """A block as text; what is none (a picture, a file) leaves a mark."""
    for name in ("text", "value", "arguments"):
        if block.get("type", "text") in ("text", "raw_text", "template") and block.get(name):
            return text_of(block[name]) or ""
    return "" if block.get("type", "text") == "text" else "[BINARY]"


def _call(block: dict[str, Any]) -> dict[str, Any]:
    arguments = block.get("raw_arguments") or block.get("arguments")
    given = arguments if isinstance(arguments, str) else json.dumps(arguments)
    name = block.get("raw_name") or block.get("name")
    return {
        "id": block.get("id"),
        "type": "function",
        "function": {"name": name, "arguments": given},
    }


def _said(given: Any) -> str | None:
    """An output as text: content blocks, or what a JSON function says (`raw`)."""
    value = _json(given)
    if isinstance(value, dict):
        return text_of(value.get("raw") or value.get("parsed"))
    if not isinstance(value, list):
        return text_of(value)
    kinds = {block.get("type") for block in value if isinstance(block, dict)}
    if "tool_call" in kinds:
        raise Unreadable("the output calls tools; only text can be a training target")
    texts = [_text(b) for b in value if isinstance(b, dict) and b.get("type") != "thought"]
    return text_of("\n".join(texts))


def _tools(given: Any) -> list[dict[str, Any]] | None:
    value = _json(given)
    if not isinstance(value, dict):
        return None
    return tools_of(value.get("tools_available") or value.get("additional_tools"))


def _time_in(key: str | None) -> float | None:
    """When an id was made, where it is a UUIDv7: its first 48 bits are milliseconds."""
    try:
        made = uuid.UUID(key or "")
    except ValueError:
        return None
    return (made.int >> 80) / 1000 if made.version == 7 else None


# -- feedback --------------------------------------------------------------------------------


def _demonstration(record: dict[str, Any]) -> str | None:
    """A demonstration that was joined to its inference."""
    for name in ("demonstration", "demonstrations", "demonstration_feedback"):
        value = _json(record.get(name))
        if isinstance(value, list) and value and isinstance(value[0], str):
            value = value[-1]  # several of them: the last one holds
        if isinstance(value, dict) and "value" in value:
            value = value["value"]
        if value and (text := _said(value)) is not None:
            return text
    return None


def _about(record: dict[str, Any]) -> Read:
    target = record.get("target_id") or record.get("inference_id")
    value = record.get("value")
    if not isinstance(target, str) or value is None:
        raise Unreadable("neither an inference nor feedback about one")
    if record.get("target_type") == "episode":
        return Skip("feedback about a whole episode")
    metric = record.get("metric_name")
    tags = _json(record.get("tags"))
    user = name_of(tags.get("user_id")) if isinstance(tags, dict) else None
    ts = time_of(record.get("timestamp")) or _time_in(text_of(record.get("id")))
    if metric == "demonstration" or (metric is None and "target_id" not in record):
        right = _said(value)
        if right is None:
            raise Unreadable("a demonstration without text")
        return About(target, right=right, user=user)
    if metric in (None, "comment"):
        return About(target, Opinion(reason=text_of(value), user=user, ts=ts))
    if isinstance(value, bool) or value in ("true", "false"):
        succeeded = value in (True, "true")
        return About(target, Opinion(success=succeeded, user=user, ts=ts))
    if (opinion := opinion_of(value, user=user)) is None or not PERSONAL.search(str(metric)):
        return Skip("a metric that no person gave, or of an unknown scale")
    return About(target, opinion._replace(ts=ts))
