"""The same pairs in the forms that trainers take, as JSON values.

    sft   {"messages": […], "tools": […]}                      OpenAI's chat fine-tuning, TRL's SFT
    dpo   {"prompt": […], "chosen": […], "rejected": […]}      TRL's preference form
    kto   {"prompt": […], "completion": […], "label": true}    TRL's unpaired preference form

All are conversational: a prompt, an answer is a list of messages. `tools` is there where the
request had some. What was chosen is the correction, what was rejected the answer that it
corrects. A good answer that is replayed was never rejected, so it makes no line for DPO and only
the true one for KTO. One that was voted down makes the false one for KTO and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ledger.dataset import Pair


def sft(pair: Pair) -> Iterator[dict[str, Any]]:
    """One line: the conversation with what should have been said; none where that is not known."""
    if pair.kind != "disliked":
        yield {"messages": pair.messages} | _tools(pair)


def dpo(pair: Pair) -> Iterator[dict[str, Any]]:
    """One line, or none where no answer was rejected."""
    if (rejected := _rejected(pair)) is not None:
        said = {"chosen": pair.messages[-1:], "rejected": rejected}
        yield {"prompt": pair.prompt} | said | _tools(pair)


def kto(pair: Pair) -> Iterator[dict[str, Any]]:
    """A line for what is wanted, and one for what was rejected, where something was."""
    wanted = pair.kind != "disliked"
    yield {"prompt": pair.prompt, "completion": pair.messages[-1:], "label": wanted} | _tools(pair)
    if (rejected := _rejected(pair)) is not None:
        yield {"prompt": pair.prompt, "completion": rejected, "label": False} | _tools(pair)


VIEWS: dict[str, Callable[[Pair], Iterator[dict[str, Any]]]] = {"sft": sft, "dpo": dpo, "kto": kto}


def _rejected(pair: Pair) -> list[dict[str, Any]] | None:
    text = (pair.rejected or "").strip()
    return [{"role": "assistant", "content": text}] if text else None


def _tools(pair: Pair) -> dict[str, Any]:
    return {"tools": pair.tools} if pair.tools else {}
