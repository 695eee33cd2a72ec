"""What is compared between a canary and its control: two metrics, five guards, the shadow.

    negatives, edits   answers that somebody was not content with, or corrected
    errors             answers that came to no end
    latency            answers slower than a line drawn by the control
    length             answers longer than one, and answers that say nothing
    confidence         answers less sure than one
    shadow             decided comparisons that the candidate lost, out of sight

All are shares of yes and no, so that one kind of evidence does for all, and no single slow or long
answer can decide. The metrics must be shown to be safe before a stage ends; a guard only speaks
when it is clear that much more answers are beyond its line. Shorter answers are no guard: a
version that learnt to name a queue is meant to say less.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.canary.answers import Answers, Side
from eval.canary.evidence import (
    Bounds,
    Moments,
    Seen,
    beyond,
    bounds,
    excluded,
    harm,
    moments,
    safety,
    seen,
)
from ledger.settings.rollout import Guards, Rollout, Stage

METRICS = ("negatives", "edits")
GUARDS = ("errors", "latency", "long", "empty", "confidence")
SHADOW = "shadow"

#: How the false rollbacks of a stage are shared: negatives are the earliest sign.
SHARES = {"negatives": 0.6, "edits": 0.3}
_REST = 1 - sum(SHARES.values())
# Of all stages the first one, where a bad version is met, has most of the false rollbacks.
_FIRST = 0.8
#: Fewer answers of the canary than this show nothing.
FEWEST = 50


class Signal(NamedTuple):
    """One comparison.

    Attributes:
        canary, control: rates, hits an answer.
        harm: evidence of harm, in units of what is needed: from 1 on it is shown. Of a metric,
            that the canary's rate is above the control's; of a guard, that it is more than
            `rollout.guards.points` above it.
        safety: the same, that it is below `tolerated` times the control's; None of a guard.
        ratio: the confidence sequence of the ratio of the two.
        tolerated: ratio from which on harm is too much; None of a guard.
        correlation: of the answers of one user, 0 to 1.
    """

    name: str
    canary: float
    control: float
    harm: float
    safety: float | None
    ratio: Bounds
    tolerated: float | None
    correlation: float

    @property
    def harmful(self) -> bool:
        """Whether harm is shown."""
        return self.harm >= 1

    @property
    def safe(self) -> bool:
        """Whether harm above the tolerance is excluded; a guard that is silent is safe."""
        return self.safety is None or self.safety >= 1

    def as_json(self) -> dict[str, Any]:
        """Numbers for a report."""
        found = {**self._asdict(), "ratio": [_finite(end) for end in self.ratio]}
        return {
            key: round(value, 5) if isinstance(value, float) else value
            for key, value in found.items()
        }


def alpha(rollout: Rollout, stage: int, name: str) -> float:
    """How often, over all looks of a stage, a good canary may be taken for harmful by a signal.

    Args:
        stage: its position; the shares of all stages and signals add up to
            `rollout.false_rollbacks`.
    """
    later = len(rollout.stages) - 1
    of_stage = 1.0
    if later > 0:
        of_stage = _FIRST if stage == 0 else (1 - _FIRST) / later
    of_signal = SHARES.get(name, _REST / (len(GUARDS) + 1))
    return rollout.false_rollbacks * of_stage * of_signal


def metrics(found: Answers, rollout: Rollout, position: int, stage: Stage) -> list[Signal]:
    """Negatives and edits."""
    sides = {"negatives": lambda side: side.negative, "edits": lambda side: side.edited}
    return [
        compared(
            name,
            _moments(found.canary, hits(found.canary)),
            _moments(found.control, hits(found.control)),
            rollout,
            position,
            stage,
        )
        for name, hits in sides.items()
    ]


def tolerated(control: Moments, rollout: Rollout, stage: Stage) -> float:
    """The ratio of rates that is harm above the tolerance."""
    rate = (control.hits + 0.5) / (control.answers + 1)
    return float(max(1 + stage.tolerance, 1 + rollout.tolerance_points / rate))


def compared(
    name: str,
    canary: Moments,
    control: Moments,
    rollout: Rollout,
    position: int,
    stage: Stage,
) -> Signal:
    """A metric of both sides."""
    most = tolerated(control, rollout, stage)
    safe = float(excluded(canary, control, most, rollout.tolerance_points))
    return _signal(name, (canary, control), rollout, position, tolerance=most, safe=safe)


def guards(found: Answers, rollout: Rollout, position: int) -> list[Signal]:
    """What must not get much worse."""
    sides = (found.canary, found.control)
    signals = []
    for name, (canary, control) in _beyond(*sides, rollout.guards).items():
        pair = (_moments(sides[0], canary), _moments(sides[1], control))
        shown = beyond(*pair, rollout.guards.points)
        signals.append(_signal(name, pair, rollout, position, shown=shown))
    return signals


def shadowed(lost: int, won: int, rollout: Rollout, position: int) -> Signal:
    """Decided comparisons: those that the candidate lost beside those that it won."""
    decided = max(1, lost + won)
    most = (0.5 + rollout.shadow.tolerance) / (0.5 - rollout.shadow.tolerance)
    pair = (
        Moments.independent(float(decided), float(lost)),
        Moments.independent(float(decided), float(won)),
    )
    counts = Seen(float(lost), float(won), 0.5, 0.0)
    safe = float(safety(counts, most))
    return _signal(
        SHADOW, pair, rollout, position, counts=counts, tolerance=most, safe=safe, fewest=0
    )


def _signal(
    name: str,
    pair: tuple[Moments, Moments],
    rollout: Rollout,
    position: int,
    *,
    counts: Seen | None = None,
    shown: Seen | None = None,
    tolerance: float | None = None,
    safe: float | None = None,
    fewest: int = FEWEST,
) -> Signal:
    """The evidence of a pair of sides.

    Args:
        counts: what they amount to, where that is known otherwise.
        shown: what harm is read from instead.
        safe: log evidence that harm above the tolerance is excluded, nats.
    """
    counts = seen(*pair) if counts is None else counts
    level, beta = alpha(rollout, position, name), rollout.false_expansions
    enough = min(side.answers for side in pair) >= fewest
    harmful = float(harm(shown or counts)) / -math.log(level) if enough else 0.0
    if safe is not None:
        safe = max(0.0, safe) / -math.log(beta) if enough else 0.0
    return Signal(
        name,
        float(pair[0].rate),
        float(pair[1].rate),
        max(0.0, harmful),
        safe,
        bounds(counts, level, beta),
        tolerance,
        float(counts.correlation),
    )


def _moments(side: Side, hits: NDArray[np.bool_]) -> Moments:
    return moments(hits, side.users, side.weights, side.probabilities)


def _beyond(
    canary: Side, control: Side, lines: Guards
) -> dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Which answers lie beyond the lines that the control draws."""
    found = {
        "errors": (canary.failed, control.failed),
        "empty": (canary.empty, control.empty),
    }
    slow = _quantile(control.latency, 0.90) * lines.latency
    found["latency"] = (canary.latency > slow, control.latency > slow)
    long = _quantile(control.tokens, 0.95) * lines.length
    found["long"] = (canary.tokens > long, control.tokens > long)
    unsure = _quantile(control.confidence, 0.05) - lines.confidence
    found["confidence"] = (canary.confidence < unsure, control.confidence < unsure)
    return {name: found[name] for name in GUARDS}


def _quantile(values: NDArray[np.float64], at: float) -> float:
    known = values[~np.isnan(values)]
    return float(np.quantile(known, at)) if known.size else math.nan


def _finite(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None
