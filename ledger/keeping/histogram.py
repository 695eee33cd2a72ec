"""Histograms of positive numbers over many orders of magnitude, small enough for a JSON column.

A bucket is an eighth of a doubling: its ends are 9 % apart, so a quantile read from it is off by
less than that. Zero and below share one bucket; what is not finite is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_PER_DOUBLING = 8
_LOWEST, _HIGHEST = -30 * _PER_DOUBLING, 40 * _PER_DOUBLING  # 1e-9 to 1e12
_ZERO = _LOWEST - 1


class Histogram:
    """Counts by bucket; two of them merge by adding."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts: dict[int, int] = dict(counts or {})

    def add(self, value: float) -> None:
        """Count a number."""
        if not math.isfinite(value):
            return
        bucket = _ZERO
        if value > 0:
            bucket = min(max(math.floor(math.log2(value) * _PER_DOUBLING), _LOWEST), _HIGHEST)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1

    def merge(self, other: Histogram) -> None:
        """Add another's counts to these."""
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count

    @property
    def count(self) -> int:
        """How many numbers were counted."""
        return sum(self._counts.values())

    def buckets(self) -> list[Bucket]:
        """Each bucket that is not empty, lowest first."""
        return [
            Bucket(0.0 if bucket == _ZERO else _end(bucket), _end(bucket + 1), count)
            for bucket, count in sorted(self._counts.items())
        ]

    def quantile(self, share: float) -> float:
        """The number below which this share of the numbers lies, taken as even in its bucket.

        Raises:
            ValueError: nothing was counted.
        """
        left = share * self.count
        for low, high, count in self.buckets():
            if left <= count:
                return low + (high - low) * left / count
            left -= count
        raise ValueError("a quantile of nothing")

    def dump(self) -> dict[str, int]:
        """For a JSON column."""
        return {str(bucket): count for bucket, count in sorted(self._counts.items())}

    @classmethod
    def load(cls, dumped: Mapping[str, int]) -> Histogram:
        """The inverse of `dump`."""
        return cls({int(bucket): count for bucket, count in dumped.items()})

    @classmethod
    def merged(cls, parts: Iterable[Histogram]) -> Histogram:
        """The sum of many."""
        whole = cls()
        for part in parts:
            whole.merge(part)
        return whole


class Bucket(NamedTuple):
    """How many numbers lie from `low` up to `high`."""

    low: float
    high: float
    number: int


def _end(bucket: int) -> float:
    return 0.0 if bucket <= _ZERO else float(2.0 ** (bucket / _PER_DOUBLING))
