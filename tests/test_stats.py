"""The statistics, against known values and by simulation."""

from math import comb

import numpy as np
import pytest

from eval.stats import (
    Interval,
    bootstrap_interval,
    detectable_difference,
    discordance,
    mcnemar_exact,
    questions_needed,
)
from eval.verdict import decide


@pytest.mark.parametrize(
    ("fixed", "broken", "expected"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 2 / 2**5),
        (9, 1, 2 * 11 / 2**10),
        (2, 8, 2 * (1 + 10 + 45) / 2**10),
    ],
)
def test_mcnemar_by_hand(fixed, broken, expected):
    assert mcnemar_exact(fixed, broken) == pytest.approx(expected, rel=1e-12)
    assert mcnemar_exact(broken, fixed) == mcnemar_exact(fixed, broken)


def test_mcnemar_is_the_binomial_tail_for_large_counts():
    exact = 2 * sum(comb(236, k) for k in range(87)) / 2**236  # 86 fixed, 150 broken
    assert mcnemar_exact(86, 150) == pytest.approx(exact, rel=1e-12)
    assert mcnemar_exact(86, 150) == pytest.approx(3.716e-05, rel=1e-3)
    assert mcnemar_exact(0, 20_000) == 0.0


def test_no_difference_has_an_interval_of_no_width():
    assert bootstrap_interval([0.0] * 40) == Interval(0.0, 0.0)
    assert bootstrap_interval([1.0]) == Interval(1.0, 1.0)


def test_the_interval_agrees_with_the_normal_one_on_many_questions():
    rng = np.random.default_rng(1)
    values = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=2000)
    half = 1.96 * values.std() / np.sqrt(2000)
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(values.mean() - half, abs=0.002)
    assert high == pytest.approx(values.mean() + half, abs=0.002)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(values, seed=1) != (low, high)


def test_clusters_widen_the_interval():
    values = np.repeat(np.random.default_rng(2).choice([-1.0, 0.0, 1.0], size=40), 10)
    clusters = [str(i // 10) for i in range(400)]
    alone, together = bootstrap_interval(values), bootstrap_interval(values, clusters=clusters)
    ratio = (together.high - together.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(np.sqrt(10), rel=0.15)
    each = [str(i) for i in range(400)]
    assert bootstrap_interval(values, clusters=each) == pytest.approx(alone, abs=0.02)


def test_nothing_and_odd_clusters_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="1 clusters for 2"):
        bootstrap_interval([0, 1], clusters=["a"])


@pytest.mark.parametrize(("questions", "points"), [(100, 11), (200, 8), (500, 5)])
def test_detectable_difference_at_known_sizes(questions, points):
    # Accuracy .8 and correlation .5 between the two: a share of 2(.8)(.2)(.5) changes. The
    # exact test costs 1/n more than the published normal one.
    assert round(100 * (detectable_difference(questions, 0.16) - 1 / questions)) == points


def test_detectable_difference_at_the_edges():
    assert detectable_difference(0, 0.1) == detectable_difference(3, 0.1) == 1.0
    assert 0 < detectable_difference(20, 0.0) < 1
    sizes = [detectable_difference(n, 0.2) for n in (10, 50, 100, 1000, 100_000)]
    assert sizes == sorted(sizes, reverse=True)


def test_discordance_never_claims_to_be_nought():
    assert discordance([0.0] * 8) == pytest.approx(0.1)
    assert discordance([1.0, -1.0, 0.0, 0.0]) == pytest.approx(0.5)


def test_questions_needed():
    assert questions_needed(0.05, 0.16) == 503  # (1.95996 + 0.84162)² .16 / .05² = 502.3
    assert questions_needed(0.0, 0.1) is None


def verdicts(rng, *, questions, fixed, broken, rounds, margin=0.02):
    """Verdicts on simulated pairs that change with these probabilities."""
    found = []
    for _ in range(rounds):
        values = rng.choice([1.0, -1.0, 0.0], p=[fixed, broken, 1 - fixed - broken], size=questions)
        p_value = mcnemar_exact(int((values > 0).sum()), int((values < 0).sum()))
        interval = bootstrap_interval(values, resamples=1000)
        found.append(decide(interval, p_value, margin=margin, confidence=0.95))
    return found


@pytest.mark.parametrize("questions", [20, 100, 400])
@pytest.mark.parametrize("changing", [0.05, 0.3])
def test_equal_versions_fail_at_most_one_time_in_twenty(questions, changing):
    rng = np.random.default_rng(questions)
    half = changing / 2
    found = verdicts(rng, questions=questions, fixed=half, broken=half, rounds=400)
    assert found.count("fail") <= 0.05 * 400


@pytest.mark.parametrize("questions", [50, 200])
def test_a_loss_of_the_detectable_size_is_caught_four_times_in_five(questions):
    rng = np.random.default_rng(3)
    loss = detectable_difference(questions, 0.16)
    share = max(0.16, loss)
    changed = {"fixed": (share - loss) / 2, "broken": (share + loss) / 2}
    found = verdicts(rng, questions=questions, rounds=400, **changed)
    assert found.count("fail") >= 0.8 * 400
    assert found.count("pass") <= 0.01 * 400


def test_with_the_questions_needed_an_equal_version_passes_four_times_in_five():
    rng = np.random.default_rng(4)
    questions = questions_needed(0.05, 0.16)
    found = verdicts(rng, questions=questions, fixed=0.08, broken=0.08, rounds=300, margin=0.05)
    assert found.count("pass") >= 0.76 * 300


def test_a_loss_of_the_margin_seldom_passes():
    rng = np.random.default_rng(5)
    found = verdicts(rng, questions=400, fixed=0.03, broken=0.08, rounds=400, margin=0.05)
    assert found.count("pass") <= 0.05 * 400


@pytest.mark.parametrize(
    ("interval", "p_value", "margin", "expected"),
    [
        ((0.0, 0.0), 1.0, 0.02, "pass"),
        ((0.0, 0.0), 1.0, 0.0, "pass"),
        ((-0.02, 0.1), 1.0, 0.02, "pass"),
        ((-0.04, -0.01), 0.01, 0.05, "pass"),  # surely worse, but by less than is accepted
        ((-0.3, -0.1), 0.001, 0.02, "fail"),
        ((-0.3, -0.1), 0.06, 0.02, "underpowered"),  # too few changed answers to be sure
        ((-0.3, 0.0), 0.04, 0.02, "underpowered"),
        ((-0.1, 0.1), 0.9, 0.02, "underpowered"),
    ],
)
def test_the_rule(interval, p_value, margin, expected):
    assert decide(Interval(*interval), p_value, margin=margin, confidence=0.95) == expected
