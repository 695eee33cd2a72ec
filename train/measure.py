"""Logits at the answers of examples, in batches: what losses and divergences are measured on.

Nothing random is drawn and no gradient kept, so measuring in the middle of a run changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from train.data import Row

if TYPE_CHECKING:
    import torch

# Logits of one forward pass (values, not bytes): 2**26 are 128 MiB in bfloat16.
_MOST_LOGITS = 1 << 26
_MOST_ROWS = 16


class Scored(NamedTuple):
    """`logits` [tokens, vocabulary] that predict `targets` [tokens], the answers of some rows."""

    logits: torch.Tensor
    targets: torch.Tensor


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model without dropout, and as it was afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def batches(rows: list[Row], vocabulary: int) -> Iterator[list[Row]]:
    """Rows of like length together, no more than memory takes."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: (len(row.ids), row.row_id)):
        widest = max((len(one.ids) - one.prompt for one in [*batch, row]), default=0)
        full = (len(batch) + 1) * widest * vocabulary > _MOST_LOGITS
        if batch and (full or len(batch) == _MOST_ROWS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def score(trainer: Any, batch: list[Row]) -> Scored:
    """One forward pass over a batch, with the adapter as it is on now."""
    import torch

    model = trainer.model
    longest = max(len(row.ids) for row in batch)
    # Filled up on the right: nothing looks ahead, so no mask is needed, whatever the attention.
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for number, row in enumerate(batch):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        labels[number, row.prompt : len(row.ids)] = torch.tensor(row.ids[row.prompt :])
    # The position before each token predicts it; other columns need no logits.
    wanted = labels[:, 1:] != -100
    columns = wanted.any(dim=0).nonzero().flatten()
    device = model.device
    with torch.inference_mode(), trainer.compute_loss_context_manager():
        found = model(
            input_ids=ids.to(device),
            logits_to_keep=columns.to(device),
            use_cache=False,
        ).logits
    here = wanted[:, columns]
    targets = labels[:, 1:][:, columns][here]
    return Scored(found[here.to(device)], targets.to(device))


def vocabulary(model: Any) -> int:
    """How many logits a position has."""
    size: int = model.config.get_text_config().vocab_size
    return size
