"""The second stage: preferences from the same rows, on top of the adapter of the first stage.

    dpo  an edit is better than the answer that it replaces: TRL's DPO, loss_type ["sigmoid", "sft"]
    kto  edits and good answers are desirable, replaced answers are not, nor are answers that were
         voted down without an edit: TRL's KTO, each example by itself

The reference is the adapter as the first stage left it, on the base. Prompts and answers are
proved as those of the first stage are (`train.data`); TRL's own tokenising is not used. The
adapter of the first stage stays in RUN/sft, and a run makes one version: the second stage's.
Like any other it must win at the gate. "Principled Fine-tuning of LLMs from User-Edits" (arXiv
2601.19055) finds that neither kind of training wins everywhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ledger.dataset import Pair
from ledger.errors import ConfigError, DatasetError
from ledger.fingerprint import template_hash
from train import adapter, base, data, divergence, heldout, order, result
from train.job import Job
from train.load import arguments, load_model
from train.progress import StepReport, Stop
from train.result import Stage

_FEWEST = 8  # examples worth a second stage
#: Reasons why a row has no example.
NOTHING_REJECTED = "no answer was rejected"
SAME = "the rejected answer is the chosen one"


class Example(NamedTuple):
    """One example as ids: a prompt, and what was chosen and rejected; kto has one of the two."""

    row_id: str
    prompt: list[int]
    chosen: list[int] | None
    rejected: list[int] | None

    @property
    def size(self) -> int:
        """Tokens of its longest sequence."""
        return len(self.prompt) + max(len(self.chosen or ()), len(self.rejected or ()))

    @property
    def tokens(self) -> int:
        """Tokens of all its sequences."""
        return sum(len(self.prompt) + len(one) for one in (self.chosen, self.rejected) if one)


class Examples(NamedTuple):
    """The examples, and reason → row id → detail of rows that have none."""

    rows: list[Example]
    left_out: dict[str, dict[str, str]]


def examples(todo: Job) -> Examples:
    """The examples of the second stage, proved.

    Raises:
        ConfigError: the batches are too small for the method, or the processes too many.
        DatasetError: there are too few of them.
    """
    method = todo.settings.train.preference
    if method == "kto" and todo.settings.train.batch_size < 2:
        raise ConfigError(
            "train.preference is kto and train.batch_size 1",
            rule="KTO estimates the KL to the reference from the other examples of a batch.",
            remedy="Set train.batch_size to 2 or more.",
        )
    if todo.settings.train.processes > 1:
        raise ConfigError(
            f"train.preference is {method} and train.processes {todo.settings.train.processes}",
            rule="The second stage runs in one process.",
            remedy="Set train.processes to 1, or train.preference to none.",
        )
    left: dict[str, dict[str, str]] = {}
    chosen = {row.row_id: row for row in todo.prepared.rows}
    wanted = [todo.pairs[row_id] for row_id in chosen]
    rejected = _rejected(todo, [*wanted, *_votes(todo)], left)
    found: list[Example] = []
    if method == "dpo":
        for row_id, better in chosen.items():
            if (worse := rejected.get(row_id)) is None:
                continue
            if worse.ids[: better.prompt] != better.ids[: better.prompt]:
                left.setdefault("prompt is not the same", {})[row_id] = ""
                continue
            prompt = better.ids[: better.prompt]
            ids = [one.ids[one.prompt :] for one in (better, worse)]
            found.append(Example(row_id, prompt, *ids))
    else:
        for row in chosen.values():
            found.append(Example(row.row_id, row.ids[: row.prompt], row.ids[row.prompt :], None))
        for row in rejected.values():
            found.append(Example(row.row_id, row.ids[: row.prompt], None, row.ids[row.prompt :]))
    _enough(method, found)
    return Examples(found, left)


def _voted(pair: Pair) -> bool:
    return pair.kind == "disliked"


def _votes(todo: Job) -> list[Pair]:
    """Answers that were voted down, where they count."""
    if todo.settings.train.preference != "kto":
        return []
    return [pair for pair in todo.frozen if _voted(pair) and pair.split == "train"]


def _rejected(todo: Job, pairs: list[Pair], left: dict[str, dict[str, str]]) -> dict[str, data.Row]:
    """What was rejected of some pairs, as examples; the others are listed in `left`."""
    said: list[Pair] = []
    for pair in pairs:
        bad = pair.messages[-1].get("content") if _voted(pair) else pair.rejected
        text = str(bad or "").strip()
        if not text:
            left.setdefault(NOTHING_REJECTED, {})[pair.row_id] = (
                "it was good already" if pair.kind == "replay" else "the answer was empty"
            )
        elif not _voted(pair) and text == str(pair.messages[-1].get("content")).strip():
            left.setdefault(SAME, {})[pair.row_id] = ""
        else:
            answer = {"role": "assistant", "content": text}
            said.append(pair.model_copy(update={"messages": [*pair.prompt, answer]}))
    prepared = data.prepare(
        said,
        todo.tokenizer,
        todo.max_length,
        template_hash(todo.folder),
        stop_ids=base.stop_ids(todo.folder),
    )
    for reason, rows in prepared.problems.items():
        left.setdefault(f"rejected answer: {reason}", {}).update(rows)
    return {row.row_id: row for row in prepared.rows}


def _enough(method: str, found: list[Example]) -> None:
    """There is something to prefer.

    Raises:
        DatasetError: there is not.
    """
    bad = sum(one.rejected is not None for one in found)
    if bad < _FEWEST:
        raise DatasetError(
            f"train.preference is {method}, and {bad} answers of the dataset were rejected",
            rule=f"A second stage needs at least {_FEWEST}.",
            remedy="Collect more edits, or set train.preference to none.",
        )


def train(
    todo: Job,
    found: Examples,
    first: Path,
    chosen: str,
    stop: Stop,
    step: Callable[[StepReport], None],
    say: Callable[[str], None],
    *,
    checkpointing: bool = False,
) -> Stage:
    """Train the second stage, or go on with it, and write RUN/adapter.

    Args:
        first: folder of the first stage's adapter.
        chosen: the device.
        checkpointing: trade speed for memory, as the first stage had to.
    """
    from train.trainer import Watch, last_checkpoint

    options, recipe, method = todo.settings.train, todo.recipe, todo.settings.train.preference
    step_rows = options.batch_size * options.accumulation
    plan = order.plan(
        [one.size for one in found.rows],
        epochs=options.preference_epochs,
        step_rows=step_rows,
        seed=options.seed,
    )
    step_tokens = [
        sum(found.rows[i].tokens for i in plan[start : start + step_rows])
        for start in range(0, len(plan), step_rows)
    ]
    steps, identity = len(step_tokens), todo.second_identity
    checkpoints = todo.run_dir / f"checkpoints-{method}"
    resume = last_checkpoint(checkpoints, identity)
    if resume is None:
        shutil.rmtree(checkpoints, ignore_errors=True)
        say(f"{method} on {len(found.rows)} examples, learning rate "
            f"{recipe.preference_learning_rate:g}")  # fmt: skip
        for reason, rows in found.left_out.items():
            say(f"left out {len(rows)}: {reason}")
    else:
        say(f"resuming from {resume[0].name} of {steps} steps of {method}")
    watch = Watch(identity, step_tokens, resume[1] if resume else 0.0, stop, step)
    trainer = _trainer(
        todo, found.rows, first, checkpoints, chosen, plan, steps, checkpointing=checkpointing
    )
    measured = divergence.rows_to_measure(todo.replay, todo.held, todo.prepared.rows)
    # The first stage's adapter is on now, also where a checkpoint is to be read.
    before_kl = divergence.measure(trainer, measured)
    before = heldout.loss(trainer, todo.held) if todo.held else 0.0
    trainer.add_callback(watch)
    stop.between_steps = True
    trainer.train(resume_from_checkpoint=str(resume[0]) if resume else None)
    stop.between_steps = False
    done = trainer.state.global_step
    if done < steps:
        raise KeyboardInterrupt(
            f"stopped after step {done} of {steps} of {method}; a checkpoint was saved: run the "
            "same command again to go on"
        )
    after_kl = divergence.measure(trainer, measured)
    unseen = None
    if todo.held:
        tokens = sum(len(row.ids) - row.prompt for row in todo.held)
        after = heldout.loss(trainer, todo.held)
        unseen = heldout.HeldOut(len(todo.held), tokens, before, after)._asdict()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    stage = Stage(
        method=method,
        recipe=identity,
        examples=len(found.rows),
        left_out=found.left_out,
        steps=done,
        planned_steps=steps,
        loss=[float(log["loss"]) for log in logs],
        heldout=unseen,
        kl={
            name: {**one._asdict(), "before": before_kl[name].mean}
            for name, one in after_kl.items()
        },
        tokens=sum(step_tokens),
        seconds=round(watch.seconds, 3),
        adapter_parameters=adapter.write(
            trainer.model, todo.run_dir / result.ADAPTER, todo.settings.model.name
        ),
        details=_details(todo, logs),
    )
    shutil.rmtree(checkpoints, ignore_errors=True)
    return stage


def _details(todo: Job, logs: list[dict[str, Any]]) -> dict[str, Any]:
    """TRL's own numbers, of the first and the last step."""
    found: dict[str, Any] = {
        "beta": todo.settings.train.preference_beta,
        "learning_rate": todo.recipe.preference_learning_rate,
        "epochs": todo.settings.train.preference_epochs,
    }
    for name in ("rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected"):
        values = [float(log[name]) for log in logs if name in log]
        if values:
            key = name.replace("/", "_")
            found |= {f"{key}_first": round(values[0], 4), f"{key}_last": round(values[-1], 4)}
    return found


def _trainer(
    todo: Job,
    rows: list[Example],
    first: Path,
    checkpoints: Path,
    chosen: str,
    plan: list[int],
    steps: int,
    *,
    checkpointing: bool = False,
) -> Any:
    """TRL's trainer on the base with the first stage's adapter, over the planned order."""
    from datasets import Dataset
    from peft import PeftModel
    from transformers import PrinterCallback

    from train import preference_trainer

    settings, options = todo.settings, todo.settings.train
    model = load_model(settings, todo.folder, chosen, max(row.size for row in rows))
    model = PeftModel.from_pretrained(model, first, is_trainable=True)
    # It names the base as the server calls it, which PEFT would look for on the hub.
    model.peft_config["default"].base_model_name_or_path = str(todo.folder)
    make = preference_trainer.MAKE[options.preference]
    planned = [rows[i] for i in plan]
    given = arguments(
        settings,
        checkpoints,
        chosen,
        steps=steps,
        rate=todo.recipe.preference_learning_rate,
    )
    given["gradient_checkpointing"] = checkpointing or options.gradient_checkpointing
    try:
        trainer = make(
            model,
            given,
            Dataset.from_dict(preference_trainer.columns(planned, options.batch_size)),
            todo.tokenizer,
            options.preference_beta,
        )
    except ValueError as error:
        raise ConfigError(f"TRL or PEFT refuses the settings: {error}") from error
    trainer.remove_callback(PrinterCallback)
    return trainer
