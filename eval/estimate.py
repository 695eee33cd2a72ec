"""Rates and means of all answers, from the rows that were kept.

A row kept with probability p stands for 1 / p answers; a row kept for certain for itself. Without
these weights a rate from the ledger says how the sample looks, and the sample is full of answers
that somebody complained about.

Values and probabilities come from the ledger's rows (`inclusion_probability`), as arrays of shape
(n,). Knows nothing of stores.

Sources:
    weighted total: Horvitz & Thompson, JASA 47 (1952), 663-685
    weighted mean: Hájek, comment in "Foundations of Statistical Inference" (1971), 236
    no covariances below one threshold: Duffield, Lund & Thorup, "Priority sampling for
        estimation of arbitrary subset sums", J. ACM 54 (2007); Cohen & Kaplan, "Sketch-based
        estimation of subpopulation-weight", arXiv 0802.3448
    variance of a weighted mean by linearisation: Särndal, Swensson & Wretman, "Model Assisted
        Survey Sampling" (1992), chapter 5
    effective number: Kish, "Survey Sampling" (1965)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A number with its error.

    Attributes:
        value: NaN where there is nothing to estimate from.
        error: standard error, in the units of the value.
        low: lower end of the interval.
        high: upper end of the interval.
        effective: how many equally weighted rows would say as much.
    """

    value: float
    error: float
    low: float
    high: float
    effective: float


def total(
    values: Sequence[float] | Floats,
    probabilities: Sequence[float] | Floats,
    *,
    confidence: float = 0.95,
) -> Estimate:
    """Sum over all answers that the kept rows stand for (Horvitz-Thompson).

    Unbiased. The error is that of the sampling alone: with every row kept it is 0. Its variance
    is estimated by Σ (1 - p) (y / p)², since the errors of two rows are uncorrelated.

    Raises:
        ValueError: the two are not as many, or a probability is not in (0, 1].
    """
    y, p = _checked(values, probabilities)
    error = math.sqrt(float(np.sum((1 - p) * (y / p) ** 2)))
    return _estimate(float(np.sum(y / p)), error, p, confidence)


def mean(
    values: Sequence[float] | Floats,
    probabilities: Sequence[float] | Floats,
    *,
    confidence: float = 0.95,
) -> Estimate:
    """Mean over all answers that the kept rows stand for (Hájek); of 0 and 1 it is a rate.

    Its bias falls as 1 / n and is far below its error. The error is that of the version, not of
    the days looked at: with every row kept it is that of a plain mean, as if the answers were a
    sample of what the version says. Its variance is estimated by Σ w² (y - m)² / (Σ w)² times
    n / (n - 1), with w = 1 / p.

    Raises:
        ValueError: the two are not as many, or a probability is not in (0, 1].
    """
    y, p = _checked(values, probabilities)
    if y.size == 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0.0)
    weights = 1 / p
    value = float(np.sum(weights * y) / np.sum(weights))
    if y.size == 1:
        return Estimate(value, math.inf, -math.inf, math.inf, 1.0)
    squares = float(np.sum((weights * (y - value)) ** 2) / np.sum(weights) ** 2)
    error = math.sqrt(squares * y.size / (y.size - 1))
    return _estimate(value, error, p, confidence)


def _checked(
    values: Sequence[float] | Floats, probabilities: Sequence[float] | Floats
) -> tuple[Floats, Floats]:
    y = np.asarray(values, dtype=np.float64)
    p = np.asarray(probabilities, dtype=np.float64)
    if y.shape != p.shape or y.ndim != 1:
        raise ValueError(f"{y.shape} values for {p.shape} probabilities")
    if not bool(np.all((p > 0) & (p <= 1))):
        raise ValueError("a kept row has an inclusion probability above 0 and up to 1")
    return y, p


def _estimate(value: float, error: float, p: Floats, confidence: float) -> Estimate:
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
    weights = 1 / p
    effective = float(np.sum(weights) ** 2 / np.sum(weights**2)) if p.size else 0.0
    return Estimate(value, error, value - reach, value + reach, effective)
