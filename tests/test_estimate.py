"""Estimates from weighted rows: unbiased, and as sure as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eval.estimate import mean, total


def test_with_everything_kept_they_are_plain() -> None:
    values = [1.0, 2.0, 6.0]
    assert total(values, [1, 1, 1])[:2] == (9.0, 0.0)
    found = mean(values, [1, 1, 1])
    assert found.value == 3.0
    assert found.error == pytest.approx(np.std(values, ddof=1) / math.sqrt(3))
    assert found.effective == 3.0


def test_a_kept_row_stands_for_many() -> None:
    # 10 complaints kept for certain, 9 of 90 others: the rate is 10 %, not half.
    values, kept = [1.0] * 10 + [0.0] * 9, [1.0] * 10 + [0.1] * 9
    assert mean(values, kept).value == pytest.approx(0.1)
    assert total(values, kept).value == 10.0
    assert total([1.0] * 19, kept).value == pytest.approx(100)


def test_nothing_and_one() -> None:
    assert math.isnan(mean([], []).value)
    assert total([], []).value == 0.0
    assert mean([2.0], [0.5]).error == math.inf


@pytest.mark.parametrize(
    ("values", "probabilities"), [([1.0], [0.0]), ([1.0], [1.5]), ([1.0], [math.nan]), ([1.0], [])]
)
def test_what_is_no_probability_is_refused(values: list[float], probabilities: list[float]) -> None:
    with pytest.raises(ValueError, match="probabilit"):
        mean(values, probabilities)
    with pytest.raises(ValueError, match="probabilit"):
        total(values, probabilities)


def test_they_are_unbiased_and_their_intervals_cover() -> None:
    """Bottom-k in two groups, and some rows for certain, as the ledger keeps them."""
    draw = np.random.default_rng(11)
    size, k, runs = 600, (40, 25), 3000
    group = np.arange(size) % 5 == 0
    certain = draw.random(size) < 0.05
    sums, means, covered_sum, covered_mean = [], [], 0, 0
    rate = np.where(certain, 0.8, np.where(group, 0.3, 0.1))
    expected = float(rate.mean())
    for _ in range(runs):
        values = (draw.random(size) < rate).astype(float)
        keys, p = draw.random(size), np.ones(size)
        kept = certain.copy()
        for number, members in enumerate((~group & ~certain, group & ~certain)):
            threshold = np.sort(keys[members])[k[number]]
            kept |= members & (keys < threshold)
            p[members] = threshold
        whole = total(values[kept], p[kept])
        average = mean(values[kept], p[kept])
        sums.append(whole.value - values.sum())
        means.append(average.value - expected)
        covered_sum += whole.low <= values.sum() <= whole.high
        covered_mean += average.low <= expected <= average.high
    for errors in (np.array(sums), np.array(means)):
        assert abs(errors.mean()) < 4 * errors.std() / math.sqrt(runs)
    # 95 % nominal; a normal interval round some 80 rows of a skewed quantity does a little less.
    assert 0.91 < covered_sum / runs < 0.97
    assert 0.91 < covered_mean / runs < 0.97
