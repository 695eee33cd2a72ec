"""Fine-tuning of a LoRA adapter on a frozen dataset, with TRL and PEFT: the command.

    python -m train.sft --config C --run DIR

reads DIR/dataset, writes DIR/checkpoints while it runs, then DIR/adapter, and DIR/train.json
last. Beside them for people: DIR/training.md says what is trained on, what was left out and what
came of it; DIR/loss.png shows the loss. With `train.preference` a second stage follows
(`train.preference`), and the adapter of the first stays in DIR/sft. Pairs that are held out are
not trained on: they say when to stop (`train.looks`), and the loss on them is in train.json. Exit
codes: 0 done, 1 broken, 2 usage, 130 interrupted; the same command again resumes.
Every round starts from the base model. Whether the adapter is any good is the gate's business.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from ledger.clock import now
from ledger.dataset import DatasetManifest
from ledger.dataset import load as load_dataset
from ledger.errors import ConfigError, DatasetError, FlywheelError
from ledger.fingerprint import base_fingerprint, template_hash
from ledger.hashing import file_sha256
from ledger.model import model_folder
from ledger.registry import WEIGHTS
from ledger.settings import Settings
from ledger.settings import load as load_settings
from ledger.store import Store
from train import base, data, divergence, heldout, job, order, report, result, room, trackers
from train.fast import kernels, launch, memory, setup
from train.fast.launch import Processes
from train.job import Job
from train.load import arguments, load_model, set_openmp_waiting
from train.progress import Show, StepReport, Stop, stop_on_signals
from train.result import Stage, TrainResult


def train(
    settings: Settings,
    run_dir: Path,
    on_step: Callable[[StepReport], None] | None = None,
    *,
    leave_out: bool = False,
) -> TrainResult:
    """Train the adapter of a run, or go on where an interrupted one stopped.

    Args:
        run_dir: has `dataset/`; gets `adapter/` and `train.json`.
        on_step: told about each step; without one, progress is printed.
        leave_out: train without the pairs that cannot be trained on, however many they are; else
            above `train.leave_out_share` it is refused.

    Returns:
        The result; that of the earlier run where this one was finished already.

    Raises:
        ConfigError: the model, the device or an option does not fit.
        DatasetError: the dataset is broken, too small, or has rows that cannot be trained on as
            they were served (see `train.data`).
        FlywheelError: the loss diverged, or the disk does not take what is written.
        KeyboardInterrupt: SIGINT or SIGTERM came; a checkpoint was saved if a step was done.
    """
    # Of several processes the first one writes and speaks.
    first = launch.first()
    if first:
        report.note_refusal(run_dir, "")
    try:
        return _train(settings, run_dir, on_step, first=first, leave_out=leave_out)
    except DatasetError as error:
        if first:
            report.note_refusal(run_dir, error.problem)
        raise


def _train(
    settings: Settings,
    run_dir: Path,
    on_step: Callable[[StepReport], None] | None,
    *,
    first: bool,
    leave_out: bool,
) -> TrainResult:
    with stop_on_signals() as stop, Show(None if first else io.StringIO()) as show:
        with closing(Store.open(settings)) as store:
            manifest, frozen = load_dataset(run_dir / "dataset", store)
        if done := _finished(run_dir, manifest):
            return done
        folder = model_folder(settings, fetch=True)
        try:
            todo = job.prepare(settings, run_dir, folder, manifest, frozen, leave_out=leave_out)
        except DatasetError as error:
            if first:
                report.write_refusal(run_dir, error)
            raise
        if on_step is None:
            for line in report.summary(todo):
                show.say(line)
        try:
            if first:
                report.write(todo)
            with trackers.writing_into(run_dir, settings.train.report_to):
                return _run(todo, stop, on_step or show.step, show.say)
        except OSError as error:
            raise FlywheelError(
                f"{run_dir} cannot be written: {error}",
                remedy="Make room or mend the path, and run the same command: it resumes from "
                "the last checkpoint that is whole.",
            ) from error


def _finished(run_dir: Path, manifest: DatasetManifest) -> TrainResult | None:
    """The result of a run that finished earlier.

    Raises:
        DatasetError: it was trained on another dataset than the one that is there now.
    """
    done = result.read(run_dir)
    if done is not None and done.dataset_id != manifest.dataset_id:
        raise DatasetError(
            f"{run_dir} was trained on {done.dataset_id}, its dataset is now {manifest.dataset_id}",
            rule="A run is trained once, on one dataset.",
            remedy="Train the new dataset in a new run.",
        )
    return done


def _run(
    todo: Job,
    stop: Stop,
    step: Callable[[StepReport], None],
    say: Callable[[str], None],
) -> TrainResult:
    """Both stages, then the result."""
    run_dir, settings = todo.run_dir, todo.settings
    chosen = base.device(settings.train, settings.model.dtype)
    if chosen == "cpu":
        base.use_physical_cores()
    # Beside a server: what cannot fit is refused, and the rest is kept to what is free now.
    with room.kept(settings.train, chosen) as there:
        fit = _fits(todo, there)
        processes = Processes(chosen)
        # All cut a step alike, as the one with the least room must.
        fit = fit._replace(
            tokens=processes.least(fit.tokens), checkpointing=processes.any(fit.checkpointing)
        )
        if settings.train.preference == "none":
            first = _first(todo, processes, chosen, fit, run_dir / result.ADAPTER, stop, step, say)
            second = None
        else:
            from train import preference

            examples = preference.examples(todo)  # refuses before the first stage is trained
            kept = run_dir / result.FIRST
            earlier = result.read_stage(kept, todo.identity)
            first = earlier or _first(todo, processes, chosen, fit, kept, stop, step, say)
            second = preference.train(
                todo, examples, kept, chosen, stop, step, say, checkpointing=fit.checkpointing
            )
    finished = _result(todo, first, second, chosen)
    if processes.first:
        report.write(todo, finished)
        report.picture(run_dir, finished)
        result.write(run_dir, finished)
        shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
    processes.wait()
    return finished


def _fits(todo: Job, there: room.Room) -> memory.Fit:
    """How the training fits into what is free.

    Raises:
        ConfigError: it does not; with the numbers, and who has the rest.
    """
    from transformers import AutoConfig

    assert todo.prepared.lengths is not None
    options = todo.settings.train
    kind = kernels.choose(
        options.kernels,
        device=there.device,
        tokens=round(todo.recipe.epochs * todo.prepared.lengths.total),
    )
    wanted = memory.estimate(
        AutoConfig.from_pretrained(todo.folder),
        dtype=todo.settings.model.dtype,
        rank=todo.recipe.rank,
        longest=todo.longest_row,
        device=there.device,
        kernels=kind,
        processes=options.processes,
        sharded=options.sharded,
    )
    try:
        return memory.fits(
            wanted,
            there.free,
            tokens=options.batch_tokens,
            checkpointing=options.gradient_checkpointing,
        )
    except ConfigError as error:
        raise ConfigError(
            f"{error.problem}. {there}", rule=error.rule, remedy=error.remedy
        ) from None


def _first(
    todo: Job,
    processes: Processes,
    chosen: str,
    fit: memory.Fit,
    into: Path,
    stop: Stop,
    step: Callable[[StepReport], None],
    say: Callable[[str], None],
) -> Stage:
    """Train the adapter on the answers, and write it with what is known of it."""
    from train.looks import Looks
    from train.trainer import Watch, last_checkpoint

    rows, options, recipe = todo.prepared.rows, todo.settings.train, todo.recipe
    step_rows = options.batch_size * options.accumulation
    plan = order.plan(
        [len(row.ids) for row in rows],
        epochs=recipe.epochs,
        step_rows=step_rows,
        seed=options.seed,
        alike=not setup.packable(todo.folder, options.packing),
    )
    step_tokens = [
        sum(len(rows[i].ids) for i in plan[start : start + step_rows])
        for start in range(0, len(plan), step_rows)
    ]
    steps = len(step_tokens)
    checkpoints = todo.run_dir / "checkpoints"
    looks = Looks(
        checkpoints,
        todo.held,
        every=recipe.eval_steps,
        patience=options.patience,
        report=lambda look, best: say(
            f"held-out loss {look.loss:.4f} after step {look.step}" + (", the best" * best)
        ),
    )
    resume = last_checkpoint(checkpoints, todo.identity)
    if resume is not None and not looks.resume(int(resume[0].name.rpartition("-")[2])):
        resume = None
    processes.wait()
    if resume is None:
        if processes.first:
            shutil.rmtree(checkpoints, ignore_errors=True)  # nothing in it can be used
        looks.looks = []
    else:
        say(f"resuming from {resume[0].name} of {steps} steps")
    processes.wait()
    watch = Watch(todo.identity, step_tokens, resume[1] if resume else 0.0, stop, step, processes)
    trainer = _trainer(todo, checkpoints, chosen, fit, plan, steps)
    data.unchanged(trainer.train_dataset, rows, plan)
    for note in trainer.fast.notes:
        say(note)
    looks.trainer = trainer
    trainer.add_callback(watch)
    trainer.add_callback(looks)
    stop.between_steps = True
    trainer.train(resume_from_checkpoint=str(resume[0]) if resume else None)
    stop.between_steps = False
    done = trainer.state.global_step
    if done < steps and not looks.stopped:
        raise KeyboardInterrupt(
            f"stopped after step {done} of {steps}; a checkpoint was saved: run the same command "
            "again to go on"
        )
    best = looks.keep_best()
    if best is not None:
        say(f"the adapter of step {best} of {done} is kept: its held-out loss is clearly lower")
    unseen = heldout.measure(trainer, todo.held)
    moved = divergence.measure(trainer, divergence.rows_to_measure(todo.replay, todo.held, rows))
    stage = Stage(
        method="sft",
        recipe=todo.identity,
        examples=len(rows),
        steps=done,
        planned_steps=steps,
        loss=[float(log["loss"]) for log in trainer.state.log_history if "loss" in log],
        looks=[(look.step, look.loss) for look in looks.looks],
        best_step=best,
        stopped_early=looks.stopped,
        heldout=None if unseen is None else unseen._asdict(),
        # What an adapter starts as changes nothing: its B is zero.
        kl={name: {**one._asdict(), "before": 0.0} for name, one in moved.items()},
        tokens=sum(step_tokens[:done]),
        seconds=round(watch.seconds, 3),
        adapter_parameters=0,
        details={
            "pass_tokens": fit.tokens,
            "packed": trainer.fast.packed,
            "kernels": trainer.fast.kernels,
            "gradient_checkpointing": fit.checkpointing,
            "processes": processes.count,
            "estimated_peak_gib": round(fit.peak / 2**30, 2),
            "peak_gib": round(memory.measured(chosen) / 2**30, 2),
        },
    )
    from train import adapter

    parameters = adapter.write(trainer.model, into, todo.settings.model.name)
    stage = stage.model_copy(update={"adapter_parameters": parameters})
    if into.name == result.FIRST and processes.first:
        result.write_stage(into, stage)
        shutil.rmtree(checkpoints, ignore_errors=True)
    processes.wait()
    return stage


def _trainer(
    todo: Job, checkpoints: Path, chosen: str, fit: memory.Fit, plan: list[int], steps: int
) -> Any:
    """TRL's trainer over the planned order: one pass over a dataset that has all epochs in it."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig

    from train.fast.passes import Cut
    from train.trainer import Trainer

    settings, rows = todo.settings, todo.prepared.rows
    options = settings.train
    model = load_model(settings, todo.folder, chosen, todo.longest_row, packing=options.packing)
    step_rows = settings.train.batch_size * settings.train.accumulation
    dataset = Dataset.from_dict(
        {"input_ids": [row.ids for row in rows], "labels": [row.labels for row in rows]}
    ).select(plan)
    rate = todo.recipe.learning_rate
    try:
        trainer = Trainer(
            model=model,
            args=SFTConfig(
                **arguments(settings, checkpoints, chosen, steps=steps, rate=rate)
                # The trainer cuts a step's rows into passes itself.
                | {
                    "per_device_train_batch_size": step_rows,
                    "gradient_accumulation_steps": 1,
                    "gradient_checkpointing": fit.checkpointing,
                    # Base and adapter meet in the base's format by themselves (train.fast.linear);
                    # with dropout the layers are PEFT's, which need autocast for that.
                    "bf16": settings.model.dtype == "bfloat16" and options.dropout > 0,
                    "ddp_find_unused_parameters": False,  # all of an adapter is used
                },
                completion_only_loss=True,
            ),
            train_dataset=dataset,
            processing_class=todo.tokenizer,
            peft_config=todo.adapter,
            cut=Cut(tokens=fit.tokens),
            step_rows=step_rows,
            kernels=fit.kernels,
            packing=options.packing,
        )
    except ValueError as error:
        raise ConfigError(f"TRL or PEFT refuses the settings: {error}") from error
    trainer.remove_callback(PrinterCallback)
    return trainer


def _result(todo: Job, first: Stage, second: Stage | None, chosen: str) -> TrainResult:
    """Everything that train.json says."""
    settings, prepared, recipe = todo.settings, todo.prepared, todo.recipe
    assert prepared.lengths is not None
    last, seconds, tokens = second or first, first.seconds, first.tokens
    unseen = first.heldout
    if unseen is not None and second is not None and second.heldout is not None:
        unseen = {**unseen, "after": second.heldout["after"]}
    moved = {
        name: {
            "pairs": one["pairs"],
            "tokens": one["tokens"],
            "before": first.kl[name]["before"],
            "after": one["mean"],
            "most": one["most"],
        }
        for name, one in last.kl.items()
    }
    return TrainResult(
        run_id=todo.run_dir.resolve().name,
        recipe=last.recipe,
        dataset_id=todo.manifest.dataset_id,
        base_model=settings.model.name,
        base_fingerprint=base_fingerprint(todo.folder),
        template_hash=template_hash(todo.folder),
        pairs=len(prepared.rows),
        sources=todo.sources,
        kinds=todo.kinds,
        left_out=prepared.problems,
        notes=prepared.notes,
        lengths=prepared.lengths._asdict(),
        end_of_turn=prepared.end_of_turn,
        settings=settings.train.model_dump(mode="json"),
        chosen=recipe._asdict(),
        dtype=settings.model.dtype,
        steps=first.steps,
        planned_steps=first.planned_steps,
        loss=first.loss,
        looks=first.looks,
        best_step=first.best_step,
        stopped_early=first.stopped_early,
        heldout=unseen,
        kl=moved,
        preference=second,
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=round(tokens / seconds, 1),
        seed=settings.train.seed,
        adapter_parameters=last.adapter_parameters,
        adapter_sha256=file_sha256(todo.run_dir / result.ADAPTER / WEIGHTS),
        hardware={**base.hardware(chosen), **first.details},
        versions=base.versions(),
        created=now(),
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m train.sft", description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, type=Path, help="configuration, YAML")
    parser.add_argument("--run", required=True, type=Path, help="the run's folder")
    parser.add_argument(
        "--leave-out", action="store_true", help="train without the pairs that cannot be trained on"
    )
    given = parser.parse_args(arguments)
    set_openmp_waiting()
    # TRL would spread a single process over all GPUs with nn.DataParallel, which it refuses.
    if "WORLD_SIZE" not in os.environ:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    try:
        done = train(load_settings(given.config), given.run, leave_out=given.leave_out)
    except FlywheelError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        print(f"interrupted: {interrupt}", file=sys.stderr)
        return 130
    if launch.first():
        for line in report.outcome(done):
            print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
