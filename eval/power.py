"""What a set of questions could have seen at all, and how many would be enough.

Sources:
    power of McNemar's test: Connor, Biometrics 43 (1987), 207-211; here by summing the binomial,
        since the approximation promised up to five points of power too much on few questions
    questions for non-inferiority: Tango, Statistics in Medicine 17 (1998), 891-908
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from scipy.stats import binom
from scipy.stats import t as student

from eval.stats import FLIPS, Comparison

#: The chance of seeing a difference of the detectable size.
POWER = 0.8

_PRECISION = 1e-5
_SPREAD = 9.0  # standard deviations of the number of changed answers that are summed over
_MOST = 10_000_000  # questions; more are not asked by anybody


def detectable(found: Comparison, *, confidence: float, power: float = POWER) -> float:
    """Smallest true loss that the comparison's test finds with this power, 0 to 1."""
    if found.method == FLIPS:
        return _of_units(found, confidence, power)
    return detectable_difference(
        found.questions, found.discordance, confidence=confidence, power=power
    )


def needed(
    found: Comparison, margin: float, *, confidence: float, power: float = POWER
) -> int | None:
    """Questions with which a candidate as good as the baseline is shown to be so with this power.

    None where the margin is 0: no number of questions proves two versions equal.
    """
    units = questions_needed(margin, found.discordance, confidence=confidence, power=power)
    return None if units is None else math.ceil(units * found.questions / found.units)


def detectable_difference(
    questions: int, discordant: float, *, confidence: float = 0.95, power: float = POWER
) -> float:
    """Smallest true difference that the exact McNemar test sees with this power, 0 to 1.

    A difference δ needs at least δ of the questions to change, so the share that changes is
    taken no smaller than δ.

    Args:
        questions: n.
        discordant: share of questions whose score changes (see `eval.stats.discordance`).
    """
    if questions < 1 or mcnemar_power(questions, discordant, 1.0, confidence) < power:
        return 1.0
    low, high = 0.0, 1.0
    while high - low > _PRECISION:
        middle = (low + high) / 2
        enough = mcnemar_power(questions, discordant, middle, confidence) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def mcnemar_power(questions: int, discordant: float, loss: float, confidence: float) -> float:
    """How often the exact McNemar test finds a true loss.

    Args:
        discordant: share of questions whose score changes; no smaller than the loss.
    """
    psi = min(1.0, max(discordant, loss))
    spread = _SPREAD * math.sqrt(questions * psi * (1 - psi)) + 1
    first = max(0, math.floor(questions * psi - spread))
    last = min(questions, math.ceil(questions * psi + spread))
    changed = np.arange(first, last + 1)
    # The most that may be fixed for the test to reject: the tail is at most half of 1 - confidence.
    tail = (1 - confidence) / 2
    most = binom.ppf(tail, changed, 0.5)
    most = np.where(binom.cdf(most, changed, 0.5) > tail, most - 1, most)
    fixed = (1 - loss / psi) / 2 if psi else 0.5
    seen = np.where(most >= 0, binom.cdf(most, changed, fixed), 0.0)
    return float(np.sum(binom.pmf(changed, questions, psi) * seen))


def questions_needed(
    margin: float, discordant: float, *, confidence: float = 0.95, power: float = POWER
) -> int | None:
    """Questions with which a candidate as good as the baseline passes with this power.

    Solves √n (margin - 1/2n) = z_a √v₀ + z_b √ψ: the interval's lower end is judged by the
    variance v₀ that a loss of the margin would have. None where the margin is 0.

    Args:
        discordant: ψ, share of questions whose score changes.
    """
    if margin <= 0:
        return None
    z_a, z_b = NormalDist().inv_cdf((1 + confidence) / 2), NormalDist().inv_cdf(power)
    half = discordant / 2
    linear = -discordant - 2 * margin
    share = (math.sqrt(linear**2 - 8 * half * margin * (1 + margin)) - linear) / 4
    at_margin = 2 * share - margin * (1 + margin)
    reach = z_a * math.sqrt(at_margin) + z_b * math.sqrt(discordant)
    low, high = 1, _MOST
    while low < high:
        middle = (low + high) // 2
        if math.sqrt(middle) * (margin - 0.5 / middle) >= reach:
            high = middle
        else:
            low = middle + 1
    return high


def _of_units(found: Comparison, confidence: float, power: float) -> float:
    """As `detectable_difference`, for sign flips of units, by the normal approximation.

    Connor's formula with Student's quantile, and with a loss that is made of changes as large as
    those that were seen.
    """
    units = found.units
    if units < 2:
        return 1.0
    t_a = float(student.ppf((1 + confidence) / 2, units - 1))
    z_b = NormalDist().inv_cdf(power)

    def seen(delta: float) -> bool:
        # The test's own spread has the loss in it: units are swapped with the loss they show.
        psi = max(found.discordance + delta**2, found.change * delta)
        return (t_a + z_b) * math.sqrt(psi) <= math.sqrt(units) * (delta - found.change / units)

    if not seen(1.0):
        return 1.0
    low, high = 0.0, 1.0
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high
