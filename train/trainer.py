"""TRL's SFTTrainer with what this project needs of it: checkpoints that are known to be whole,
a stop at the end of a step, and steps that are cut into forward passes (`train.fast`).

Imports torch, transformers and trl: only a training process imports this module.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from ledger.errors import FlywheelError
from ledger.files import write_json
from train.fast import linear, setup
from train.fast.launch import Processes
from train.fast.passes import Collate, Cut
from train.progress import StepReport, Stop

MARKER = "flywheel.json"


class WholeCheckpoints:
    """For any of TRL's trainers: a checkpoint that cannot be written is named, and has no card."""

    args: Any

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: checkpoints need no card, and versions get theirs from `train.card`."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        except (OSError, SafetensorError, RuntimeError) as error:  # torch.save raises the last
            raise FlywheelError(
                f"a checkpoint cannot be written to {self.args.output_dir}: {error}",
                remedy="Free some disk space and run the same command: it resumes from the last "
                "checkpoint that is whole.",
            ) from error


class Trainer(WholeCheckpoints, SFTTrainer):
    """SFTTrainer whose step is a set of rows, cut into forward passes as the memory allows.

    Args:
        cut: how steps are cut, and by how many processes.
        step_rows: rows of a step, over all processes.
        kernels: see `train.fast.kernels`.
        packing: `auto` or `never`.
        lora: see `train.fast.linear.fuse`.
        **given: of SFTTrainer. The model's attention is that of `train.fast.setup`, the dataset has
            `input_ids` and `labels`, in the order of training.

    Attributes:
        fast: what the model got of `train.fast`.
    """

    def __init__(
        self,
        *,
        cut: Cut,
        step_rows: int,
        kernels: str = "none",
        packing: str = "auto",
        lora: str = "auto",
        **given: Any,
    ) -> None:
        self._step_rows = step_rows
        super().__init__(**given)
        # Training wraps the model later, so it is still PEFT's here.
        self.fast = setup.prepare(self.model, kind=kernels, packing=packing, lora=lora)
        self._collate = Collate(
            cut._replace(
                packed=self.fast.packed,
                processes=self.accelerator.num_processes,
                rank=self.accelerator.process_index,
            )
        )

    def get_train_dataloader(self) -> Any:
        """Steps of rows in their order; each process gets all of them and takes its passes.

        accelerate would hand whole batches to the processes, and fill the last ones up with rows
        that were seen already.
        """
        return torch.utils.data.DataLoader(
            self.train_dataset,
            batch_size=self._step_rows,
            shuffle=False,
            collate_fn=self._collate,
            # The next step's rows are made ready while a GPU works; on the CPU they would only
            # take a core from it.
            num_workers=int(self.accelerator.device.type == "cuda"),
            prefetch_factor=4 if self.accelerator.device.type == "cuda" else None,
            pin_memory=False,
        )

    def training_step(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Any:
        """Forward and backward of all passes of a step.

        Returns:
            The mean negative log-likelihood of the step's answer tokens, nats; with several
            processes that of their mean.
        """
        model.train()
        passes, items = inputs["passes"], inputs["items"]
        # Gradients of processes are averaged, and so are losses when they are logged.
        share = self.accelerator.num_processes / max(1, items)
        total = torch.zeros((), device=self.accelerator.device)
        with linear.copied(self.model):
            for number, one in enumerate(passes):
                last = number == len(passes) - 1
                with nullcontext() if last else self.accelerator.no_sync(model):
                    with self.compute_loss_context_manager():
                        loss = model(**self._prepare_input(one)) * share
                    self.accelerator.backward(loss)
                total += loss.detach()
        return total

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: transformers would look for one batch."""
        return 0


class Watch(TrainerCallback):
    """Reports each step, stops when asked, marks checkpoints that are whole.

    Args:
        recipe: hash of what is being trained; written into each checkpoint.
        step_tokens: tokens of each step of the run, padding not counted.
        seconds: training time of earlier parts of this run.
        processes: those that train together.
    """

    def __init__(
        self,
        recipe: str,
        step_tokens: list[int],
        seconds: float,
        stop: Stop,
        report: Callable[[StepReport], None],
        processes: Processes | None = None,
    ) -> None:
        self._processes = processes
        self.recipe, self.step_tokens, self.stop, self.report = recipe, step_tokens, stop, report
        self.seconds = seconds
        self._mark = time.perf_counter()
        self._here = 0.0
        self._tokens = 0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the step's clock."""
        self._mark = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count the step, and stop where that was asked for."""
        passed = time.perf_counter() - self._mark
        self.seconds += passed
        self._here += passed
        self._tokens += self.step_tokens[state.global_step - 1]
        asked = self.stop.asked
        if self._processes is not None:
            asked = self._processes.any(asked)  # all stop after the same step, or none
        if asked and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Report the step.

        Raises:
            FlywheelError: the loss is no number.
        """
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if loss != loss or loss == float("inf"):
            raise FlywheelError(
                f"the loss is {loss} at step {state.global_step}",
                rule="From there on every weight of the adapter would be noise.",
                remedy="Lower train.learning_rate and train again in a new run.",
            )
        speed = self._tokens / self._here
        left = sum(self.step_tokens[state.global_step :]) / speed
        self.report(StepReport(state.global_step, state.max_steps, loss, speed, left))

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mark the checkpoint as whole; everything in it is written by now."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_json(
            folder / MARKER,
            {"recipe": self.recipe, "step": state.global_step, "seconds": self.seconds},
        )


def last_checkpoint(folder: Path, recipe: str) -> tuple[Path, float] | None:
    """The newest whole checkpoint of a recipe, and the training seconds behind it.

    One without its marker was cut off while it was written; one of another recipe belongs to
    settings or data that have changed since. Neither is used.
    """
    found: list[tuple[int, Path, float]] = []
    for file in folder.glob(f"checkpoint-*/{MARKER}"):
        marker = json.loads(file.read_text(encoding="utf-8"))
        if marker["recipe"] == recipe:
            found.append((marker["step"], file.parent, marker["seconds"]))
    if not found:
        return None
    _, path, seconds = max(found)
    return path, seconds
