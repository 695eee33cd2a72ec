"""Pairs as tokens on the chat templates that TRL ships for Qwen models, loaded where it lies.

`test_train_data.py` has the same structures in short templates; here are the real ones, with
everything that a stored request can have: a system prompt, tools, calls and answers of tools,
several turns, thinking on and off.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tiny import embedded_model

from ledger.dataset import Pair
from train import data
from train.render import Renderer

HASH = "fw1:template:here"
NAMES = ["qwen2_5", "qwen3", "qwen3_5_think", "qwen3_5_nothink", "qwen3_6"]
KWARGS = [None, {"enable_thinking": False}, {"enable_thinking": True}]
TOOL = {
    "type": "function",
    "function": {
        "name": "find_order",
        "description": "finds an order",
        "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}},
    },
}
CALL = {
    "id": "call-1",
    "type": "function",
    "function": {"name": "find_order", "arguments": '{"number": 17}'},
}


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    from transformers import AutoTokenizer

    spec = find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "chat_templates"
    found = {}
    for name in NAMES:
        found[name] = AutoTokenizer.from_pretrained(embedded_model())
        found[name].chat_template = (folder / f"{name}.jinja").read_text(encoding="utf-8")
    return found


def pairs() -> list[Pair]:
    conversations: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": "Where is my parcel?"}],
        [
            {"role": "system", "content": "Answer with a queue."},
            {"role": "user", "content": "Where is my parcel?"},
        ],
        [
            {"role": "user", "content": "1 + 1?"},
            {"role": "assistant", "content": "<think>\neasy\n</think>\n\n3"},
            {"role": "user", "content": "Sure?"},
        ],
        [
            {"role": "system", "content": "Use tools."},
            {"role": "user", "content": "Where is order 17?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call-1", "content": '{"place": "Ghent"}'},
        ],
    ]
    return [
        Pair(
            row_id=f"row-{number}",
            messages=[*messages, {"role": "assistant", "content": "It is on its way."}],
            tools=[TOOL] if number == 3 else None,
            template_hash=HASH,
            source="user",
            author="someone",
            answered_by="support@v1",
        )
        for number, messages in enumerate(conversations)
    ]


@pytest.mark.parametrize("kwargs", KWARGS, ids=["default", "off", "on"])
@pytest.mark.parametrize("name", NAMES)
def test_each_row_is_what_serving_sees_and_should_have_said(
    tokenizers: dict[str, Any], name: str, kwargs: dict[str, Any] | None
) -> None:
    tokenizer = tokenizers[name]
    given = [one.model_copy(update={"chat_template_kwargs": kwargs}) for one in pairs()]
    found = data.prepare(given, tokenizer, 2048, HASH)
    assert not found.problems
    assert found.end_of_turn == "<|im_end|>"
    renderer = Renderer(tokenizer)
    for one, row in zip(given, found.rows, strict=True):
        prompt = renderer.prompt(one.prompt, one.tools, kwargs)
        served = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert row.ids[: len(served)] == row.served == served
        trained = [i for i in row.labels if i != -100]
        assert tokenizer.decode(trained) == "It is on its way.<|im_end|>"
        assert row.labels[row.prompt :] == trained
        # No answer is trained inside a think block that is still open.
        before = tokenizer.decode(row.ids[: row.prompt])
        assert before.count("<think>") <= before.count("</think>"), before[-80:]
        assert bool(row.closing) == prompt.endswith("<think>\n")


def test_the_four_templates_differ_where_it_hurts(tokenizers: dict[str, Any]) -> None:
    """What makes the cases above different: without these the tests would show nothing."""
    (one, *_) = pairs()

    def ends(name: str, **kwargs: Any) -> str:
        return Renderer(tokenizers[name]).prompt(one.prompt, None, kwargs)[-22:]

    assert ends("qwen2_5").endswith("<|im_start|>assistant\n")
    assert ends("qwen3").endswith("<|im_start|>assistant\n")
    assert ends("qwen3", enable_thinking=False).endswith("<think>\n\n</think>\n\n")
    assert ends("qwen3_5_think").endswith("<think>\n")
    assert ends("qwen3_5_nothink").endswith("</think>\n\n")
    assert Renderer(tokenizers["qwen3_5_think"]).reads_parts
    whole = Renderer(tokenizers["qwen3"]).whole(one.messages)
    assert "<think>\n\n</think>\n\nIt is" in whole
    # As serving writes it there is no such block, so the row says so.
    (notes,) = data.prepare([one], tokenizers["qwen3"], 512, HASH).notes.values()
    assert "<think>" in notes["row-0"]


def test_tools_and_their_answers_are_in_the_prompt(tokenizers: dict[str, Any]) -> None:
    for name, tokenizer in tokenizers.items():
        (row,) = data.prepare(pairs()[3:], tokenizer, 2048, HASH).rows
        prompt = tokenizer.decode(row.served)
        assert "find_order" in prompt.split("Where is order")[0], name
        assert "17" in prompt.split("Where is order 17?")[1], name
        assert "Ghent" in prompt, name


def test_a_correction_that_calls_a_tool_is_refused_by_name(tokenizers: dict[str, Any]) -> None:
    (*_, given) = pairs()
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    asked = given.model_copy(update={"messages": [*given.prompt[:2], call]})
    found = data.prepare([asked], tokenizers["qwen3"], 2048, HASH)
    assert found.problems == {
        "no answer": {"row-3": "the last message calls tools; only text can be trained on"}
    }
