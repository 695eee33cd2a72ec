"""The sample: merged exactly, weighted rightly, shared out among versions."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ledger.keeping.sampling import allocate, bottom_k, cutoff, merge, sample_key
from ledger.keys.vault import Vault

VAULT = Vault(b"k" * 32)


def rows(count: int, seed: int) -> list[tuple[float, str]]:
    draw = random.Random(seed)
    return [(draw.random(), f"{seed}-{number}") for number in range(count)]


# -- keys --------------------------------------------------------------------------------


def test_a_key_depends_on_the_vault_and_the_row_alone() -> None:
    assert sample_key(VAULT, "a") == sample_key(Vault(b"k" * 32), "a")
    assert sample_key(VAULT, "a") != sample_key(VAULT, "b")
    assert sample_key(VAULT, "a") != sample_key(Vault(b"l" * 32), "a")


def test_keys_are_even() -> None:
    keys = [sample_key(VAULT, f"chatcmpl-{number}") for number in range(20_000)]
    assert all(0 <= key < 1 for key in keys)
    counts = [0] * 20
    for key in keys:
        counts[int(key * 20)] += 1
    # Chi-squared with 19 degrees of freedom: above 43.8 once in a thousand.
    assert sum((count - 1000) ** 2 / 1000 for count in counts) < 43.8


def test_the_largest_hash_is_below_one() -> None:
    class Top(Vault):
        def mac(self, kind: str, data: bytes) -> str:
            return "f" * 32

    assert sample_key(Top(b""), "a") < 1


# -- merging -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_the_merged_sample_is_the_sample_of_the_union(seed: int) -> None:
    draw = random.Random(seed)
    parts = [rows(draw.randrange(0, 60), 100 * seed + part) for part in range(4)]
    shared = rows(10, 999)
    parts = [part + shared for part in parts]  # a row that two replicas have is one row
    union = sorted({row for part in parts for row in part})
    for k in (0, 1, 7, 25, 500):
        assert merge([bottom_k(part, k) for part in parts], k) == bottom_k(union, k)


@pytest.mark.parametrize("seed", range(20))
def test_samples_of_different_sizes_merge_to_what_is_known_completely(seed: int) -> None:
    draw = random.Random(seed)
    parts = [rows(draw.randrange(1, 60), 100 * seed + part) for part in range(4)]
    samples = [bottom_k(part, draw.randrange(0, 30)) for part in parts]
    merged = merge(samples)
    union = [row for part in parts for row in part]
    assert merged == bottom_k(union, len(merged.rows))
    assert merged.threshold == min(sample.threshold for sample in samples)


def test_merging_in_any_order_and_by_steps() -> None:
    samples = [bottom_k(rows(50, seed), 10) for seed in range(4)]
    whole = merge(samples, 10)
    assert merge(samples[::-1], 10) == whole
    assert merge([merge(samples[:2], 10), merge(samples[2:], 10)], 10) == whole


def test_nothing_merges_to_nothing() -> None:
    assert merge([]) == bottom_k([], 3)


# -- thresholds --------------------------------------------------------------------------


def test_a_cutoff_by_count_and_by_size() -> None:
    given = [(0.4, 10), (0.1, 30), (0.3, 20), (0.2, 5)]
    assert cutoff(given, 2) == (0.3, 2, 35)
    assert cutoff(given, 4) == (1.0, 4, 65)
    assert cutoff(given, 0) == (0.1, 0, 0)
    assert cutoff(given, 9, 60) == (0.4, 3, 55)
    assert cutoff(given, 9, 34) == (0.2, 1, 30)
    assert cutoff([], 3) == (1.0, 0, 0)


@pytest.mark.parametrize("limit", [{"count": 20}, {"count": 10**6, "size": 700}])
def test_weighted_sums_are_unbiased(limit: dict[str, Any]) -> None:
    """Also where the size decides: large rows must not be rarer than their weight says."""
    draw = random.Random(5)
    sizes = [draw.choice([1, 5, 60]) for _ in range(200)]
    values = [size * 2.0 + draw.random() for size in sizes]
    estimates, counts = [], []
    for _ in range(4000):
        keys = [draw.random() for _ in sizes]
        threshold, _, _ = cutoff(zip(keys, sizes, strict=True), **limit)
        kept = [value for key, value in zip(keys, values, strict=True) if key < threshold]
        estimates.append(sum(kept) / threshold)
        counts.append(len(kept) / threshold)
    for found, truth in ((estimates, sum(values)), (counts, len(values))):
        mean = sum(found) / len(found)
        error = (sum((one - mean) ** 2 for one in found) / len(found) ** 2) ** 0.5
        assert abs(mean - truth) < 4 * error


# -- the budget --------------------------------------------------------------------------


def test_a_canary_gets_more_than_its_share() -> None:
    given = allocate({"live": 9500, "canary": 500}, 500)
    assert sum(given.values()) == 500
    assert given["canary"] == pytest.approx(500 * 500**0.5 / (9500**0.5 + 500**0.5), abs=1)


def test_the_budget_is_used_up_and_never_exceeded() -> None:
    draw = random.Random(3)
    for _ in range(300):
        sizes = {str(name): draw.randrange(0, 50) for name in range(draw.randrange(0, 8))}
        budget = draw.randrange(0, 200)
        given = allocate(sizes, budget)
        assert sum(given.values()) == min(budget, sum(sizes.values()))
        assert all(0 <= given[name] <= size for name, size in sizes.items())
        if budget >= len(sizes):
            assert all(given[name] >= 1 for name, size in sizes.items() if size)


def test_a_group_that_fits_leaves_its_rest_to_others() -> None:
    assert allocate({"small": 2, "large": 1000}, 100) == {"small": 2, "large": 98}
