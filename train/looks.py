"""Looks at the held-out pairs while training: their loss, the best adapter so far, when to stop.

Every so many steps the loss on the held-out slice is measured. A look is worse than the best one
where its loss is clearly higher, pair by pair (`clearly_worse`): the lowest of ten noisy numbers is
luck, and the steps after it, with a learning rate that goes down to zero, are worth more. Training
stops when `patience` looks in a row are worse. The adapter of the best look is what remains if the
last look is worse than it, else the last step's. On fewer than `LEAST` held-out pairs the looks are
only reported.

A run that was killed goes on as if nothing had happened: `looks.json` beside the checkpoints has
each look with its step, and the adapters of the best one now and of the best one at the last
checkpoint are kept, so looks after the checkpoint can be forgotten and taken again.

    checkpoints/looks.json            every look
    checkpoints/best-<step>/          the adapter of a best look
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ledger.files import write_json
from train import adapter, heldout
from train.data import Row
from train.trainer import MARKER

#: Held-out pairs from which on training stops by them.
LEAST = 16
FILE = "looks.json"
# Standard errors of a paired difference: at sixteen pairs chance exceeds them once in twenty times.
_CLEARLY = 1.75


class Look(NamedTuple):
    """Loss on the held-out pairs after a step, nats a token of their answers.

    Attributes:
        losses: of each pair's answer, nats.
    """

    step: int
    loss: float
    losses: list[float]


def clearly_worse(look: Look, best: Look) -> bool:
    """Whether a look's loss is above another's by more than chance brings about.

    A paired t-test over the held-out pairs, one-sided at 5 %.
    """
    differences = [a - b for a, b in zip(look.losses, best.losses, strict=True)]
    middle = statistics.fmean(differences)
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return middle > _CLEARLY * error


class Looks(TrainerCallback):
    """Takes the looks; see the module.

    Args:
        folder: of the checkpoints.
        rows: the held-out examples; without any nothing is looked at.
        every: steps between two looks; the last step is looked at, too.
        patience: worse looks in a row after which training stops; 0 keeps the last step.
        report: told about each look, and whether it is the best so far.

    Attributes:
        looks: all, in order.
        stopped: whether training was ended before its last planned step.
        trainer: to be set before training.
    """

    def __init__(
        self,
        folder: Path,
        rows: list[Row],
        *,
        every: int,
        patience: int,
        report: Callable[[Look, bool], None],
    ) -> None:
        self._folder, self._rows, self._every = folder, rows, every
        self._patience = patience if len(rows) >= LEAST else 0
        self._report = report
        self.looks: list[Look] = []
        self.stopped = False
        self.trainer: Any = None

    @property
    def best(self) -> Look | None:
        """The look with the lowest loss; None where looks decide nothing."""
        if not self._patience or not self.looks:
            return None
        return min(self.looks, key=lambda look: look.loss)

    def resume(self, step: int) -> bool:
        """Take up the looks up to a checkpoint; False where they are not all there."""
        try:
            found = json.loads((self._folder / FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            found = []
        # Those of an earlier release, without the losses of the pairs, count as not there.
        whole = [Look(*one) for one in found if len(one) == len(Look._fields)]
        self.looks = [look for look in whole if look.step <= step]
        due = {*range(self._every, step + 1, self._every)} if self._rows else set()
        there = {look.step for look in self.looks}
        best = self.best
        return due <= there and (best is None or self._path(best.step).is_dir())

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Look, where it is time to."""
        step = state.global_step
        if not self._rows or (step % self._every and step != state.max_steps):
            return
        losses = self._agreed(heldout.losses(self.trainer, self._rows))
        look, before = Look(step, heldout.mean(losses, self._rows), losses), self.best
        self.looks.append(look)
        better = self._patience > 0 and self.best == look and before != look
        if better:
            adapter.write(self.trainer.model, self._path(step), "")
        if args.process_index == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._folder / FILE, self.looks)
            self._tidy()
        self._report(look, better)
        # To the trackers, under the name that transformers' own evaluation has. The handler takes
        # the step's own log for done then, and it is not.
        due = control.should_log
        self.trainer.callback_handler.on_log(args, state, control, {"eval_loss": look.loss})
        control.should_log = due
        best = self.best
        if best is None or step == state.max_steps:
            return
        last = self.looks[-self._patience :]
        if len(last) == self._patience and all(clearly_worse(one, best) for one in last):
            self.stopped = control.should_training_stop = True

    def keep_best(self) -> int | None:
        """Give the model the adapter of the best look if the last one is worse.

        Returns:
            The best look's step; None where the last step is kept.
        """
        best = self.best
        if best is None or not clearly_worse(self.looks[-1], best):
            return None
        adapter.read(self.trainer.model, self._path(best.step))
        return best.step

    def _agreed(self, losses: list[float]) -> list[float]:
        """The first process's numbers: others may differ in the last digits, and then decide."""
        accelerator = self.trainer.accelerator
        if accelerator.num_processes == 1:
            return losses
        import torch

        mine = torch.tensor(losses, dtype=torch.float64, device=accelerator.device)
        agreed: list[float] = accelerator.gather(mine)[: len(losses)].tolist()
        return agreed

    def _path(self, step: int) -> Path:
        return self._folder / f"best-{step}"

    def _tidy(self) -> None:
        """Remove adapters that are neither the best now nor the best at the last checkpoint."""
        saved = [
            json.loads(file.read_text(encoding="utf-8"))["step"]
            for file in self._folder.glob(f"checkpoint-*/{MARKER}")
        ]
        until = [look for look in self.looks if look.step <= max(saved, default=0)]
        kept = {min(some, key=lambda look: look.loss).step for some in (self.looks, until) if some}
        for folder in self._folder.glob("best-*"):
            if folder.name.removeprefix("best-") not in map(str, kept):
                shutil.rmtree(folder, ignore_errors=True)
