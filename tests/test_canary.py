"""The evidence between a canary and its control: what it may get wrong, and how soon it sees harm.

`python -m benchmarks.canary` repeats the simulations with more repetitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.canary import World, simulate, still_back
from eval.canary.evidence import Moments, bounds, harm, moments, safety, seen
from eval.canary.signals import GUARDS, METRICS, SHADOW, Signal, alpha, compared, shadowed
from ledger.settings.rollout import Rollout


def test_false_rollbacks_of_all_stages_and_signals_add_up_to_the_setting() -> None:
    rollout = Rollout()
    names = (*METRICS, *GUARDS, SHADOW)
    total = sum(alpha(rollout, stage, name) for stage in (0, 1) for name in names)
    assert total == pytest.approx(rollout.false_rollbacks)
    one = rollout.model_copy(update={"stages": rollout.stages[:1]})
    assert sum(alpha(one, 0, name) for name in names) == pytest.approx(0.01)


@pytest.mark.parametrize("stage", [0, 1])
def test_good_canaries_stay(stage: int) -> None:
    """Shipped defaults, looks every 25 answers; also where nobody ever expands."""
    world = World(stage, 0.10, 0.10, horizon=3000)
    assert np.isfinite(simulate(world, 800, seed=5).back).mean() <= 0.01
    assert np.isfinite(still_back(world, 800, seed=6)).mean() <= 0.01


def test_fifteen_percent_instead_of_ten_is_caught_within_600_answers() -> None:
    out = simulate(World(0, 0.10, 0.15, horizon=2000), 800, seed=7)
    assert np.median(out.back) <= 600
    # The tolerance of the first stage is 15 % here: taken for less as rarely as is set.
    assert np.isfinite(out.on).mean() <= 0.05


def test_good_canaries_expand() -> None:
    out = simulate(World(0, 0.10, 0.10, horizon=3000), 300, seed=8)
    assert np.isfinite(out.on).mean() > 0.95
    assert np.median(out.on) <= 1000


def test_users_who_write_much_and_are_alike_do_not_fool_it() -> None:
    good = simulate(World(0, 0.10, 0.10, horizon=1000, alike=0.2, users=1500), 60, seed=9)
    assert np.isfinite(good.back).mean() <= 0.02
    # A plain test of the two rates is fooled.
    assert np.isfinite(good.naive).mean() > 0.1


def test_one_user_counts_for_one_user() -> None:
    """A hundred thumbs down by one person are not those of a hundred people."""

    def evidence(users: list[str]) -> float:
        down = moments([True] * 100, users, [1.0] * 100, [1.0] * 100)
        fine = Moments.independent(900.0, 0.0)
        canary = Moments(*(a + b for a, b in zip(down, fine, strict=True)))
        return float(harm(seen(canary, Moments.independent(19_000.0, 950.0))))

    needed = -math.log(alpha(Rollout(), 0, "negatives"))
    assert evidence([f"u{number}" for number in range(100)]) > 2 * needed
    assert evidence(["u"] * 100) < needed / 2


def test_moments_of_users_by_hand() -> None:
    found = moments([True, False, True], ["a", "a", "b"], [1.0, 1.0, 0.5], [1.0, 0.5, 1.0])
    # Weights 1, 2, 0.5; user a has 1 + 2.
    assert found.answers == 3.5
    assert found.hits == 1.5
    assert found.varying == 1 + 2 + 0.25
    assert found.sampling == 2
    assert found.pairs == 2 * 1 * 2
    assert found.pair_hits == 2
    assert found.pair_both == 0
    assert moments([], [], [], []) == Moments(0.0, 0.0, 0.0)


def test_the_sequence_holds_the_ratio_and_narrows() -> None:
    small = seen(Moments.independent(500.0, 75.0), Moments.independent(9500.0, 950.0))
    large = seen(Moments.independent(5000.0, 750.0), Moments.independent(95000.0, 9500.0))
    for found in (small, large):
        low, high = bounds(found, 0.005, 0.05)
        assert low < 1.5 < high
    assert bounds(large, 0.005, 0.05).low > bounds(small, 0.005, 0.05).low > 0
    assert bounds(large, 0.005, 0.05).high < bounds(small, 0.005, 0.05).high
    # Its ends are where the evidence reaches what is needed.
    low, high = bounds(large, 0.005, 0.05)
    assert harm(large, low) == pytest.approx(-math.log(0.005), rel=1e-3)
    assert safety(large, high) == pytest.approx(-math.log(0.05), rel=1e-3)
    nothing = seen(Moments.independent(0.0, 0.0), Moments.independent(0.0, 0.0))
    assert bounds(nothing, 0.005, 0.05) == (0.0, math.inf)


def test_rows_that_were_sampled_away_cost_evidence_and_not_truth() -> None:
    """5 % of the answers without feedback are kept: the rate is the same, its error larger."""
    rng = np.random.default_rng(4)
    hits = rng.random(20_000) < 0.1
    kept = hits | (rng.random(20_000) < 0.05)
    p = np.where(hits, 1.0, 0.05)
    users = np.array([f"u{n}" for n in range(20_000)])
    one = np.ones(20_000)
    whole = moments(hits, users, one, one)
    part = moments(hits[kept], users[kept], one[kept], p[kept])
    assert part.rate == pytest.approx(whole.rate, rel=0.1)
    control = Moments.independent(100_000.0, 10_000.0)
    worse = Moments.independent(1000.0, 160.0)
    assert seen(part, control).canary < seen(whole, control).canary
    assert harm(seen(worse, control)) > 0


def test_the_comparison_out_of_sight() -> None:
    rollout = Rollout()
    nothing = shadowed(0, 0, rollout, 0)
    assert (nothing.harm, nothing.safety) == (0.0, 0.0)
    assert shadowed(60, 10, rollout, 0).harmful
    better = shadowed(20, 60, rollout, 0)
    assert better.safe
    assert not better.harmful
    assert not shadowed(5, 6, rollout, 0).safe


def test_where_nothing_is_ever_hit_harm_can_be_excluded() -> None:
    """A product without corrections expands, too: no edit among many answers is evidence."""
    rollout = Rollout()
    stage = rollout.stages[0]

    def edits(canary: float, hits: float) -> Signal:
        mine, others = Moments.independent(canary, hits), Moments.independent(19 * canary, 0.0)
        return compared("edits", mine, others, rollout, 0, stage)

    assert not edits(100, 0).safe
    assert edits(800, 0).safe
    assert not edits(800, 8).safe
    assert edits(800, 40).harmful
    out = simulate(World(0, 0.05, 0.05, edits=0.0, horizon=3000), 200, seed=11)
    assert np.isfinite(out.on).mean() > 0.9
    # One point more than none, the tolerance, is taken for less as rarely as is set.
    worse = simulate(World(0, 0.0, 0.0101, edits=0.0, horizon=3000), 400, seed=12)
    assert np.isfinite(worse.on).mean() <= 0.05
