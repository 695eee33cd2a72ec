"""The loss on pairs that were not trained on, of the base model and with the adapter.

It says whether the adapter learned more than the very words of its pairs. The gate decides
whether a version is any good, on questions of its own; this number decides nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from train.data import Row

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
    model = trainer.model
    was_training = model.training
    model.eval()
    try:
        with model.disable_adapter():
            before, tokens = _sum(trainer, rows)
        after, _ = _sum(trainer, rows)
    finally:
        model.train(was_training)
    return HeldOut(len(rows), tokens, round(before / tokens, 6), round(after / tokens, 6))


def _sum(trainer: Any, rows: list[Row]) -> tuple[float, int]:
    """Loss of all answers together, nats, and their tokens."""
    import torch

    model, total, tokens = trainer.model, 0.0, 0
    for row in rows:
        answer = torch.tensor(row.ids[row.prompt :], device=model.device)
        ids = torch.tensor([row.ids], device=model.device)
        with torch.inference_mode(), trainer.compute_loss_context_manager():
            # The position before each token predicts it; logits of the prompt are not needed.
            logits = model(input_ids=ids, logits_to_keep=len(answer) + 1).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits.float(), answer, reduction="sum")
        total += float(loss)
        tokens += len(answer)
    return total, tokens
