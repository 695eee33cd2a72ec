"""TRL's SFTTrainer with what this project needs of it: checkpoints that are known to be whole,
a stop at the end of a step, and on the CPU a loss that spares the LM head the prompt's tokens.

Imports torch, transformers and trl: only a training process imports this module.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from ledger.errors import FlywheelError
from ledger.files import write_json
from train.progress import StepReport, Stop

MARKER = "flywheel.json"
# Above this many logits in one batch (values, not bytes) TRL's tiles are kinder to the memory.
_MOST_LOGITS = 1 << 27


class Trainer(SFTTrainer):
    """SFTTrainer; see the module."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The mean negative log-likelihood of the labelled tokens, nats.

        TRL's own head scores only labelled positions on a GPU, but every position on the CPU;
        with a large vocabulary and short answers that is half of the time. There the model is
        asked for the logits of those columns in which some row of the batch has a label: the
        same sum over the same tokens.
        """
        labels = inputs["labels"][:, 1:]
        columns = (labels != -100).any(dim=0).nonzero().flatten()
        logits = labels.shape[0] * len(columns) * self.model.config.get_text_config().vocab_size
        if (
            labels.device.type != "cpu"
            or return_outputs
            or num_items_in_batch is None
            or not model.training
            or not len(columns)
            or logits > _MOST_LOGITS
        ):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**inputs, use_cache=False, logits_to_keep=columns)
        total = torch.nn.functional.cross_entropy(
            outputs.logits.float().flatten(0, 1),
            labels[:, columns].flatten(),
            ignore_index=-100,
            reduction="sum",
        )
        # With several processes the count is that of all of them, and gradients are averaged.
        return total / num_items_in_batch * self.accelerator.num_processes

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: checkpoints need no card, and versions get theirs from `train.card`."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as error:  # torch.save raises the last
            raise FlywheelError(
                f"a checkpoint cannot be written to {self.args.output_dir}: {error}",
                remedy="Free some disk space and run the same command: it resumes from the last "
                "checkpoint that is whole.",
            ) from error


class Watch(TrainerCallback):
    """Reports each step, stops when asked, marks checkpoints that are whole.

    Args:
        recipe: hash of what is being trained; written into each checkpoint.
        step_tokens: tokens of each step of the run, padding not counted.
        seconds: training time of earlier parts of this run.
    """

    def __init__(
        self,
        recipe: str,
        step_tokens: list[int],
        seconds: float,
        stop: Stop,
        report: Callable[[StepReport], None],
    ) -> None:
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
        if self.stop.asked and state.global_step < state.max_steps:
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
