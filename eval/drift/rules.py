"""What is asked of a signal: the rule, the baseline, and the bets that follow from both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

HOURS_A_DAY = 24
#: The time that a budget of false alarms is for, hours.
MONTH = 30 * HOURS_A_DAY
#: Parts of the UTC day, each of hours that are taken as alike.
BLOCKS = 4
#: Evidence is not counted beyond.
MOST = 1e15
#: The largest win of an hour, as a logarithm.
LARGEST = 34.0

_STEPS = (1.0, 4 / 3, 2.0, 4.0)  # odds of the alternatives, as multiples of the limit's
_CEILING_WEIGHT = 0.25
_LEAST = 1e-4  # of a baseline's bound


class Hour(NamedTuple):
    """What came in one hour since the epoch: observations, and their sum."""

    hour: int
    n: float
    s: float


class Rule(NamedTuple):
    """From when on a signal has drifted.

    Attributes:
        share: of the false alarms of all signals that this one may cause, 0 to 1.
        budget: false alarms of all signals in 30 quiet days.
        minimum: observations since the change began.
        ratio: limit as a multiple of the baseline; None for a signal that is a place.
        least: and at least so far above the baseline.
        ceiling: a rate above it is drift whatever the baseline is.
        shift: limit as a distance from a half, for a signal that is a place.
        down: whether a fall counts too.
        per_version: whether the baseline belongs to one version, so that the next one is
            not judged by it.
        least_dispersion: 1; of places, a third: so much less do they scatter than zeros and ones.
    """

    share: float
    budget: float
    minimum: int
    ratio: float | None = None
    least: float = 0.0
    ceiling: float | None = None
    shift: float | None = None
    down: bool = False
    per_version: bool = False
    least_dispersion: float = 1.0

    @property
    def allowed(self) -> float:
        """False alarms of this signal in 30 quiet days."""
        return self.budget * self.share

    @property
    def level(self) -> float:
        """Evidence that is reached after this mean time, hours, or a longer one, by chance."""
        return MONTH / self.allowed


@dataclass(frozen=True)
class Baseline:
    """What was usual.

    Attributes:
        rate: 0 to 1, of `count` observations in the hours from `since` to `until`.
        low, high: bounds of what may still be usual: sampling error of the warm-up, and the
            scatter between days.
        dispersion: variance of an hour's sum, over that of independent zeros and ones.
        blocks: how far each quarter of the UTC day is off the rate.
        level: the evidence at which a change is believed.
    """

    rate: float
    low: float
    high: float
    count: float
    since: int
    until: int
    dispersion: float = 1.0
    blocks: tuple[float, ...] = (0.0,) * BLOCKS
    level: float = math.inf


class Line(NamedTuple):
    """One way to be off: what is not off yet, what would be, and its part of the evidence."""

    name: str
    null: float
    limit: float
    weight: float
    alternatives: tuple[float, ...]


def lines(rule: Rule, baseline: Baseline | None) -> list[Line]:
    """The lines of a signal. `down` looks at one minus each observation."""
    found = []
    ceiling = _CEILING_WEIGHT if rule.ceiling is not None else 0.0
    if rule.ceiling is not None:
        found.append(_line("ceiling", rule.ceiling, rule.ceiling, ceiling))
    if baseline is not None:
        part = (1 - ceiling) / (1 + rule.down)
        found.append(_line("up", baseline.high, limit_of(rule, baseline), part))
        if rule.down:
            down = 1 - limit_of(rule, baseline, down=True)
            found.append(_line("down", 1 - baseline.low, down, part))
    return [one for one in found if one.null < 1]


def limit_of(rule: Rule, baseline: Baseline, *, down: bool = False) -> float:
    """The rate beyond which a change matters."""
    if rule.shift is not None:
        return max(baseline.rate - rule.shift, 0.0) if down else baseline.rate + rule.shift
    ratio = rule.ratio or 1.0
    if down:
        return min(baseline.rate / ratio, baseline.rate - rule.least)
    return max(baseline.rate * ratio, baseline.rate + rule.least)


def _line(name: str, null: float, limit: float, weight: float) -> Line:
    null = min(max(null, _LEAST), 1.0)
    # Where little was seen in the warm-up the bound may lie beyond the limit.
    first = max(min(limit, 0.999), null + 0.1 * null * (1 - null))
    odds = first / max(1 - first, 1e-9)
    steps = _STEPS if limit > null else tuple(1.25 * one for one in _STEPS)
    return Line(name, null, limit, weight, tuple(odds * g / (1 + odds * g) for g in steps))


def block(hour: int) -> int:
    """Which part of the UTC day an hour is in."""
    return hour % HOURS_A_DAY * BLOCKS // HOURS_A_DAY
