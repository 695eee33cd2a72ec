"""Comparing two versions on the same questions: intervals and tests.

Differences are candidate minus baseline, one a question, in points of score (-1 to 1). Questions
that share a conversation are not independent: they are one unit, drawn and swapped as a whole.
Knows nothing of gold sets or servers. What could be seen at all is `eval.power`.

Where every difference is -1, 0 or 1 and every question is a unit of its own, everything follows
from two counts, `fixed` and `broken`:

    test       exact McNemar: binomial tails on the changed answers
    interval   Tango's score interval with a continuity correction, and no wider than the exact
               interval of the share that broke. A bootstrap has no width where nothing changed;
               this one has: nothing changed in n questions leaves room for a loss of 3.7 / n.
               By exact enumeration over n from 10 to 300 a loss of the margin passes at most
               2.5 % of the time at the level .95; without the correction up to 4.8 %

Otherwise (several samples a question, conversations, scores between 0 and 1):

    test       sign flips of whole units, which is McNemar's test where units are yes/no questions
    interval   percentile bootstrap of whole units, expanded for few of them, and never narrower
               than what is left when few units changed (`_room`)

Sources:
    paired differences, clustered: Miller, "Adding Error Bars to Evals" (arXiv 2411.00640)
    score interval: Tango, Statistics in Medicine 17 (1998), 891-908
    exact test on discordant pairs: McNemar, Psychometrika 12 (1947), with binomial tails
    sign flips of independent units: Canay, Romano & Shaikh, Econometrica 85 (2017), 1013-1030;
        with (1 + hits) / (1 + draws): Phipson & Smyth, Stat. Appl. Genet. Mol. Biol. 9 (2010)
    expanded percentile interval: Hesterberg, The American Statistician 69 (2015), 371-386
    step-down correction: Holm, Scandinavian Journal of Statistics 6 (1979), 65-70
    exact interval of a share: Clopper & Pearson, Biometrika 26 (1934), 404-413
    kappa: Cohen, Educational and Psychological Measurement 20 (1960), 37-46
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import beta, binom
from scipy.stats import t as student

Floats = NDArray[np.float64]
#: Of drawn positions, shape (some, units), to one value each.
Statistic = Callable[[NDArray[np.intp]], Any]

# Resampled indices held at once: 32 MiB.
_DRAWS_AT_ONCE = 1 << 22
# Units up to which all sign flips are counted instead of drawn.
_ALL_FLIPS = 14
_STEPS = 60  # of a bisection: to the last bit

MCNEMAR = "exact McNemar test, score interval (Tango)"
FLIPS = "sign-flip test of units, bootstrap interval"


class Interval(NamedTuple):
    """Both ends are in it."""

    low: float
    high: float


class Comparison(NamedTuple):
    """Two versions on one set of questions.

    Attributes:
        difference: mean of the differences.
        interval: of its true value, two-sided.
        p_worse: one-sided, that the candidate is worse.
        p_value: two-sided.
        method: how they came about.
        questions, units: how many there are.
        discordance: mean squared difference of a unit in units of the mean unit's size; for
            yes/no questions the share that changed. See `discordance`.
        change: typical size of the difference of a unit that changed; 1 for yes/no questions.
    """

    difference: float
    interval: Interval
    p_worse: float
    p_value: float
    method: str
    questions: int
    units: int
    discordance: float
    change: float = 1.0


def compare(
    differences: Sequence[float] | Floats,
    clusters: Sequence[str] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare by what fits the differences, see the module's docstring.

    Args:
        differences: one a question, shape (n,), in [-1, 1].
        clusters: for each question the unit that it belongs to; None: itself.

    Raises:
        ValueError: there is no difference, or clusters and differences are not as many.
    """
    values = np.asarray(differences, dtype=np.float64)
    sums, sizes = units_of(values, clusters)
    mean = float(values.mean())
    changed = discordance(values, clusters)
    change = 1.0
    if sums.size == values.size and bool(np.isin(values, (-1.0, 0.0, 1.0)).all()):
        fixed, broken = int((values > 0).sum()), int((values < 0).sum())
        interval = score_interval(fixed, broken, values.size, confidence=confidence)
        p_worse, p_value = mcnemar_worse(fixed, broken), mcnemar_exact(fixed, broken)
        method = MCNEMAR
    else:
        interval = unit_interval(
            values, clusters, confidence=confidence, resamples=resamples, seed=seed
        )
        p_worse, p_value = sign_flips(sums, draws=resamples, seed=seed)
        method = FLIPS
        units = sums / sizes.mean()
        change = float((np.sum(units**2) + 1) / (np.sum(np.abs(units)) + 1))
    counts = (values.size, sums.size)
    return Comparison(mean, interval, p_worse, p_value, method, *counts, changed, change)


def units_of(
    values: Sequence[float] | Floats, clusters: Sequence[str] | None
) -> tuple[Floats, Floats]:
    """Sum and size of each unit.

    Raises:
        ValueError: see `compare`.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("an interval needs at least one difference")
    if clusters is None:
        return array, np.ones_like(array)
    if len(clusters) != array.size:
        raise ValueError(f"{len(clusters)} clusters for {array.size} differences")
    _, member_of = np.unique(np.asarray(clusters), return_inverse=True)
    return (
        np.bincount(member_of, weights=array).astype(np.float64),
        np.bincount(member_of).astype(np.float64),
    )


# -- yes/no questions, each for itself -------------------------------------------------------------


def mcnemar_exact(fixed: int, broken: int) -> float:
    """Two-sided p-value of the exact McNemar test; 1.0 where no answer changed.

    Args:
        fixed: questions that only the candidate answers rightly.
        broken: questions that only the baseline answers rightly.
    """
    return min(1.0, 2 * mcnemar_worse(max(fixed, broken), min(fixed, broken), better=True))


def mcnemar_worse(fixed: int, broken: int, *, better: bool = False) -> float:
    """One-sided p-value: how seldom as few are fixed, or fewer, where neither is better.

    Args:
        better: the other side: as few are broken, or fewer.
    """
    return float(binom.cdf(broken if better else fixed, fixed + broken, 0.5))


def score_reach(
    fixed: ArrayLike, broken: ArrayLike, questions: ArrayLike, difference: ArrayLike
) -> Floats:
    """How far the observed difference lies above a supposed true one, in standard errors.

    Tango's score statistic: the variance is that of the most likely pair of shares with the
    supposed difference. Negative where the observed one lies below. Half a step of the
    observed difference is taken off: its steps are 1, and 2 where every answer changed.
    All arguments may be arrays.
    """
    b, c = np.asarray(fixed, dtype=np.float64), np.asarray(broken, dtype=np.float64)
    n, delta = np.asarray(questions, dtype=np.float64), np.asarray(difference, dtype=np.float64)
    linear = -b - c + (2 * n - b + c) * delta
    constant = -c * delta * (1 - delta)
    share = (np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * share + delta * (1 - delta))
    away = b - c - n * delta
    step = np.where(b + c == n, 2.0, 1.0)
    corrected = np.sign(away) * np.maximum(np.abs(away) - step / 2, 0.0)
    reach: Floats = corrected / np.sqrt(np.maximum(variance, 1e-12))
    return reach


def score_interval(
    fixed: int, broken: int, questions: int, *, confidence: float = 0.95
) -> Interval:
    """Tango's interval of the difference of two paired shares, with a continuity correction.

    Args:
        questions: all of them, unchanged ones included.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    estimate = (fixed - broken) / questions

    def edge(outer: float, sign: int) -> float:
        def beyond(delta: float) -> float:
            return sign * float(score_reach(fixed, broken, questions, delta)) - z

        return outer if beyond(outer) < 0 else float(brentq(beyond, estimate, outer, xtol=1e-12))

    # A loss is no larger than the share that broke, a gain no larger than the share fixed.
    most_lost = share_interval(broken, questions, confidence=confidence).high
    most_won = share_interval(fixed, questions, confidence=confidence).high
    return Interval(max(edge(-1.0, 1), -most_lost), min(edge(1.0, -1), most_won))


# -- everything else -------------------------------------------------------------------------------


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
    sums, sizes = units_of(differences, clusters)
    means = resampled(
        sums.size,
        lambda drawn: sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1),
        resamples=resamples,
        seed=seed,
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


def resampled(units: int, statistic: Statistic, *, resamples: int, seed: int) -> Floats:
    """A statistic of units drawn with replacement, shape (resamples,)."""
    rng = np.random.default_rng(seed)
    found = np.empty(resamples)
    step = max(1, _DRAWS_AT_ONCE // units)
    for start in range(0, resamples, step):
        drawn = rng.integers(0, units, size=(min(step, resamples - start), units))
        found[start : start + step] = statistic(drawn)
    return found


def unit_interval(
    differences: Sequence[float] | Floats,
    clusters: Sequence[str] | None,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of whole units, expanded for few units, with room for rare changes.

    A percentile interval of few units is too narrow by about sqrt((n - 1) / n) and by using the
    normal's quantiles instead of Student's; the level is raised by as much (Hesterberg).
    """
    values = np.asarray(differences, dtype=np.float64)
    sums, sizes = units_of(values, clusters)
    count = sums.size
    if count < 2:
        return Interval(-1.0, 1.0)
    quantile = float(student.ppf((1 + confidence) / 2, count - 1))
    expanded = 1 - 2 * NormalDist().cdf(-quantile * float(np.sqrt(count / (count - 1))))
    low, high = bootstrap_interval(
        values, clusters=clusters, confidence=expanded, resamples=resamples, seed=seed
    )
    estimate = float(values.mean())
    unevenness = float(np.mean((sizes / sizes.mean()) ** 2))
    return Interval(
        min(low, -_room(-estimate, count, quantile, unevenness)),
        max(high, _room(estimate, count, quantile, unevenness)),
    )


def _room(estimate: float, units: int, quantile: float, unevenness: float) -> float:
    """The largest true mean that the observed one leaves room for, if changes are rare and whole.

    A mean of δ of which all comes from few units that change wholly has the variance
    `unevenness` (|δ| - δ²): Tango's, with nothing fixed. Real data vary at least about as much,
    and where they show less it is because few units changed, so that they cannot tell.
    """
    inside, outside = estimate, 1.0

    def seen(delta: float) -> bool:
        away = max(delta - estimate - 0.5 / units, 0.0)
        variance = unevenness * max(abs(delta) - delta**2, 0.0) / units
        return away > quantile * float(np.sqrt(variance))

    if not seen(outside):
        return outside
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if seen(middle) else (middle, outside)
    return outside


def sign_flips(
    sums: Sequence[float] | Floats, *, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """p-values of the test that swaps the two versions within units: one-sided worse, two-sided.

    Where neither version is better the sum of a unit's differences is as likely with either sign.
    All swaps are counted for few units, drawn for many.

    Args:
        sums: of the differences of each unit.
    """
    values = np.asarray(sums, dtype=np.float64)
    values = values[values != 0]
    if values.size == 0:
        return 1.0, 1.0
    seen = float(values.sum())
    slack = 1e-9 * float(np.abs(values).sum())
    if values.size <= _ALL_FLIPS:
        bits = np.arange(1 << values.size)[:, None] >> np.arange(values.size)
        totals = np.where(bits & 1, 1.0, -1.0) @ values
        worse, apart, count = 0, 0, float(totals.size)
    else:
        rng = np.random.default_rng(seed)
        totals = np.empty(draws)
        step = max(1, _DRAWS_AT_ONCE // values.size)
        for start in range(0, draws, step):
            shape = (min(step, draws - start), values.size)
            totals[start : start + step] = np.where(rng.random(shape) < 0.5, 1.0, -1.0) @ values
        worse, apart, count = 1, 1, float(draws + 1)
    worse += int((totals <= seen + slack).sum())
    apart += int((np.abs(totals) >= abs(seen) - slack).sum())
    return worse / count, apart / count


# -- shares, corrections, agreement ----------------------------------------------------------------


def discordance(
    differences: Sequence[float] | Floats, clusters: Sequence[str] | None = None
) -> float:
    """Mean squared difference of a unit, for yes/no questions the share whose score changed.

    Half an observation is added to each of the four cells (Agresti & Min, Statistics in
    Medicine 24, 2005): a small set on which nothing changed does not prove that nothing ever
    changes.
    """
    sums, sizes = units_of(differences, clusters)
    values = sums / sizes.mean()
    return float((np.sum(values**2) + 1) / (values.size + 2))


def share_interval(hits: int, count: int, *, confidence: float = 0.95) -> Interval:
    """Exact interval of a share (Clopper and Pearson)."""
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, count - hits + 1))
    high = 1.0 if hits == count else float(beta.ppf(1 - tail, hits + 1, count - hits))
    return Interval(low, high)


def share_above(
    values: Sequence[float] | Floats, clusters: Sequence[str] | None, bound: float
) -> float:
    """One-sided p-value that the true mean of scores in [0, 1] is above a bound.

    The binomial tail at the sum of the units' means, rounded down: of all scores with a mean a
    yes/no score varies most, so it is on the safe side for others.
    """
    sums, sizes = units_of(values, clusters)
    hits = int(np.floor(float((sums / sizes).sum()) + 1e-9))
    return float(binom.sf(hits - 1, sums.size, bound))


def share_below(
    values: Sequence[float] | Floats, clusters: Sequence[str] | None, bound: float
) -> float:
    """As `share_above`, that it is below."""
    sums, sizes = units_of(values, clusters)
    hits = int(np.ceil(float((sums / sizes).sum()) - 1e-9))
    return float(binom.cdf(hits, sums.size, bound))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number: any of them falsely below a level is as likely as that.

    Holm's step-down method, whatever the dependence between the tests.
    """
    order = sorted(range(len(p_values)), key=lambda position: p_values[position])
    corrected, largest = [1.0] * len(p_values), 0.0
    for rank, position in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[position]))
        corrected[position] = largest
    return corrected


def kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Cohen's kappa of two raters; None where chance alone gives full agreement.

    Raises:
        ValueError: they did not rate as much, or nothing.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} ratings")
    count = len(first)
    agree = sum(a == b for a, b in zip(first, second, strict=True)) / count
    names = set(first) | set(second)
    chance = sum(first.count(name) * second.count(name) for name in names) / count**2
    return None if chance >= 1 else (agree - chance) / (1 - chance)
