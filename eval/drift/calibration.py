"""From the hours of a warm-up to a baseline: what is usual, how much it scatters, and from what
evidence on a change is believed. See `eval.drift.detector` for sources."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from eval.drift.rules import (
    BLOCKS,
    HOURS_A_DAY,
    LARGEST,
    MONTH,
    MOST,
    Baseline,
    Hour,
    Rule,
    block,
    lines,
)
from eval.drift.windows import wilson

_BOUND = 1.2816  # one-sided 90 % bound of the baseline
_LEAST_VARIANCE = 1e-4
_MONTHS, _SEED = 300, 17  # simulated at the end of a warm-up


def calibrate(hours: Iterable[Sequence[float]], rule: Rule) -> Baseline:
    """The baseline from the hours of a warm-up.

    Raises:
        ValueError: nothing was observed in them.
    """
    given = [Hour(int(h), n, s) for h, n, s in hours if n > 0]
    count = sum(one.n for one in given)
    if not count:
        raise ValueError("a baseline of nothing")
    whole = sum(one.s for one in given)
    rate = whole / count
    smooth = (whole + 0.5) / (count + 1)
    variance = max(smooth * (1 - smooth), _LEAST_VARIANCE)
    blocks = (0.0,) * BLOCKS
    dispersion = _dispersion(given, rate, blocks, variance, rule.least_dispersion)
    blocks = _blocks(given, rate, variance * dispersion)
    if any(blocks):
        dispersion = _dispersion(given, rate, blocks, variance, rule.least_dispersion)
    between, days = _between_days(given, rate, blocks, variance * dispersion)
    low, high = wilson(rate, count / dispersion, _BOUND)
    spread = _BOUND * between / math.sqrt(max(days, 1))
    baseline = Baseline(
        rate=rate,
        low=max(rate - math.hypot(rate - low, spread) - between, 0.0),
        high=min(rate + math.hypot(high - rate, spread) + between, 1.0),
        count=count,
        since=given[0].hour,
        until=given[-1].hour,
        dispersion=dispersion,
        blocks=blocks,
    )
    return replace(baseline, level=_level(given, rule, baseline, between))


def _level(given: Sequence[Hour], rule: Rule, baseline: Baseline, between: float) -> float:
    """The evidence that few enough quiet months reach, from simulated ones.

    Their hours are those of the warm-up again and again; the true rate is drawn from what the
    warm-up says of it, and each day's from its scatter. Half of what is allowed is kept back for
    what a simulation does not know, and the level is at least a tenth of what theory asks for.
    """
    rng = np.random.default_rng(_SEED)
    volume = np.zeros(given[-1].hour - given[0].hour + 1)
    for one in given:
        volume[one.hour - given[0].hour] = one.n / baseline.dispersion
    volume = np.resize(volume, MONTH)
    seen = baseline.count / baseline.dispersion
    hits = baseline.rate * seen
    truth = rng.beta(hits + 0.5, seen - hits + 0.5, size=(_MONTHS, 1))
    truth = truth + between * rng.standard_normal((_MONTHS, MONTH // HOURS_A_DAY))
    truth = np.repeat(np.clip(truth, 0.0, 1.0), HOURS_A_DAY, axis=1)
    n = np.floor(volume + rng.random((_MONTHS, MONTH)))
    s = rng.binomial(n.astype(np.int64), truth)
    whole = np.zeros((_MONTHS, MONTH))
    for line in lines(rule, baseline):
        hit = n - s if line.name == "down" else s
        for q in line.alternatives:
            win = hit * math.log(q / line.null) + (n - hit) * math.log((1 - q) / (1 - line.null))
            factor = np.exp(np.minimum(win, LARGEST))
            m = np.zeros(_MONTHS)
            weight = line.weight / len(line.alternatives)
            for hour in range(MONTH):
                m = np.minimum((m + 1) * factor[:, hour], MOST)
                whole[:, hour] += weight * m
    reached = np.quantile(whole.max(axis=1), max(1 - rule.allowed / 2, 0.5))
    return float(min(max(reached, rule.level / 10), rule.level))


def _dispersion(
    given: Sequence[Hour], rate: float, blocks: Sequence[float], variance: float, least: float
) -> float:
    squares = sum((h.s - h.n * (rate + blocks[block(h.hour)])) ** 2 for h in given)
    if len(given) < 2:
        return max(least, 1.0)
    found = squares / (variance * sum(h.n for h in given)) * len(given) / (len(given) - 1)
    return max(least, found)


def _blocks(given: Sequence[Hour], rate: float, variance: float) -> tuple[float, ...]:
    """How far each part of the day is off, shrunk by how much of that is chance."""
    n, s = [0.0] * BLOCKS, [0.0] * BLOCKS
    for one in given:
        n[block(one.hour)] += one.n
        s[block(one.hour)] += one.s
    off = [s[k] / n[k] - rate if n[k] else 0.0 for k in range(BLOCKS)]
    chance = [variance / n[k] if n[k] else math.inf for k in range(BLOCKS)]
    known = [off[k] ** 2 - chance[k] for k in range(BLOCKS) if n[k]]
    real = max(sum(known) / len(known), 0.0)
    # A little more than chance is chance, too: one block is some chi-square.
    return tuple(
        off[k] * real / (real + chance[k]) if real and n[k] else 0.0 for k in range(BLOCKS)
    )


def _between_days(
    given: Sequence[Hour], rate: float, blocks: Sequence[float], variance: float
) -> tuple[float, int]:
    """Standard deviation between days beyond chance, by moments, and how many days."""
    days: dict[int, list[float]] = {}
    for one in given:
        day = days.setdefault(one.hour // HOURS_A_DAY, [0.0, 0.0])
        day[0] += one.n
        day[1] += one.s - one.n * blocks[block(one.hour)]
    if len(days) < 3:
        return 0.0, len(days)
    excess = weight = 0.0
    for n, s in days.values():
        excess += n * ((s / n - rate) ** 2 - variance / n)
        weight += n
    excess *= len(days) / (len(days) - 1)
    return math.sqrt(max(excess / weight, 0.0)), len(days)
