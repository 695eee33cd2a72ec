"""inspect_ai's samples: `{"input": …, "target": …, "id": …, "metadata": …}`, JSONL, JSON or CSV.

How an answer is scored stands in inspect's task, which is a program, not in the samples: the
option `check` says it here. Several targets are alternatives, as for inspect's own scorers.

Source: inspect_ai's documentation of datasets (`json_dataset`, `csv_dataset`, `Sample`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from eval.goldimport.made import Maker, Refused, rendered, targets
from eval.goldimport.reading import rows_of

_KNOWN = ("input", "target", "id", "metadata", "choices", "sandbox", "files", "setup")
_NEEDS = {
    "choices": "choices: inspect's own template asks them",
    "sandbox": "sandbox: the answer is a program's work",
    "files": "files: the answer is a program's work",
    "setup": "setup: the answer is a program's work",
}


def read(maker: Maker) -> None:
    """Read the maker's file into it.

    Raises:
        GoldError: it cannot be read.
    """
    options = maker.options
    for number, (where, row) in enumerate(rows_of(maker.file), 1):
        if not isinstance(row, dict):
            maker.leave(where, "not a sample")
            continue
        try:
            for field, reason in _NEEDS.items():
                if row.get(field):
                    raise Refused(reason)
            asked = rendered(options.prompt, row) if options.prompt else row.get("input")
            target = rendered(options.target, row) if options.target else row.get("target")
            messages = _messages(asked)
            checks = targets(target, options.check)
        except Refused as refused:
            maker.leave(where, str(refused))
            continue
        for field in row:
            if field not in (*_KNOWN, options.slice):
                maker.note(f"field {field}")
        given = row.get("id")
        maker.add(
            where,
            id=maker.id(number) if given in (None, "") else str(given),
            messages=messages,
            checks=checks,
            facts=row,
        )


def _messages(given: Any) -> list[dict[str, Any]]:
    if isinstance(given, str) and given.strip():
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise Refused("no input")
    return [_message(one) for one in given]


def _message(one: Any) -> dict[str, Any]:
    """A message of inspect as OpenAI writes it."""
    if not isinstance(one, Mapping) or "role" not in one:
        raise Refused("an input that is no chat")
    content = one.get("content")
    if isinstance(content, list):
        kinds = {part.get("type") if isinstance(part, Mapping) else "?" for part in content}
        if kinds != {"text"}:
            raise Refused(f"content of the kind {', '.join(sorted(map(str, kinds - {'text'})))}")
        content = [{"type": "text", "text": part.get("text", "")} for part in content]
    message: dict[str, Any] = {"role": one["role"], "content": content}
    if one.get("tool_call_id"):
        message["tool_call_id"] = one["tool_call_id"]
    if calls := one.get("tool_calls"):
        message["tool_calls"] = [_call(call) for call in calls]
    return message


def _call(call: Any) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise Refused("a tool call that is none")
    function = call.get("function")
    if isinstance(function, Mapping):  # as OpenAI writes it
        return dict(call)
    arguments = call.get("arguments") or {}
    said = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    made = {"name": function, "arguments": said}
    return {"id": call.get("id", ""), "type": "function", "function": made}
