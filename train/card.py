"""The model card of a version, in the form of the Hugging Face hub: YAML header, then Markdown.

A version never changes, so its card holds what was known when it was made. Scores come after
that and stand in the ledger's evaluations; the card says so instead of promising them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ledger.dataset import DatasetManifest
from ledger.settings import Settings
from train.report import KINDS, PICTURE
from train.result import Stage, TrainResult


def card(
    settings: Settings,
    alias: str,
    name: str,
    parent: str | None,
    manifest: DatasetManifest,
    result: TrainResult,
    *,
    picture: bool = False,
) -> str:
    """The text of README.md.

    Args:
        picture: whether the loss's picture lies beside it.
        name: the pinned name, `support@v4`.
        parent: the pinned name that was live when it was trained; None for the base model.
    """
    header = _header(settings, _methods(result))
    # Runs of before there was a recipe have all of it in their settings.
    options, lengths = {**result.settings, **result.chosen}, result.lengths
    description = settings.aliases[alias].description
    left_out = [(reason, len(rows)) for reason, rows in manifest.left_out.items()]
    left_out += [(reason, len(rows)) for reason, rows in result.left_out.items()]
    rows = [
        ("base model", f"`{settings.model.name}`"),
        ("base fingerprint", f"`{result.base_fingerprint}`"),
        ("chat template", f"`{result.template_hash}`"),
        ("parent", f"`{parent}`" if parent else "none: the base model was live"),
        ("run", f"`{result.run_id}`"),
        ("dataset", f"`{result.dataset_id}`"),
        ("made", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(result.created))),
    ]
    recipe = [
        (
            "LoRA rank, alpha, dropout",
            f"{options['rank']}, {options['alpha']:g}, {options['dropout']:g}",
        ),
        ("target modules", f"`{options['target_modules']}`"),
        ("parameters", f"{result.adapter_parameters:,}"),
        ("rank-stabilised", "yes" if options.get("rslora") else "no"),
        ("epochs at most, steps", f"{options['epochs']:g}, {_steps(result)}"),
        ("pairs a step", f"{options['batch_size'] * options['accumulation']}"),
        (
            "learning rate",
            f"{options['learning_rate']:g}, linear, {options['warmup_ratio']:.0%} warm-up",
        ),
        ("weight decay", f"{options['weight_decay']:g}"),
        ("number format", result.dtype),
        ("seed", f"{result.seed}"),
        ("loss, first to last step", f"{result.loss[0]:.4f} to {result.loss[-1]:.4f} nats a token"),
        ("loss on held-out pairs", _heldout(result)),
        *((f"KL to the base, {KINDS[name]}", _moved(found)) for name, found in result.kl.items()),
        *_second(result.preference),
        ("time", f"{result.seconds:.0f} s, {result.tokens_per_second:.0f} tokens/s"),
        ("hardware", _hardware(result)),
        ("software", ", ".join(f"{key} {value}" for key, value in result.versions.items())),
    ]
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {name}",
        f"A LoRA adapter for `{settings.model.name}`"
        + (f" that {description}." if description else "."),
        "## What changed",
        f"Trained from the base model on {result.pairs} corrected or good answers. The loss covers "
        "the answer and its end-of-turn token; prompts are those that were served.",
        _table(("", ""), rows),
        "## Training data",
        _table(("source of the correction", "pairs"), sorted(result.sources.items())),
        *(
            [_table(("kind", "pairs"), sorted(result.kinds.items()))]
            if len(result.kinds) > 1
            else []
        ),
        f"Examples are {lengths['min']} to {lengths['max']} tokens long (median "
        f"{lengths['median']}). The rows are in `training_data.jsonl`, redacted and sealed "
        f"as the ledger keeps them; `flywheel export {name.replace('@v', ' --version ')}` opens "
        "them.",
        _table(("left out because", "rows"), left_out) if left_out else "No row was left out.",
        "## Training",
        *([f"![loss over the steps]({PICTURE})"] if picture else []),
        _table(("", ""), recipe),
        "## Evaluation",
        "Pending when this version was made. A version never changes, so its scores are not "
        f"written here: `flywheel versions {alias}` shows them, and `eval_results.json` of its "
        "run has the details.",
    ]
    return "\n\n".join(parts) + "\n"


def _header(settings: Settings, methods: list[str]) -> dict[str, Any]:
    """The hub's own fields; those that nobody set are left out."""
    path, sharing = settings.model.path, settings.sharing
    on_hub = path.count("/") == 1 and path[0] not in "./~" and not Path(path).is_dir()
    header = {
        "base_model": path if on_hub else settings.model.name,
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": sharing.license,
        "language": list(sharing.languages),
        "datasets": list(sharing.datasets),
        "tags": ["lora", *methods, "trl", "flywheel"],
    }
    return {name: value for name, value in header.items() if value}


def _table(head: tuple[str, str], rows: Sequence[tuple[str, object]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {left} | {right} |" for left, right in rows)])


def _heldout(result: TrainResult) -> str:
    found = result.heldout
    if found is None:
        return "none were held out"
    return (
        f"{found['before']:.4f} before, {found['after']:.4f} nats a token after "
        f"({found['pairs']:.0f} pairs)"
    )


def _methods(result: TrainResult) -> list[str]:
    return ["sft"] if result.preference is None else ["sft", result.preference.method]


def _steps(result: TrainResult) -> str:
    said = str(result.steps)
    if result.stopped_early:
        said += f" of {result.planned_steps}, stopped early"
    if result.best_step is not None and result.best_step != result.steps:
        said += f"; that of step {result.best_step} is kept, the best on held-out pairs"
    return said


def _moved(found: dict[str, float]) -> str:
    return (
        f"{found['after']:.4f} nats a token ({found['tokens']:.0f} tokens of "
        f"{found['pairs']:.0f} answers), {found['most']:.2f} at most"
    )


def _second(stage: Stage | None) -> list[tuple[str, object]]:
    """What is said of the second stage."""
    if stage is None:
        return []
    details = stage.details
    return [
        (
            "second stage",
            f"{stage.method} on {stage.examples} examples, {stage.steps} steps, beta "
            f"{details['beta']:g}, learning rate {details['learning_rate']:g}",
        ),
        ("its loss, first to last step", f"{stage.loss[0]:.4f} to {stage.loss[-1]:.4f}"),
    ]


def _hardware(result: TrainResult) -> str:
    found = result.hardware
    return found.get("gpu") or f"{found['processor']}, {found['threads']} threads"
