"""TRL's DPOTrainer and KTOTrainer, fed with ids that are proved already.

Imports torch, transformers and trl: only a training process imports this module.

TRL keeps a frozen copy of the adapter it is given, named `ref`, beside the one that it trains, and
takes it for the reference. transformers writes both into a checkpoint, but reads only `ref` back;
here the trained one is read back (`_load_from_checkpoint`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from train import adapter
from train.trainer import WholeCheckpoints

if TYPE_CHECKING:
    from train.preference.examples import Example


class _Ready(WholeCheckpoints):
    """What both trainers share."""

    model: Any

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        """The dataset as it is: its ids are proved."""
        return dataset

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Read the trained adapter back; the reference is what the first stage left."""
        adapter.read(self.model if model is None else model, Path(resume_from_checkpoint))


class Dpo(_Ready, DPOTrainer):
    """DPO on proved ids."""


class Kto(_Ready, KTOTrainer):
    """KTO on proved ids."""


def columns(planned: list[Example], batch_size: int) -> dict[str, list[Any]]:
    """The columns that TRL's collators read, in the planned order.

    For KTO each example also gets the answer of its neighbour in the batch, from which TRL
    estimates the KL term.
    """
    found: dict[str, list[Any]] = {"prompt_ids": [one.prompt for one in planned]}
    if all(one.chosen is not None and one.rejected is not None for one in planned):
        found["chosen_ids"] = [one.chosen for one in planned]
        found["rejected_ids"] = [one.rejected for one in planned]
        return found
    answers = [one.chosen or one.rejected for one in planned]
    batches = (answers[start : start + batch_size] for start in range(0, len(answers), batch_size))
    found["completion_ids"] = answers
    found["KL_completion_ids"] = [
        answer for batch in batches for answer in (batch[-1], *batch[:-1])
    ]
    found["label"] = [one.chosen is not None for one in planned]
    return found


def _dpo(model: Any, given: dict[str, Any], dataset: Any, tokenizer: Any, beta: float) -> Any:
    """An edit is better than what it replaces, and is what should be said."""
    return Dpo(
        model=model,
        args=DPOConfig(**given, beta=beta, loss_type=["sigmoid", "sft"]),
        train_dataset=dataset,
        processing_class=tokenizer,
    )


def _kto(model: Any, given: dict[str, Any], dataset: Any, tokenizer: Any, beta: float) -> Any:
    """Desirable and undesirable answers weigh the same in all, as KTO's paper advises."""
    good = sum(dataset["label"])
    bad = len(dataset) - good
    weights = {"desirable_weight": bad / good if good > bad else 1.0,
               "undesirable_weight": good / bad if bad > good else 1.0}  # fmt: skip
    return Kto(
        model=model,
        args=KTOConfig(**given, beta=beta, **weights),
        train_dataset=dataset,
        processing_class=tokenizer,
    )


#: Makes a trainer by the name of its method.
MAKE = {"dpo": _dpo, "kto": _kto}
