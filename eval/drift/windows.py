"""Rates over hours with their intervals, and where a change began; see `eval.drift.detector`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

_Z = 1.96


class Window(NamedTuple):
    """A rate over some hours, with its 95 % interval. `since` is the first hour."""

    since: int
    n: float
    rate: float
    low: float
    high: float


def over(recent: Sequence[Sequence[float]], after: int, power: float = 1.0) -> Window | None:
    """The rate over the remembered hours behind one; None where nothing came."""
    hours = [one for one in recent if one[0] > after]
    n, s = sum(one[1] for one in hours), sum(one[2] for one in hours)
    if not n:
        return None
    return Window(int(hours[0][0]), n, s / n, *wilson(s / n, n * power, _Z))


def since_change(
    recent: Sequence[Sequence[float]], null: float, power: float, *, down: bool = False
) -> Window | None:
    """The hours since the likeliest beginning of a change away from `null`, as the generalised
    likelihood ratio has it; None where there is none."""
    best, found = 0.0, None
    n = s = 0.0
    for hour, more, part in reversed(recent):
        n, s = n + more, s + part
        if not n:
            continue
        rate = 1 - s / n if down else s / n
        if rate <= null:
            continue
        gain = n * _divergence(rate, null)
        if gain > best:
            best, found = gain, (int(hour), n, s / n)
    if found is None:
        return None
    hour, n, rate = found
    return Window(hour, n, rate, *wilson(rate, n * power, _Z))


def _divergence(p: float, q: float) -> float:
    """Kullback-Leibler divergence of Bernoulli rates, nats."""
    q = min(max(q, 1e-9), 1 - 1e-9)
    found = 0.0 if p <= 0 else p * math.log(p / q)
    return found + (0.0 if p >= 1 else (1 - p) * math.log((1 - p) / (1 - q)))


def wilson(rate: float, number: float, z: float = _Z) -> tuple[float, float]:
    """Wilson's interval of a share of `number` observations."""
    rate = min(max(rate, 0.0), 1.0)
    middle = (rate + z * z / (2 * number)) / (1 + z * z / number)
    reach = z * math.sqrt(rate * (1 - rate) / number + (z / (2 * number)) ** 2)
    reach /= 1 + z * z / number
    return min(max(middle - reach, 0.0), rate), max(min(middle + reach, 1.0), rate)
