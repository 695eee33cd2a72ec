"""Langfuse: traces, observations, scores and dataset items.

Covers what its API and its "Download JSON" give (`userId`, `observations`, `scores`), the
exports of its tables (CSV, JSON, JSONL; scores are columns), the exports to a blob storage
(`user_id`, `start_time`) and dataset items (`expectedOutput`). Fields as in Langfuse's field
reference of the blob storage export and its public API.

What is taken: of observations only generations; of scores those that a person gave, by their
name (`items.PERSONAL`), and none of an automatic evaluation; corrected outputs, which are
scores of the type CORRECTION. Scores of sessions and of dataset runs are left out.
"""

from __future__ import annotations

import json
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
    plain,
    text_of,
    time_of,
    tools_of,
)
from curate.imports.table import tags_of

_MARKS = {
    *("userId", "user_id", "sessionId", "session_id", "traceId", "trace_id", "observations"),
    *("expectedOutput", "expected_output", "startTime", "start_time", "projectId", "project_id"),
}
_QUESTION = ("prompt", "question", "query", "input", "text", "content", "message")
_ANSWER = ("content", "text", "answer", "output", "response", "completion", "message")


def fits(record: dict[str, Any]) -> bool:
    """Whether a record looks like one of these."""
    return bool(_MARKS & record.keys()) and bool(
        {"input", "output", "value", "stringValue", "string_value", "trace"} & record.keys()
    )


def read(record: dict[str, Any]) -> Read:
    """One record.

    Raises:
        Unreadable: it holds no question or no answer of a known shape.
    """
    if _get(record, "dataType") is not None or ("value" in record and "input" not in record):
        return _score(record)
    if isinstance(record.get("trace"), dict):
        record = record["trace"] | {key: record[key] for key in record if key != "trace"}
    if "expectedOutput" in record or "expected_output" in record:
        return _dataset_item(record)
    if (trace := _get(record, "traceId")) is not None:
        kind = str(record.get("type") or "GENERATION").upper()
        if kind != "GENERATION":
            return Skip(f"an observation that is no generation ({kind.casefold()[:20]})")
        return _answer(record, f"observation:{_get(record, 'id') or trace}")
    return _answer(_with_generation(record), f"trace:{record['id']}" if "id" in record else None)


def _answer(record: dict[str, Any], key: str | None) -> Item:
    messages, tools = _question(record.get("input"))
    response = _said(record.get("output"))
    if response is None:
        raise Unreadable("there is no output")
    user = name_of(_get(record, "userId"))
    opinions, right = _opinions(record, user)
    return Item(
        messages=messages,
        key=key,
        tools=tools,
        response=response,
        right=right,
        user=user,
        session=name_of(_get(record, "sessionId")),
        ts=time_of(record.get("timestamp") or _get(record, "startTime")),
        opinions=tuple(opinions),
        tags=tags_of(_value(record.get("tags"))),
    )


def _dataset_item(record: dict[str, Any]) -> Item:
    messages, tools = _question(record.get("input"))
    right = _said(_get(record, "expectedOutput"))
    if right is None:
        raise Unreadable("a dataset item without an expected output")
    return Item(
        messages=messages,
        key=f"dataset item:{record['id']}" if record.get("id") else None,
        tools=tools,
        right=right,
        trusted=True,
        ts=time_of(_get(record, "createdAt")),
    )


def _with_generation(record: dict[str, Any]) -> dict[str, Any]:
    """A trace; where it has no input or output of its own, with those of its last generation."""
    if _value(record.get("input")) and _value(record.get("output")):
        return record
    given = record.get("observations")
    for one in reversed(given if isinstance(given, list) else []):
        if isinstance(one, dict) and one.get("type") == "GENERATION" and one.get("output"):
            return record | {"input": one.get("input"), "output": one["output"]}
    return record


# -- input and output ------------------------------------------------------------------------


def _question(given: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    value = _value(given)
    if isinstance(value, dict) and {"args", "kwargs"} & value.keys():  # of the SDK's decorator
        kwargs = value.get("kwargs")
        parts = [*(value.get("args") or []), *(kwargs.values() if isinstance(kwargs, dict) else [])]
        value = parts[0] if len(parts) == 1 else kwargs
    tools = None
    if isinstance(value, dict):
        tools = tools_of(value.get("tools"))
        if "messages" in value:
            value = value["messages"]
        elif "role" in value:
            value = [value]
        else:
            value = next((value[k] for k in _QUESTION if isinstance(value.get(k), str)), None)
    if isinstance(value, str) and value.strip():
        return [{"role": "user", "content": value}], tools
    if isinstance(value, list):
        return asked(messages_of(value, "input")), tools
    raise Unreadable("the input is neither a text nor chat messages")


def _said(given: Any) -> str | None:
    value = _value(given)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        return text_of(value)
    if isinstance(choices := value.get("choices"), list) and choices:
        first = choices[0] if isinstance(choices[0], dict) else {}
        value = first.get("message") if isinstance(first.get("message"), dict) else first
    if "role" in value:
        return plain(messages_of([value], "the output")[0] | _calls(value), "the output")
    found = next((value[k] for k in _ANSWER if isinstance(value.get(k), str)), None)
    return text_of(value if found is None else found)  # structured output is an answer, too


def _calls(message: dict[str, Any]) -> dict[str, Any]:
    return {key: message[key] for key in ("tool_calls", "function_call") if message.get(key)}


def _value(given: Any) -> Any:
    """A value; JSON in a text, as it stands in CSV and in the blob storage, is opened."""
    if isinstance(given, str) and given.lstrip()[:1] in ("{", "[", '"'):
        try:
            return json.loads(given)
        except (ValueError, RecursionError):
            return given
    return given


def _get(record: dict[str, Any], name: str) -> Any:
    """A field by its name in the API, or in the blob storage (`userId`, `user_id`)."""
    if (value := record.get(name)) not in (None, ""):
        return value
    value = record.get("".join(f"_{c.lower()}" if c.isupper() else c for c in name))
    return None if value == "" else value


# -- scores ----------------------------------------------------------------------------------


def _score(record: dict[str, Any]) -> Read:
    observation, trace = _get(record, "observationId"), _get(record, "traceId")
    if observation is None and trace is None:
        return Skip("a score of a session or of a dataset run")
    key = f"trace:{trace}" if observation is None else f"observation:{observation}"
    if (right := _corrected(record)) is not None:
        return About(key, right=right)
    opinion = _personal(record, None)
    if opinion is None:
        return Skip("a score that no person gave, or of an unknown scale")
    return About(key, opinion=opinion)


def _corrected(score: dict[str, Any]) -> str | None:
    """The text of a corrected output; None where the score is none."""
    if str(_get(score, "dataType")).upper() != "CORRECTION" or score.get("name") != "output":
        return None
    texts = (_get(score, "longStringValue"), _get(score, "stringValue"), score.get("value"))
    text = next((text for text in texts if isinstance(text, str) and text.strip()), None)
    if text is None:
        raise Unreadable("a corrected output without text")
    return text


def _personal(score: dict[str, Any], user: str | None) -> Opinion | None:
    """What a person made of it; None where it is something else."""
    name, source = str(score.get("name") or ""), str(score.get("source") or "").upper()
    if source == "EVAL" or not (PERSONAL.search(name) or source == "ANNOTATION"):
        return None
    given = _get(score, "stringValue")
    value = score.get("value") if given is None else given
    if str(_get(score, "dataType")).upper() == "BOOLEAN" and value in (0, 1, "0", "1"):
        value = bool(int(value))
    found = opinion_of(value, reason=text_of(score.get("comment")), user=user)
    return None if found is None else found._replace(ts=time_of(score.get("timestamp")))


def _opinions(record: dict[str, Any], user: str | None) -> tuple[list[Opinion], str | None]:
    """The scores and comments inside a trace or an observation, and its corrected output."""
    found: list[Opinion] = []
    right = None
    scores = _value(record.get("scores"))
    if isinstance(scores, dict):  # by name, each a list of values
        scores = [{"name": name, "value": value} for name, value in scores.items()]
    columns = [{"name": k, "value": v} for k, v in record.items() if _is_score_column(k)]
    for score in [*(scores if isinstance(scores, list) else []), *columns]:
        if not isinstance(score, dict):
            continue
        right = _corrected(score) or right
        values = _value(score.get("value"))
        for value in values if isinstance(values, list) else [values]:
            if (opinion := _personal(score | {"value": value}, user)) is not None:
                found.append(opinion)
    comments = _value(record.get("comments"))
    for comment in comments if isinstance(comments, list) else []:
        text = comment.get("content") if isinstance(comment, dict) else comment
        if isinstance(text, str) and text.strip():
            found.append(Opinion(reason=text))
    return found, right


def _is_score_column(name: str) -> bool:
    return name.casefold() not in ("userid", "user_id", "user") and bool(PERSONAL.search(name))
