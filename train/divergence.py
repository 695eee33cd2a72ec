"""How far an adapter has moved the model from its base: KL(adapter ‖ base), nats a token.

Exact over the vocabulary at each position, averaged over the positions of stored answers: answers
that were good already and are replayed, and answers of held-out pairs. Where there are neither,
the answers that were trained on. Positions are those of the stored text, not of text that the
adapter writes itself, so it says how much is changed where the model was right (replay) and where
it was wrong (held out); a large value on replayed answers is forgetting.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from train.data import Row
from train.measure import batches, evaluating, score, vocabulary

#: Rows of a kind that are looked at, the first of the dataset.
MOST = 32
_CHUNK = 64  # positions whose distributions are held at once, in float64


class Divergence(NamedTuple):
    """Mean KL to the base, nats a token, over `tokens` of `pairs`; `most` is that of one token."""

    pairs: int
    tokens: int
    mean: float
    most: float


def rows_to_measure(replay: list[Row], held: list[Row], trained: list[Row]) -> dict[str, list[Row]]:
    """The rows by what they are, at most `MOST` of each."""
    found = {"replay": replay[:MOST], "heldout": held[:MOST]}
    if not replay and not held:
        found["trained"] = trained[:MOST]
    return {name: rows for name, rows in found.items() if rows}


def measure(trainer: Any, rows: dict[str, list[Row]]) -> dict[str, Divergence]:
    """The divergence on each kind of row.

    Args:
        trainer: TRL's; its model is a PEFT model.
    """
    with evaluating(trainer.model):
        return {name: _divergence(trainer, some) for name, some in rows.items()}


def _divergence(trainer: Any, rows: list[Row]) -> Divergence:
    import torch

    model, total, most, tokens = trainer.model, 0.0, 0.0, 0
    for batch in batches(rows, vocabulary(model)):
        with model.disable_adapter():
            base = score(trainer, batch).logits
        adapted = score(trainer, batch).logits
        for start in range(0, len(base), _CHUNK):
            part = slice(start, start + _CHUNK)
            p = torch.log_softmax(adapted[part].double(), dim=-1)
            q = torch.log_softmax(base[part].double(), dim=-1)
            each = (p.exp() * (p - q)).sum(dim=-1)
            total += float(each.sum())
            most = max(most, float(each.max()))
        tokens += len(base)
    return Divergence(len(rows), tokens, round(total / tokens, 6), round(most, 6))
