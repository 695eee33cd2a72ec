"""The four request bodies: what a row keeps of each, and that none of them breaks it."""

from __future__ import annotations

import json
import random
from typing import Any, get_args

import pytest

from ledger.dialects import BINARY, conversation
from ledger.records import Api, Interaction

PICTURE = "data:image/png;base64,iVBORw0KGgo="
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "track", "arguments": '{"order": 7}'},
}
TOOL = {
    "type": "function",
    "function": {"name": "track", "description": "Finds it", "parameters": {"type": "object"}},
}
# One conversation, in the three dialects that have roles.
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is it?"},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "At the depot"},
        {"role": "user", "content": "And now?"},
    ],
    "tools": [TOOL],
}
RESPONSES = {
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Where is it?"}]},
        {"type": "reasoning", "summary": []},
        {
            "type": "function_call",
            "call_id": "call_1",
            "name": "track",
            "arguments": '{"order": 7}',
        },
        {"type": "function_call_output", "call_id": "call_1", "output": "At the depot"},
        {"type": "message", "role": "user", "content": "And now?"},
    ],
    "tools": [{"type": "function", **TOOL["function"]}, {"type": "web_search"}],  # type: ignore[dict-item]
}
MESSAGES = {
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Where is it?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "call_1", "name": "track", "input": {"order": 7}}
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "call_1",
                    "content": [{"type": "text", "text": "At the depot"}],
                },
                {"type": "text", "text": "And now?"},
            ],
        },
    ],
    "tools": [{"name": "track", "description": "Finds it", "input_schema": {"type": "object"}}],
}


@pytest.mark.parametrize(
    ("api", "body"), [("chat", CHAT), ("responses", RESPONSES), ("messages", MESSAGES)]
)
def test_one_conversation_reads_alike_in_every_dialect(api: Api, body: dict[str, Any]) -> None:
    found = conversation(api, body)
    assert found.messages == CHAT["messages"]
    assert found.tools == [TOOL]


def test_what_goes_with_a_request() -> None:
    body = {
        "messages": [],
        "model": "support",
        "temperature": 0.5,
        "seed": 7,
        "n": 2,
        "top_p": None,
        "top_k": True,
        "max_tokens": "many",
        "stop": ["a secret"],
        "stream": True,
        "metadata": {"segment": "gold"},
        "chat_template_kwargs": {"enable_thinking": False},
    }
    found = conversation("chat", body)
    assert found.sampling == {"temperature": 0.5, "seed": 7, "n": 2}
    assert found.metadata == {"segment": "gold"}
    assert found.chat_template_kwargs == {"enable_thinking": False}
    assert found.tools is None
    found = conversation("chat", {"metadata": "x", "chat_template_kwargs": [1], "tools": {}})
    assert found == ([], None, {}, None, None)


def test_parts_that_are_text_are_joined_and_others_replaced() -> None:
    text = [{"type": "text", "text": "a"}, "b", {"text": "c"}, {"type": "refusal", "refusal": "d"}]
    assert conversation("chat", {"messages": [{"role": "user", "content": text}]}).messages == [
        {"role": "user", "content": "a\nb\nc\nd"}
    ]
    mixed = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    assert conversation("chat", {"messages": [{"role": "user", "content": mixed}]}).messages == [
        {"role": "user", "content": f"look\n{BINARY}"}
    ]


@pytest.mark.parametrize(
    ("api", "part"),
    [
        ("chat", {"type": "image_url", "image_url": {"url": PICTURE}}),
        ("chat", {"type": "input_audio", "input_audio": {"data": PICTURE}}),
        ("chat", {"type": "file", "file": {"file_data": PICTURE}}),
        ("responses", {"type": "input_image", "image_url": PICTURE}),
        ("messages", {"type": "image", "source": {"type": "base64", "data": PICTURE}}),
    ],
)
@pytest.mark.parametrize("alone", [True, False], ids=["the content", "in a list"])
def test_pictures_and_sound_are_not_kept(api: Api, part: dict[str, Any], alone: bool) -> None:
    message = {"role": "user", "content": part if alone else [part]}
    body = {"input": [message]} if api == "responses" else {"messages": [message]}
    assert conversation(api, body).messages == [{"role": "user", "content": BINARY}]


def test_a_picture_that_a_tool_returns_is_not_kept() -> None:
    picture = {"type": "image", "source": {"data": PICTURE}}
    result = {"type": "tool_result", "tool_use_id": "c", "content": [picture]}
    found = conversation("messages", {"messages": [{"role": "user", "content": [result]}]})
    assert found.messages == [{"role": "tool", "tool_call_id": "c", "content": BINARY}]


@pytest.mark.parametrize(
    ("prompt", "index", "expected"),
    [
        ("Once", 0, "Once"),
        (["Once", "Twice"], 0, "Once"),
        (["Once", "Twice"], 1, "Twice"),
        (["Once"], 5, ""),
        ([1, 2, 3], 0, "[3 TOKENS]"),
        ([[1, 2], [3]], 1, "[1 TOKENS]"),
        ([], 0, "[0 TOKENS]"),
        (None, 0, ""),
        ({"x": 1}, 0, ""),
    ],
)
def test_text_completions(prompt: Any, index: int, expected: str) -> None:
    found = conversation("completions", {"prompt": prompt}, index)
    assert found.messages == [{"role": "user", "content": expected}]


def test_a_plain_responses_input_and_a_developer() -> None:
    found = conversation("responses", {"input": "hello"})
    assert found.messages == [{"role": "user", "content": "hello"}]
    developer = {"role": "developer", "content": "Be brief."}
    assert conversation("responses", {"input": [developer]}).messages == [
        {"role": "system", "content": "Be brief."}
    ]


def _value(draw: random.Random, depth: int) -> Any:
    """Some JSON value, with the words that the dialects look for."""
    words = [
        *("messages", "prompt", "input", "instructions", "system", "tools", "metadata"),
        *("chat_template_kwargs", "role", "content", "type", "text", "tool_use", "tool_result"),
        *("function", "function_call", "function_call_output", "name", "arguments", "call_id"),
        *("user", "assistant", "message", "input_schema", "parameters", "refusal", "temperature"),
    ]
    kind = draw.randrange(9 if depth else 6)
    if kind < 2:
        return draw.choice(words)
    if kind < 6:
        return draw.choice([None, True, 0, -1, 2.5, 10**30, "", "é\ud800"])
    if kind == 6:
        return [_value(draw, depth - 1) for _ in range(draw.randrange(4))]
    return {draw.choice(words): _value(draw, depth - 1) for _ in range(draw.randrange(6))}


@pytest.mark.parametrize("api", get_args(Api))
def test_no_body_breaks_it(api: Api) -> None:
    draw = random.Random(11)
    for _ in range(4000):
        body = _value(draw, 5)
        found = conversation(api, body, draw.randrange(3))
        json.dumps(found)
        Interaction(
            row_id="r",
            request_id="r",
            ts=1.0,
            api=api,
            version="v",
            base_model="b",
            **found._asdict(),
        )
