"""How much more often something bad happens with the canary than with its control, at any time.

What is compared are two rates: hits an answer, for the canary and for the control that answered
other users in the same stage. The evidence looks at the hits of both together and asks how many
of them fell to the canary. Were its rate r times the control's, each would fall to it with the
probability w r / (w r + 1 - w), w being the canary's part of the answers. That has three
advantages: the control's own rate drops out, and may change from hour to hour; nothing is
approximated where hits are few; and the tolerance is a ratio, which means the same at a rate of
1 % and of 20 %.

For each supposed ratio the likelihood of what was seen, averaged over worse ratios, is divided by
its likelihood under the supposed one. While the canary is no worse than that, this stays below
1 / alpha for ever with a probability of at least 1 - alpha, however often one looks (Ville). The
ratios that are not refuted so are a confidence sequence.

Answers of one user are alike, so that they say less than as many users. Hits and answers of each
side are therefore scaled down to what would vary as much if all were independent: by the intraclass
correlation of both sides' users, by weights, and, where rows were sampled away, by what that
costs. Below one hit in ten answers this hardly matters; above, hits vary less than counts of
rare things do, and are scaled up by 1 / (1 - rate).

With scaled counts the guarantee is no theorem any more; `python -m benchmarks.canary` shows what
holds, users with much to say included.

Sources:
    Robbins, "Statistical methods related to the law of the iterated logarithm", Annals of
        Mathematical Statistics 41 (1970): mixtures; Ville (1939): the inequality
    Howard, Ramdas, McAuliffe & Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence
        sequences", Annals of Statistics 49 (2021), arXiv 1810.08240
    Lindon & Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022, arXiv
        2011.03567: counts of two arms by how they divide
    Turner, Ly & Grünwald, "Generic E-variables for exact sequential k-sample tests", arXiv
        2106.02693: the exact test for two rates; in blocks, which answers do not come in
    Rao & Scott, "A simple method for the analysis of clustered binary data", Biometrics 48 (1992)
    Kish, "Survey Sampling" (1965): design effects
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: The harm that a mixture is sharpest for: half as many again, what `drift` alarms at.
_HARM = math.log(1.5)
# Supposed effects, as logarithms of ratios: to 20 times.
_GRID = np.linspace(0.01, 3.0, 150)
# Bounds are looked for within these ratios.
_WIDEST = math.log(1e4)
_STEPS = 40
# Weight of the ratio in what excludes harm.
_BY_RATIO = 0.75


class Moments(NamedTuple):
    """Sums over the answers of one side; each may be an array, of several sides at once.

    An answer counts for g (below 1 where its user has too many), was kept with probability p,
    and is a hit (y = 1) or not.

    Attributes:
        answers: sum of w = g / p.
        hits: sum of w y.
        varying: sum of g² / p.
        sampling: sum of g² (1 - p) / p².
        pairs: over all pairs of answers of the same user, sum of w w'.
        pair_hits: the same of w y w' + w w' y', halved.
        pair_both: the same of w y w' y'.
    """

    answers: Any
    hits: Any
    varying: Any
    sampling: Any = 0.0
    pairs: Any = 0.0
    pair_hits: Any = 0.0
    pair_both: Any = 0.0

    @classmethod
    def independent(cls, answers: Any, hits: Any) -> Moments:
        """Of answers that all were kept, each by another user."""
        return cls(answers, hits, answers)

    @property
    def rate(self) -> Any:
        """Hits an answer; 0 of none."""
        return self.hits / np.maximum(self.answers, 1e-12)


def moments(
    hits: Sequence[bool] | NDArray[Any],
    users: Sequence[str] | NDArray[Any],
    weights: Sequence[float] | Floats,
    probabilities: Sequence[float] | Floats,
) -> Moments:
    """Sum up the answers of one side; all arguments of shape (n,).

    Args:
        weights: g, what each counts for.
        probabilities: p, with which each was kept.
    """
    y, g = np.asarray(hits, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    p = np.asarray(probabilities, dtype=np.float64)
    if y.size == 0:
        return Moments(0.0, 0.0, 0.0)
    w = g / p
    _, of = np.unique(np.asarray(users), return_inverse=True)
    all_, hit = np.bincount(of, weights=w), np.bincount(of, weights=w * y)
    return Moments(
        answers=float(w.sum()),
        hits=float((w * y).sum()),
        varying=float((g * g / p).sum()),
        sampling=float((g * g * (1 - p) / p**2).sum()),
        pairs=float((all_**2).sum() - (w * w).sum()),
        pair_hits=float((all_ * hit).sum() - (w * w * y).sum()),
        pair_both=float((hit**2).sum() - (w * w * y).sum()),
    )


class Seen(NamedTuple):
    """What two sides amount to, were all answers independent; see the module.

    Attributes:
        canary, control: hits.
        part: the canary's part of the answers, 0 to 1.
        correlation: of the answers of one user, 0 to 1.
    """

    canary: Any
    control: Any
    part: Any
    correlation: Any


def seen(canary: Moments, control: Moments) -> Seen:
    """Scale both sides to independent answers."""
    rate, correlation = _together(canary, control)
    sides = []
    for side in (canary, control):
        # As many answers as have this variance where hits are rare and independent.
        sides.append(side.answers**2 * rate / _variance(side, rate, correlation))
    part = sides[0] / np.maximum(sides[0] + sides[1], 1e-12)
    return Seen(canary.rate * sides[0], control.rate * sides[1], part, correlation)


def beyond(canary: Moments, control: Moments, points: float, *, high: bool = True) -> Seen:
    """The canary's hits beside its misses, against the control's rate and `points` more.

    `harm` of it is evidence that the canary's rate is above that, `safety` that it is below. For
    hits that the control hardly has: a ratio to almost nothing says little.

    Args:
        high: whether the control's rate is taken at the upper end of its 99 % interval, for harm,
            or at the lower one, for safety: it is known, but not exactly.
    """
    rate, correlation = _together(canary, control)
    error = np.sqrt(_variance(control, rate, correlation)) / np.maximum(control.answers, 1e-12)
    at = control.rate + 2.58 * error if high else np.maximum(control.rate - 2.58 * error, 0.0)
    bound = np.clip(at + points, 1e-6, 0.999)
    own = np.clip(canary.rate, 0.001, 0.999)
    answers = canary.answers**2 * own * (1 - own) / _variance(canary, own, correlation)
    return Seen(canary.rate * answers, (1 - canary.rate) * answers, bound, correlation)


def _together(canary: Moments, control: Moments) -> tuple[Any, Any]:
    """Rate of both sides, and the intraclass correlation of their users."""
    # Half a hit more, so that a rate is never 0.
    rate = (canary.hits + control.hits + 0.5) / (canary.answers + control.answers + 1)
    rate = np.minimum(rate, 0.999)
    pairs = canary.pairs + control.pairs
    both, hits = canary.pair_both + control.pair_both, canary.pair_hits + control.pair_hits
    spread = rate * (1 - rate)
    alike = (both - 2 * rate * hits + rate**2 * pairs) / np.maximum(spread * pairs, 1e-12)
    return rate, np.clip(alike, 0.0, 1.0)


def _variance(side: Moments, rate: Any, correlation: Any) -> Any:
    """Of the hits beside what the rate lets expect."""
    spread = rate * (1 - rate)
    found = spread * (side.varying + correlation * side.pairs) + rate**2 * side.sampling
    return np.maximum(found, 1e-12)


def harm(found: Seen, ratio: Any = 1.0) -> Any:
    """Log evidence, nats, that the canary's rate is more than `ratio` times the control's.

    Above log(1 / alpha) it is shown; while it is not so, that happens with probability alpha at
    most, over all looks.
    """
    return _evidence(found, np.log(ratio), _prior(_HARM), 1.0)


def safety(found: Seen, ratio: Any) -> Any:
    """The same, that the rate is less than `ratio` times the control's."""
    distance = float(np.clip(np.log(np.min(ratio)), 0.1, 1.5))
    return _evidence(found, np.log(ratio), _prior(distance), -1.0)


def excluded(canary: Moments, control: Moments, ratio: Any, points: float) -> Any:
    """Log evidence, nats, that harm above the tolerance is excluded.

    That harm is a rate above `ratio` times the control's and above the control's and `points`.
    The evidence is the mean of two, with more weight on the ratio, so one of them is enough: where
    hardly anything is ever hit, no hit among many answers says that there is no such harm, and
    says nothing of ratios.
    """
    by_ratio = safety(seen(canary, control), ratio) + math.log(_BY_RATIO)
    by_points = safety(beyond(canary, control, points, high=False), 1.0)
    return np.logaddexp(by_ratio, by_points + math.log(1 - _BY_RATIO))


class Bounds(NamedTuple):
    """Between which ratios of the two rates the true one lies."""

    low: float
    high: float


def bounds(found: Seen, alpha_low: float, alpha_high: float) -> Bounds:
    """The confidence sequence of the ratio at this look.

    Args:
        alpha_low, alpha_high: how often, over all looks, the ratio is below `low`, above `high`.
    """
    low = _crossing(lambda at: float(harm(found, math.exp(at))) >= -math.log(alpha_low), True)
    high = _crossing(lambda at: float(safety(found, math.exp(at))) >= -math.log(alpha_high), False)
    return Bounds(low, high)


def _prior(centre: float) -> Floats:
    """Weights of the supposed effects: most near `centre`, the rest anywhere."""
    near = np.exp(-0.5 * ((_GRID - centre) / (0.5 * centre)) ** 2)
    far = np.exp(-_GRID)
    weights: Floats = 0.7 * near / near.sum() + 0.3 * far / far.sum()
    return weights


def _evidence(found: Seen, log_ratio: Any, prior: Floats, sign: float) -> Any:
    canary, control = np.asarray(found.canary)[..., None], np.asarray(found.control)[..., None]
    odds = np.asarray(found.part / np.maximum(1 - found.part, 1e-12))[..., None]
    base = np.asarray(log_ratio, dtype=np.float64)[..., None]
    supposed, other = odds * np.exp(base), odds * np.exp(base + sign * _GRID)
    # log of (q' / q)^canary ((1 - q') / (1 - q))^control with q = odds / (1 + odds)
    each = canary * (sign * _GRID) - (canary + control) * (np.log1p(other) - np.log1p(supposed))
    total = each + np.log(prior)
    most = total.max(axis=-1)
    return most + np.log(np.exp(total - most[..., None]).sum(axis=-1))


def _crossing(refuted: Any, low: bool) -> float:
    """The outermost ratio that is not refuted, by bisection."""
    inside, outside = (_WIDEST, -_WIDEST) if low else (-_WIDEST, _WIDEST)
    if not refuted(outside):
        return 0.0 if low else math.inf
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        if refuted(middle):
            outside = middle
        else:
            inside = middle
    return math.exp(outside)
