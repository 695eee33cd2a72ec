"""The picture of a run's loss: each step, the looks at held-out pairs, the step that was kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.files import write_atomic
from train.result import Stage, TrainResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TRAIN, _SMOOTH, _HELD, _BEST = "#9db7d5", "#1f4e8c", "#c4581a", "#2e7d32"


def loss_png(done: TrainResult, path: Path) -> None:
    """Draw the loss over the steps; a second stage gets a panel of its own.

    Args:
        path: the PNG, written whole or not at all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 1 if done.preference is None else 2
    # A figure of its own, without pyplot: nothing global, no display.
    figure = Figure(figsize=(6.4 * panels, 4.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _first(axes[0], done)
    if done.preference is not None:
        _second(axes[1], done.preference)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def _first(axes: Axes, done: TrainResult) -> None:
    _curve(axes, done.loss)
    title = f"{done.run_id}\n{done.pairs} pairs, {done.steps} steps"
    if done.stopped_early:
        title += f" of {done.planned_steps}, stopped early"
    axes.set_title(title, loc="left", fontsize=10, parse_math=False)
    axes.set_ylabel("loss, nats a token")
    if done.looks:
        steps, losses = zip(*done.looks, strict=True)
        if done.heldout is not None:
            steps, losses = (0, *steps), (done.heldout["before"], *losses)
        axes.plot(steps, losses, "o-", color=_HELD, markersize=4, label="held-out pairs")
    if done.best_step is not None:
        axes.axvline(done.best_step, color=_BEST, linestyle="--", linewidth=1)
        axes.plot([], [], "--", color=_BEST, linewidth=1, label=f"kept: step {done.best_step}")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _second(axes: Axes, stage: Stage) -> None:
    _curve(axes, stage.loss)
    title = f"second stage: {stage.method}\n{stage.examples} examples, {stage.steps} steps"
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_ylabel("loss")
    axes.legend(frameon=False)


def _curve(axes: Axes, losses: list[float]) -> None:
    steps = range(1, len(losses) + 1)
    axes.plot(steps, losses, color=_TRAIN, linewidth=1, label="each step")
    # Centred, so that it lies on the curve and not behind it; fewer steps at both ends.
    half = max(1, len(losses) // 40)
    smooth = [
        _mean(losses[max(0, i - reach) : i + reach + 1])
        for i in range(len(losses))
        for reach in [min(half, i, len(losses) - 1 - i)]
    ]
    label = f"mean of {2 * half + 1} steps"
    axes.plot(steps, smooth, color=_SMOOTH, linewidth=2, label=label)
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
