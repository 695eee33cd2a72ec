"""Which rows a sample holds, and how likely each was to be in it. Pure: knows no ledger.

A row's sample key is a keyed hash of its id: a number in [0, 1) that looks random to whoever has
no key, is the same wherever it is computed, and has nothing to do with what the row says. A
sample is the rows whose key is below a threshold. The threshold is the first key that did not
fit, so given the keys of all other rows each row of the sample was in it with a probability of
just that threshold: 1 / threshold is the weight that makes sums unbiased, and two rows' errors
are uncorrelated.

Sources:
    weights by the threshold: Cohen & Kaplan, "Summarizing data using bottom-k sketches", PODC
        2007; Duffield, Lund & Thorup, "Priority sampling for estimation of arbitrary subset
        sums", J. ACM 54 (2007)
    a threshold that also stops at a size: Ting, "Adaptive threshold sampling", SIGMOD 2022
    budget by square roots: Bankier, "Power allocations", The American Statistician 42 (1988)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ledger.keys.vault import Vault

# All of a double's precision, so that a key is never rounded up to 1.
_KEY_BITS = 53


def sample_key(vault: Vault, row_id: str) -> float:
    """Keyed hash of a row id, in [0, 1)."""
    return (int(vault.mac("sample", row_id.encode())[:16], 16) >> (64 - _KEY_BITS)) / 2**_KEY_BITS


class Sample(NamedTuple):
    """Some rows of many.

    Attributes:
        rows: (sample key, row id), smallest key first; all of them are below the threshold.
        threshold: every row with a smaller key is in the sample; 1 where that is all of them.
    """

    rows: tuple[tuple[float, str], ...]
    threshold: float


def cutoff(
    rows: Iterable[tuple[float, int]], count: int, size: int | None = None
) -> tuple[float, int, int]:
    """The threshold below which at most so many rows lie.

    Rows are taken in the order of their keys until the next one would be too many, or too much;
    rows after that one are not tried, which would favour small ones.

    Args:
        rows: (sample key, size) of all rows, in any order.
        count: the most rows.
        size: the most of all their sizes together.

    Returns:
        The threshold, the number of rows below it, and the sum of their sizes.
    """
    taken = total = 0
    for key, one in sorted(rows):
        if taken == count or (size is not None and total + one > size):
            return key, taken, total
        taken, total = taken + 1, total + one
    return 1.0, taken, total


def bottom_k(rows: Iterable[tuple[float, str]], k: int) -> Sample:
    """The `k` rows with the smallest keys."""
    ordered = sorted(rows)
    threshold = ordered[k][0] if len(ordered) > k else 1.0
    return Sample(tuple(row for row in ordered if row[0] < threshold), threshold)


def merge(samples: Sequence[Sample], k: int | None = None) -> Sample:
    """The sample of everything that several samples were drawn from.

    Below the smallest threshold every sample is complete, so their union there is too: the
    result is what `bottom_k` finds in the union of the rows, exactly. A row that several
    samples hold is one row.

    Args:
        k: the most rows; exact where each sample had at least as many to keep. Unset: as many
            as are known completely.
    """
    threshold = min((sample.threshold for sample in samples), default=1.0)
    rows = {row for sample in samples for row in sample.rows if row[0] < threshold}
    whole = Sample(tuple(sorted(rows)), threshold)
    if k is None or len(whole.rows) <= k:
        return whole
    return bottom_k(whole.rows, k)


def allocate(sizes: Mapping[str, int], budget: int) -> dict[str, int]:
    """Share a budget of rows among groups, by the square roots of their sizes.

    In proportion to its size a canary with 5 % of the traffic would get 5 % of the sample, too
    little to say anything of it; in equal parts it would cost the live version most of its
    precision. The square root lies between. Every group gets at least one row where the budget
    allows. It depends on sizes only, never on keys, so that weights stay what they are.
    """
    left = min(budget, sum(sizes.values()))
    given = dict.fromkeys(sizes, 0)
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        if left and sizes[name]:
            given[name], left = 1, left - 1
    while left:
        open_ = {name: size for name, size in sizes.items() if given[name] < size}
        weight = sum(math.sqrt(size) for size in open_.values())
        target = left + sum(given[name] for name in open_)
        parts = {name: target * math.sqrt(size) / weight for name, size in open_.items()}
        before = left
        for name in sorted(parts, key=lambda name: (-parts[name], name)):
            more = min(int(parts[name]) - given[name], sizes[name] - given[name], left)
            if more > 0:
                given[name], left = given[name] + more, left - more
        if left == before:  # less than one row each: to those who are furthest below their part
            for name in sorted(parts, key=lambda name: (given[name] - parts[name], name))[:left]:
                given[name], left = given[name] + 1, left - 1
    return given
