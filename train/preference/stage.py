"""Training the second stage with TRL's own trainers, and going on with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ledger.errors import ConfigError
from train import adapter, divergence, heldout, order, result
from train.job import Job
from train.load import arguments, load_model
from train.preference.examples import Example, Examples
from train.progress import StepReport, Stop
from train.result import Stage


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

    from train.preference import trainer as trl_trainer

    settings, options = todo.settings, todo.settings.train
    model = load_model(settings, todo.folder, chosen, max(row.size for row in rows))
    model = PeftModel.from_pretrained(model, first, is_trainable=True)
    # It names the base as the server calls it, which PEFT would look for on the hub.
    model.peft_config["default"].base_model_name_or_path = str(todo.folder)
    make = trl_trainer.MAKE[options.preference]
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
            Dataset.from_dict(trl_trainer.columns(planned, options.batch_size)),
            todo.tokenizer,
            options.preference_beta,
        )
    except ValueError as error:
        raise ConfigError(f"TRL or PEFT refuses the settings: {error}") from error
    trainer.remove_callback(PrinterCallback)
    return trainer
