"""Supervised fine-tuning of a LoRA adapter on a frozen dataset, with TRL and PEFT.

    python -m train.sft --config C --run DIR

reads DIR/dataset, writes DIR/checkpoints while it runs, then DIR/adapter, and DIR/train.json
last. Pairs that are held out are not trained on; the loss on them is in train.json. Exit codes:
0 done, 1 broken, 2 usage, 130 interrupted; the same command again resumes.
Every round starts from the base model. Whether the adapter is any good is the gate's business.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from ledger.dataset import DatasetManifest, Pair
from ledger.dataset import load as load_dataset
from ledger.errors import ConfigError, DatasetError, FlywheelError
from ledger.fingerprint import base_fingerprint, template_hash
from ledger.hashing import content_hash, file_sha256
from ledger.model import model_folder
from ledger.registry import WEIGHTS
from ledger.settings import Settings
from ledger.settings import load as load_settings
from ledger.store import Store
from train import base, data, heldout, order, result
from train.progress import Show, StepReport, Stop, stop_on_signals
from train.result import TrainResult

# Longest example, tokens, up to which plain attention beats PyTorch's fused one on the CPU.
_PLAIN_ATTENTION = 128
# The cores count as idle while they are busy for less than this, percent of all their time.
_IDLE_PERCENT = 30
# What has no influence on the adapter and may change between an interruption and its resumption.
_NO_RECIPE = {"checkpoint_steps", "report_to", "min_pairs", "device", "gradient_checkpointing"}


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
        leave_out: train without the pairs that cannot be trained on instead of refusing.

    Returns:
        The result; that of the earlier run where this one was finished already.

    Raises:
        ConfigError: the model, the device or an option does not fit.
        DatasetError: the dataset is broken, too small, or has rows that cannot be trained on as
            they were served (see `train.data`).
        FlywheelError: the loss diverged, or the disk does not take what is written.
        KeyboardInterrupt: SIGINT or SIGTERM came; a checkpoint was saved if a step was done.
    """
    with stop_on_signals() as stop, Show() as show:
        with closing(Store.open(settings)) as store:
            manifest, frozen = load_dataset(run_dir / "dataset", store)
        pairs = [pair for pair in frozen if pair.split == "train"]
        held = [pair for pair in frozen if pair.split == "heldout"][: heldout.MOST]
        if done := _finished(run_dir, manifest):
            return done
        folder = model_folder(settings, fetch=True)
        prepared, held_rows, recipe = _prepare(settings, folder, manifest, pairs, held, leave_out)
        if on_step is None:
            assert prepared.lengths is not None
            show.say(
                f"{len(prepared.rows)} pairs, {prepared.lengths.min} to {prepared.lengths.max} "
                f"tokens (median {prepared.lengths.median})"
            )
        try:
            return _run(
                settings,
                run_dir,
                folder,
                manifest,
                pairs,
                prepared,
                held_rows,
                recipe,
                stop,
                on_step or show.step,
                show.say,
            )
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


def _prepare(
    settings: Settings,
    folder: Path,
    manifest: DatasetManifest,
    pairs: list[Pair],
    held: list[Pair],
    leave_out: bool,
) -> tuple[data.Prepared, list[data.Row], str]:
    """The proved examples, those held out, and the hash of all that shapes the adapter."""
    from transformers import AutoTokenizer

    _quiet()
    wanted = settings.train.min_pairs
    if len(pairs) < wanted:
        raise DatasetError(
            f"the dataset has {len(pairs)} pairs to train on, train.min_pairs asks for {wanted}",
            remedy=f"Collect {wanted - len(pairs)} more corrections, or lower train.min_pairs.",
        )
    named = settings.train.target_modules
    if unservable := {"lm_head", "embed_tokens"} & {named, *(named if named != str(named) else ())}:
        raise ConfigError(
            f"train.target_modules has {', '.join(sorted(unservable))}",
            rule="The server cannot apply an adapter to the embedding or the LM head.",
            remedy="Name linear layers (q_proj, v_proj, …) or `all-linear`.",
        )
    template = template_hash(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the tokenizer in {folder} cannot be read: {error}") from error
    prepared, held_out = (
        data.prepare(
            some,
            tokenizer,
            settings.train.max_length or settings.model.max_length,
            template,
            stop_ids=base.stop_ids(folder),
        )
        for some in (pairs, held)
    )
    if not leave_out or not prepared.rows:
        data.refuse(prepared)
    if len(prepared.rows) < wanted:
        raise DatasetError(
            f"{len(prepared.rows)} pairs can be trained on, train.min_pairs asks for {wanted}",
            remedy=f"Collect {wanted - len(prepared.rows)} more corrections, or lower "
            "train.min_pairs.",
        )
    recipe = content_hash(
        "recipe",
        {
            "dataset": manifest.dataset_id,
            "rows": [row.row_id for row in prepared.rows],
            "base": base_fingerprint(folder),
            "template": template,
            "dtype": settings.model.dtype,
            "train": settings.train.model_dump(mode="json", exclude=_NO_RECIPE),
        },
    )
    return prepared, held_out.rows, recipe


def _run(
    settings: Settings,
    run_dir: Path,
    folder: Path,
    manifest: DatasetManifest,
    pairs: list[Pair],
    prepared: data.Prepared,
    held: list[data.Row],
    recipe: str,
    stop: Stop,
    report: Callable[[StepReport], None],
    say: Callable[[str], None],
) -> TrainResult:
    """Train, save, write the result."""
    chosen = base.device(settings.train, settings.model.dtype)
    if chosen == "cpu":
        base.use_physical_cores()
    from train.trainer import Watch, last_checkpoint

    rows, options = prepared.rows, settings.train
    step_rows = options.batch_size * options.accumulation
    plan = order.plan(
        [len(row.ids) for row in rows],
        epochs=options.epochs,
        step_rows=step_rows,
        seed=options.seed,
    )
    step_tokens = [
        sum(len(rows[i].ids) for i in plan[start : start + step_rows])
        for start in range(0, len(plan), step_rows)
    ]
    checkpoints = run_dir / "checkpoints"
    resume = last_checkpoint(checkpoints, recipe)
    if resume is None:
        shutil.rmtree(checkpoints, ignore_errors=True)  # nothing in it can be used
    else:
        say(f"resuming from {resume[0].name} of {len(step_tokens)} steps")
    watch = Watch(recipe, step_tokens, resume[1] if resume else 0.0, stop, report)
    trainer = _trainer(settings, folder, checkpoints, chosen, prepared, plan, len(step_tokens))
    trainer.add_callback(watch)
    stop.between_steps = True
    trainer.train(resume_from_checkpoint=str(resume[0]) if resume else None)
    if trainer.state.global_step < len(step_tokens):
        raise KeyboardInterrupt(
            f"stopped after step {trainer.state.global_step} of {len(step_tokens)}; a checkpoint "
            "was saved: run the same command again to go on"
        )
    unseen = heldout.measure(trainer, held)
    parameters = _save(trainer.model, run_dir, settings.model.name)
    by_id = {pair.row_id: pair for pair in pairs}
    sources: dict[str, int] = {}
    for row in rows:
        source = by_id[row.row_id].source
        sources[source] = sources.get(source, 0) + 1
    assert prepared.lengths is not None
    finished = TrainResult(
        run_id=run_dir.resolve().name,
        recipe=recipe,
        dataset_id=manifest.dataset_id,
        base_model=settings.model.name,
        base_fingerprint=base_fingerprint(folder),
        template_hash=template_hash(folder),
        pairs=len(rows),
        sources=sources,
        left_out=prepared.problems,
        notes=prepared.notes,
        lengths=prepared.lengths._asdict(),
        end_of_turn=prepared.end_of_turn,
        settings=options.model_dump(mode="json"),
        dtype=settings.model.dtype,
        steps=trainer.state.global_step,
        heldout=None if unseen is None else unseen._asdict(),
        loss=[float(log["loss"]) for log in trainer.state.log_history if "loss" in log],
        tokens=sum(step_tokens),
        seconds=round(watch.seconds, 3),
        tokens_per_second=round(sum(step_tokens) / watch.seconds, 1),
        seed=options.seed,
        adapter_parameters=parameters,
        adapter_sha256=file_sha256(run_dir / result.ADAPTER / WEIGHTS),
        hardware=base.hardware(chosen),
        versions=base.versions(),
        created=time.time(),
    )
    result.write(run_dir, finished)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return finished


def _trainer(
    settings: Settings,
    folder: Path,
    checkpoints: Path,
    chosen: str,
    prepared: data.Prepared,
    plan: list[int],
    steps: int,
) -> Any:
    """TRL's trainer over the planned order: one pass over a dataset that has all epochs in it."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
    from trl import SFTConfig

    from train.trainer import Trainer

    options, rows = settings.train, prepared.rows
    longest = max(len(row.ids) for row in rows)
    plain = chosen == "cpu" and longest <= _PLAIN_ATTENTION
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, settings.model.dtype),
            attn_implementation="eager" if plain else "sdpa",
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"the model in {folder} cannot be loaded: {error}") from error
    dataset = Dataset.from_dict(
        {"input_ids": [row.ids for row in rows], "labels": [row.labels for row in rows]}
    ).select(plan)
    modules = options.target_modules
    arguments = SFTConfig(
        output_dir=str(checkpoints),
        use_cpu=chosen == "cpu",
        bf16=settings.model.dtype == "bfloat16",
        fp16=settings.model.dtype == "float16",
        # Nothing is cut: `train.data` has refused what is too long.
        max_length=None,
        completion_only_loss=True,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulation,
        gradient_checkpointing=options.gradient_checkpointing,
        max_steps=steps,
        train_sampling_strategy="sequential",  # the order is planned
        learning_rate=options.learning_rate,
        warmup_steps=options.warmup_ratio,  # below 1 it is a share of the steps
        weight_decay=options.weight_decay,
        seed=options.seed,
        data_seed=options.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=options.checkpoint_steps,
        save_total_limit=2,
        report_to=list(options.report_to) or "none",
        disable_tqdm=True,
        dataloader_pin_memory=chosen == "cuda",
    )
    try:
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=dataset,
            processing_class=AutoTokenizer.from_pretrained(folder),
            peft_config=LoraConfig(
                task_type="CAUSAL_LM",
                r=options.rank,
                lora_alpha=options.alpha,
                lora_dropout=options.dropout,
                target_modules=modules if isinstance(modules, str) else list(modules),
            ),
        )
    except ValueError as error:
        raise ConfigError(f"TRL or PEFT refuses the settings: {error}") from error
    trainer.remove_callback(PrinterCallback)
    return trainer


def _save(model: Any, run_dir: Path, base_name: str) -> int:
    """Write the adapter, whole or not at all; returns how many parameters it has."""
    final, building = run_dir / result.ADAPTER, run_dir / f".{result.ADAPTER}"
    shutil.rmtree(building, ignore_errors=True)
    # The base as the server calls it, not where it lies on this machine.
    model.peft_config["default"].base_model_name_or_path = base_name
    model.save_pretrained(building, safe_serialization=True, save_embedding_layers=False)
    (building / "README.md").unlink(missing_ok=True)  # PEFT's draft; ours is made on publishing
    shutil.rmtree(final, ignore_errors=True)
    building.rename(final)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _quiet() -> None:
    """No bars and chatter from the libraries, and no telemetry: what is trained is private."""
    import datasets
    import huggingface_hub.constants
    from transformers.utils import logging as transformers_logging

    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name in ("transformers", "trl", "peft", "accelerate", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _set_openmp_waiting() -> None:
    """Let OpenMP's threads spin while they wait, if the cores are idle now.

    On idle cores spinning doubles the speed; when a server uses the same cores, threads that
    spin starve each other and a step takes a minute instead of a second. Read by OpenMP when
    torch is imported, so it is decided before.
    """
    import psutil

    idle = psutil.cpu_percent(interval=1.0) < _IDLE_PERCENT
    os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE" if idle else "PASSIVE")
    if idle:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m train.sft", description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, type=Path, help="configuration, YAML")
    parser.add_argument("--run", required=True, type=Path, help="the run's folder")
    parser.add_argument(
        "--leave-out", action="store_true", help="train without the pairs that cannot be trained on"
    )
    given = parser.parse_args(arguments)
    _set_openmp_waiting()
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
    print(
        f"trained {done.pairs} pairs in {done.steps} steps, {done.seconds:.0f} s "
        f"({done.tokens_per_second:.0f} tokens/s); loss {done.loss[0]:.3f} to {done.loss[-1]:.3f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
