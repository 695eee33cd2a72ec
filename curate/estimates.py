"""Rates and means of all answers, with intervals, in plain Python.

A row kept with probability p stands for 1 / p answers. The same estimates as `eval.estimate`,
which is not imported here: stages do not import each other.

Sources:
    interval of a rate: Wilson, JASA 22 (1927), 209-212
    effective number of weighted rows: Kish, "Survey Sampling" (1965)
    weighted mean: Hájek, comment in "Foundations of Statistical Inference" (1971), 236; its
        variance by linearisation: Särndal, Swensson & Wretman, "Model Assisted Survey Sampling"
        (1992), chapter 5
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

_Z = 1.959963984540054  # 95 %, two sides


class Interval(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def rate(count: int, of: int) -> Interval | None:
    """`count` of `of` as a share; None of nothing."""
    return wilson(count / of, of) if of > 0 else None


def wilson(share: float, number: float) -> Interval:
    """A share of `number` with Wilson's interval.

    Args:
        number: of answers; where they are weighted, the effective number (Kish).
    """
    share = min(share, 1.0)
    z2 = _Z * _Z
    middle = (share + z2 / (2 * number)) / (1 + z2 / number)
    reach = _Z * math.sqrt(share * (1 - share) / number + z2 / (4 * number * number))
    reach /= 1 + z2 / number
    # Rounding must not put the share outside of its own interval.
    low, high = max(middle - reach, 0.0), min(middle + reach, 1.0)
    return Interval(share, min(low, share), max(high, share))


def mean(values: Sequence[tuple[float, float]]) -> Interval | None:
    """Mean of (value, probability of being kept); None of nothing.

    One value has no interval: its ends are the value.
    """
    if not values:
        return None
    weight = sum(1 / p for _, p in values)
    middle = sum(value / p for value, p in values) / weight
    n = len(values)
    if n == 1:
        return Interval(middle, middle, middle)
    squares = sum(((value - middle) / p) ** 2 for value, p in values) / weight**2
    reach = _Z * math.sqrt(squares * n / (n - 1))
    return Interval(middle, middle - reach, middle + reach)


def median(values: Sequence[tuple[float, float]]) -> float | None:
    """The value below which half of the answers lie that (value, probability) stand for."""
    half = sum(1 / p for _, p in values) / 2
    for value, p in sorted(values):
        half -= 1 / p
        if half <= 0:
            return value
    return None
