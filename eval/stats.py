"""Comparing two versions on the same questions: interval, test, and what could be seen at all.

Differences are candidate minus baseline, one a question, in points of score (0 to 1).
Knows nothing of gold sets or servers.

Sources:
    paired differences, clustered: Miller, "Adding Error Bars to Evals" (arXiv 2411.00640)
    percentile bootstrap: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), ch. 13
    exact test on discordant pairs: McNemar, Psychometrika 12 (1947), with binomial tails
    detectable difference: Connor, Biometrics 43 (1987), 207-211; continuity correction:
        Edwards, Psychometrika 13 (1948)
    half an observation added to each cell: Agresti & Min, Statistics in Medicine 24 (2005)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: The chance of seeing a difference of the detectable size.
POWER = 0.8

# Resampled indices held at once: 32 MiB.
_DRAWS_AT_ONCE = 1 << 22


class Interval(NamedTuple):
    """Both ends are in it."""

    low: float
    high: float


def bootstrap_interval(
    differences: Sequence[float] | Floats,
    *,
    clusters: Sequence[str] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the mean paired difference.

    Args:
        differences: one a question, shape (n,).
        clusters: for each question the group that is drawn as a whole, such as its
            conversation; None lets each question stand for itself.
        confidence: level of the two-sided interval, 0 to 1.

    Raises:
        ValueError: there is no difference, or clusters and differences are not as many.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size == 0:
        raise ValueError("an interval needs at least one difference")
    sums: Floats = values
    sizes: Floats = np.ones_like(values)
    if clusters is not None:
        if len(clusters) != values.size:
            raise ValueError(f"{len(clusters)} clusters for {values.size} differences")
        _, member_of = np.unique(np.asarray(clusters), return_inverse=True)
        sums = np.bincount(member_of, weights=values).astype(np.float64)
        sizes = np.bincount(member_of).astype(np.float64)
    rng = np.random.default_rng(seed)
    count = sums.size
    means = np.empty(resamples)
    step = max(1, _DRAWS_AT_ONCE // count)
    for start in range(0, resamples, step):
        drawn = rng.integers(0, count, size=(min(step, resamples - start), count))
        means[start : start + step] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


def mcnemar_exact(fixed: int, broken: int) -> float:
    """Two-sided p-value of the exact McNemar test; 1.0 where no answer changed.

    Args:
        fixed: questions that only the candidate answers rightly.
        broken: questions that only the baseline answers rightly.
    """
    changed = fixed + broken
    tail = sum(math.comb(changed, k) for k in range(min(fixed, broken) + 1))
    return min(1.0, 2 * tail / 2**changed)


def discordance(differences: Sequence[float] | Floats) -> float:
    """Mean squared difference, for yes/no scores the share of questions whose score changed.

    Half an observation is added to each of the four cells: a small set on which nothing
    changed does not prove that nothing ever changes.
    """
    values = np.asarray(differences, dtype=np.float64)
    return float((np.sum(values**2) + 1) / (values.size + 2))


def detectable_difference(
    questions: int, discordant: float, *, confidence: float = 0.95, power: float = POWER
) -> float:
    """Smallest true difference that the exact McNemar test sees with this power, 0 to 1.

    Solves Connor's n = (z_a √ψ + z_b √(ψ - δ²))² / δ² for δ, with δ - 1/n in the divisor: the
    exact test is that much more careful than the normal one (Edwards' continuity correction);
    without it the power was 76 % in simulation, not 80 %. A difference δ needs at least δ of
    the questions to change, so ψ is taken no smaller than δ.

    Args:
        questions: n.
        discordant: ψ, share of questions whose score changes (see `discordance`).
    """

    def seen(delta: float) -> bool:
        psi = max(discordant, delta)
        reach = z_a * math.sqrt(psi) + z_b * math.sqrt(max(psi - delta**2, 0.0))
        return reach <= math.sqrt(questions) * (delta - 1 / questions)

    z_a, z_b = _quantiles(confidence, power)
    if questions < 1 or not seen(1.0):
        return 1.0
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high


def questions_needed(
    margin: float, discordant: float, *, confidence: float = 0.95, power: float = POWER
) -> int | None:
    """Questions with which a candidate as good as the baseline passes with this power.

    The normal approximation n = (z_a + z_b)² ψ / margin² at a true difference of 0; None
    where the margin is 0, since no number of questions proves two versions equal.
    """
    if margin <= 0:
        return None
    z_a, z_b = _quantiles(confidence, power)
    return math.ceil((z_a + z_b) ** 2 * discordant / margin**2)


def _quantiles(confidence: float, power: float) -> tuple[float, float]:
    normal = NormalDist()
    return normal.inv_cdf((1 + confidence) / 2), normal.inv_cdf(power)
