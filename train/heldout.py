"""The loss on pairs that were not trained on, of the base model and with the adapter.

It says whether the adapter learned more than the very words of its pairs, and when to stop
(`train.looks`). The gate decides whether a version is any good, on questions of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from train.data import Row
from train.measure import batches, evaluating, score, vocabulary

#: Pairs that are looked at, the first of the dataset; they cost a fraction of a training step each.
MOST = 64


class HeldOut(NamedTuple):
    """Mean loss on the answers of held-out pairs, nats a token; `tokens` of them in `pairs`."""

    pairs: int
    tokens: int
    before: float
    after: float


def measure(trainer: Any, rows: list[Row]) -> HeldOut | None:
    """Measure; None where nothing was held out.

    Args:
        trainer: TRL's, after training; its model is a PEFT model.
        rows: of `train.data.prepare`.
    """
    if not rows:
        return None
    with trainer.model.disable_adapter():
        before = loss(trainer, rows)
    return HeldOut(
        len(rows), sum(len(row.ids) - row.prompt for row in rows), before, loss(trainer, rows)
    )


def loss(trainer: Any, rows: list[Row]) -> float:
    """Mean loss on the answers, nats a token, with the adapter as it is on now."""
    return mean(losses(trainer, rows), rows)


def mean(found: list[float], rows: list[Row]) -> float:
    """Nats a token, from the nats of each row's answer."""
    return round(sum(found) / sum(len(row.ids) - row.prompt for row in rows), 6)


def losses(trainer: Any, rows: list[Row]) -> list[float]:
    """Loss on each row's answer, nats, summed over its tokens; in the order of the rows."""
    import torch

    found: dict[str, float] = {}
    with evaluating(trainer.model):
        for batch in batches(rows, vocabulary(trainer.model)):
            scored = score(trainer, batch)
            each = torch.nn.functional.cross_entropy(
                scored.logits.float(), scored.targets, reduction="none"
            )
            parts = each.split([len(row.ids) - row.prompt for row in batch])
            found |= {row.row_id: float(part.sum()) for row, part in zip(batch, parts, strict=True)}
    return [found[row.row_id] for row in rows]
