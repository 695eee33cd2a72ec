"""What a run says to people: lines on the terminal, `training.md` in its folder, `loss.png`.

`training.md` is written before the first step (what is trained on, how long the examples are,
what was left out and why, every number of the recipe) and again with the results at the end. It
names rows, never their text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ledger.errors import DatasetError
from ledger.files import read_json, write_atomic, write_json
from train.result import Stage, TrainResult

if TYPE_CHECKING:
    from train.job import Job

FILE = "training.md"
PICTURE = "loss.png"
# There where the run's dataset cannot be trained on: another try would end alike.
_REFUSED = "refused.json"
_SHOWN = 20  # rows named for each reason; train.json has them all


def summary(job: Job) -> list[str]:
    """What is about to be trained, in a few lines."""
    lengths, kinds, recipe = job.prepared.lengths, job.kinds, job.recipe
    assert lengths is not None
    rows, replay = len(job.prepared.rows), kinds.get("replay", 0)
    lines = [
        f"{rows} pairs, {lengths.min} to {lengths.max} tokens (median {lengths.median}, 95 % up "
        f"to {lengths.p95}); {lengths.trained} of {lengths.total} tokens carry loss",
        f"replay: {replay} good answers, {replay / rows:.0%} of what is trained on; "
        f"{len(job.held)} pairs are held out",
    ]
    problems = [
        *job.prepared.problems.items(),
        *((f"held out, but {reason}", found) for reason, found in job.held_out_problems.items()),
    ]
    lines += [f"left out {len(found)}: {reason}" for reason, found in problems]
    lines += [f"noted {len(found)}: {reason}" for reason, found in job.prepared.notes.items()]
    lines.append(
        f"rank {recipe.rank}, alpha {recipe.alpha:g}, learning rate {recipe.learning_rate:g}, at "
        f"most {recipe.epochs:g} epochs"
    )
    lines += [f"  {name}: {reason}" for name, reason in recipe.why.items()]
    return lines


def outcome(done: TrainResult) -> list[str]:
    """What came of a run, in a few lines."""
    lines = [
        f"trained {done.pairs} pairs in {done.steps} steps, {done.seconds:.0f} s "
        f"({done.tokens_per_second:.0f} tokens/s); loss {done.loss[0]:.3f} to {done.loss[-1]:.3f}"
    ]
    if done.best_step is not None:
        lines.append(f"the adapter of step {done.best_step} is kept, the best on held-out pairs")
    if second := done.preference:
        lines.append(
            f"{second.method} on {second.examples} examples in {second.steps} steps, "
            f"{second.seconds:.0f} s; loss {second.loss[0]:.3f} to {second.loss[-1]:.3f}"
        )
    if done.heldout is not None:
        lines.append(
            f"held-out loss {done.heldout['before']:.3f} of the base, {done.heldout['after']:.3f} "
            "with the adapter"
        )
    for name, found in done.kl.items():
        lines.append(f"KL to the base {found['after']:.4f} nats a token ({KINDS[name]})")
    return lines


#: What the kinds of answers are called on which the divergence is measured.
KINDS = {
    "replay": "replayed good answers",
    "heldout": "held-out answers",
    "trained": "answers that were trained on",
}


def write(job: Job, done: TrainResult | None = None) -> None:
    """Write `training.md`; before the first step without `done`."""
    write_atomic(job.run_dir / FILE, _text(job, done).encode())


def write_refusal(run_dir: Path, error: DatasetError) -> None:
    """Write why nothing was trained."""
    write_atomic(run_dir / FILE, f"# Training\n\nRefused.\n\n```\n{error}\n```\n".encode())


def note_refusal(run_dir: Path, problem: str) -> None:
    """Note why the run's dataset cannot be trained on, for `refusal`; "" takes that back."""
    if problem:
        write_json(run_dir / _REFUSED, {"problem": problem})
    else:
        (run_dir / _REFUSED).unlink(missing_ok=True)


def refusal(run_dir: Path) -> str:
    """Why the run's dataset cannot be trained on, as the last try found; "" where it can."""
    file = run_dir / _REFUSED
    return str(read_json(file)["problem"]) if file.exists() else ""


def picture(run_dir: Path, done: TrainResult) -> None:
    """Draw `loss.png`."""
    from train.plot import loss_png

    loss_png(done, run_dir / PICTURE)


def _text(job: Job, done: TrainResult | None) -> str:
    lengths, recipe = job.prepared.lengths, job.recipe
    assert lengths is not None
    numbers: list[tuple[str, Any]] = [
        (name, f"{value:g}" + (f" ({recipe.why[name]})" if name in recipe.why else ""))
        for name, value in recipe._asdict().items()
        if name != "why"
        and (name != "preference_learning_rate" or job.settings.train.preference != "none")
    ]
    parts = [
        f"# Training of {job.run_dir.resolve().name}",
        "## Examples",
        _table(
            ("", "number"),
            [
                *((kind, count) for kind, count in job.kinds.items()),
                *((f"from {source}", count) for source, count in job.sources.items()),
                ("held out", len(job.held)),
                ("shortest, tokens", lengths.min),
                ("median, tokens", lengths.median),
                ("95 % are at most, tokens", lengths.p95),
                ("longest, tokens", lengths.max),
                ("limit, tokens", job.max_length),
                ("tokens in all", lengths.total),
                ("of these with loss", lengths.trained),
            ],
        ),
        f"The loss covers the answer and `{job.prepared.end_of_turn}`. Nothing is cut.",
        "## Left out",
        _listed(job.prepared.problems) or "No pair was left out.",
    ]
    if job.held_out_problems:
        parts += ["Of the held-out pairs:", _listed(job.held_out_problems)]
    if job.prepared.notes:
        parts += ["## Trained on, but worth a look", _listed(job.prepared.notes)]
    parts += ["## Recipe", _table(("", ""), numbers)]
    if done is None:
        parts.append("Training has not finished.")
    else:
        parts += ["## Result", "\n".join(f"- {line}" for line in outcome(done))]
        if done.looks:
            rows = [(step, f"{loss:.4f}") for step, loss in done.looks]
            parts.append(_table(("step", "held-out loss, nats a token"), rows))
        if done.preference is not None:
            parts += _second(done.preference)
        parts.append(f"![loss]({PICTURE})")
    return "\n\n".join(parts) + "\n"


def _second(stage: Stage) -> list[str]:
    details = [(name.replace("_", " "), _number(value)) for name, value in stage.details.items()]
    return [
        f"## Second stage: {stage.method}",
        _table(("", ""), [("examples", stage.examples), ("steps", stage.steps), *details]),
        _listed(stage.left_out) or "No row was left out.",
    ]


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _listed(found: Mapping[str, Mapping[str, str]]) -> str:
    lines = []
    for reason, rows in found.items():
        lines.append(f"- {reason}: {len(rows)}")
        lines += [f"  - `{row_id}`: {detail}" for row_id, detail in list(rows.items())[:_SHOWN]]
        if len(rows) > _SHOWN:
            lines.append(f"  - and {len(rows) - _SHOWN} more, in train.json")
    return "\n".join(lines)


def _table(head: tuple[str, str], rows: Sequence[tuple[Any, Any]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {left} | {right} |" for left, right in rows)])
