"""The statistics against known values. That they keep their promises is shown by simulation in
`test_levels.py`."""

from math import comb

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import xlogy
from scipy.stats import binom, binomtest

from eval.power import (
    POWER,
    detectable_difference,
    mcnemar_power,
    questions_needed,
)
from eval.stats import (
    FLIPS,
    MCNEMAR,
    Interval,
    bootstrap_interval,
    compare,
    discordance,
    holm,
    kappa,
    mcnemar_exact,
    mcnemar_worse,
    score_interval,
    score_reach,
    share_above,
    share_below,
    share_interval,
    sign_flips,
)
from eval.verdict import decide, worst


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
    assert mcnemar_exact(86, 150) == pytest.approx(exact, rel=1e-9)
    assert mcnemar_exact(86, 150) == pytest.approx(3.716e-05, rel=1e-3)
    assert mcnemar_worse(86, 150) == pytest.approx(exact / 2, rel=1e-9)
    assert mcnemar_worse(150, 86) > 0.99
    assert mcnemar_exact(0, 20_000) == 0.0


@pytest.mark.parametrize(("fixed", "broken", "questions"), [(1, 0, 44), (12, 30, 90), (0, 5, 20)])
@pytest.mark.parametrize("delta", [-0.4, -0.05, 0.0, 0.2])
def test_the_score_statistic_has_the_variance_of_the_likeliest_shares(
    fixed, broken, questions, delta
):
    # Derived again from the definition: the shares with this difference that make what was seen
    # most likely, found by search.
    def unlikely(share):
        cells = (share + delta, share, 1 - 2 * share - delta)
        return -xlogy((fixed, broken, questions - fixed - broken), cells).sum()

    low, high = max(0.0, -delta), (1 - delta) / 2
    share = minimize_scalar(
        unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
    ).x
    away = fixed - broken - questions * delta
    reach = np.sign(away) * max(abs(away) - 0.5, 0)
    reach /= np.sqrt(questions * (2 * share + delta - delta**2))
    assert score_reach(fixed, broken, questions, delta) == pytest.approx(reach, rel=1e-4)


def test_the_score_interval_where_nothing_changed_is_the_exact_bound():
    for questions in (10, 60, 185):
        low, high = score_interval(0, 0, questions)
        assert high == -low == pytest.approx(1 - 0.025 ** (1 / questions))
    assert score_interval(0, 0, 183).high < 0.02 < score_interval(0, 0, 182).high


def test_the_score_interval_is_symmetric_and_tightens():
    for fixed, broken, questions in ((5, 2, 40), (30, 10, 300), (0, 4, 20), (7, 0, 7)):
        low, high = score_interval(fixed, broken, questions)
        assert low <= (fixed - broken) / questions <= high
        assert score_interval(broken, fixed, questions) == pytest.approx((-high, -low))
    widths = [np.ptp(score_interval(n // 10, n // 20, n)) for n in (20, 100, 1000, 10_000)]
    assert widths == sorted(widths, reverse=True)
    wide, narrow = score_interval(5, 2, 40, confidence=0.99), score_interval(5, 2, 40)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_bootstrap_alone_has_no_width_where_nothing_differs():
    assert bootstrap_interval([0.0] * 40) == Interval(0.0, 0.0)


def test_what_is_compared_by_which_method():
    binary = [1.0, 0.0, -1.0, 0.0] * 5
    assert compare(binary).method == MCNEMAR
    assert compare(binary, [str(n) for n in range(20)]).method == MCNEMAR
    assert compare(binary, [str(n // 2) for n in range(20)]).method == FLIPS
    assert compare([0.5, *binary]).method == FLIPS
    found = compare(binary, [str(n // 2) for n in range(20)])
    assert (found.questions, found.units, found.difference) == (20, 10, 0.0)


def test_few_units_on_which_nothing_changed_leave_room():
    clusters = [str(n // 5) for n in range(60)]
    found = compare([0.0] * 60, clusters)
    # Not as if 60 questions were independent: as 12 conversations.
    assert found.interval.low < score_interval(0, 0, 12).low < -0.2
    assert found.p_worse == 1.0
    assert compare([0.25], None).interval == Interval(-1.0, 1.0)  # one unit tells nothing


def test_sign_flips_of_single_answers_are_mcnemars_test():
    for fixed, broken in ((1, 6), (0, 5), (5, 3), (7, 7)):
        values = [1.0] * fixed + [-1.0] * broken + [0.0] * 30
        one_sided, two_sided = sign_flips(values)
        assert one_sided == pytest.approx(mcnemar_worse(fixed, broken))
        assert two_sided == pytest.approx(mcnemar_exact(fixed, broken))
    drawn, _ = sign_flips([1.0] * 10 + [-1.0] * 25, draws=40_000, seed=1)
    assert drawn == pytest.approx(mcnemar_worse(10, 25), rel=0.2)
    assert sign_flips([0.0, 0.0]) == (1.0, 1.0)


def test_the_interval_agrees_with_the_normal_one_on_many_questions():
    rng = np.random.default_rng(1)
    values = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=2000)
    half = 1.96 * values.std() / np.sqrt(2000)
    for low, high in (bootstrap_interval(values), compare(values).interval):
        assert low == pytest.approx(values.mean() - half, abs=0.002)
        assert high == pytest.approx(values.mean() + half, abs=0.002)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values)


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
        compare([])
    with pytest.raises(ValueError, match="1 clusters for 2"):
        compare([0, 1], ["a"])


def test_discordance_never_claims_to_be_nought():
    assert discordance([0.0] * 8) == pytest.approx(0.1)
    assert discordance([1.0, -1.0, 0.0, 0.0]) == pytest.approx(0.5)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_shares_and_their_tails():
    for hits, count in ((0, 20), (3, 20), (20, 20)):
        exact = binomtest(hits, count).proportion_ci(0.95, "exact")
        assert share_interval(hits, count) == pytest.approx((exact.low, exact.high))
    values = [1.0] * 3 + [0.0] * 17
    assert share_above(values, None, 0.05) == pytest.approx(binom.sf(2, 20, 0.05))
    assert share_below(values, None, 0.5) == pytest.approx(binom.cdf(3, 20, 0.5))
    # Ten copies of each in one conversation are no further evidence.
    many, of = [v for v in values for _ in range(10)], [str(n // 10) for n in range(200)]
    assert share_below(many, of, 0.5) == share_below(values, None, 0.5)


def test_kappa_by_hand():
    # Agreement .7, chance .5.
    first = ["a"] * 25 + ["b"] * 25
    second = ["a"] * 20 + ["b"] * 5 + ["a"] * 10 + ["b"] * 15
    assert kappa(first, second) == pytest.approx((0.7 - 0.5) / 0.5)
    assert kappa(["a", "a"], ["a", "a"]) is None
    with pytest.raises(ValueError, match="1 and 2 ratings"):
        kappa(["a"], ["a", "b"])


# -- what could have been seen ---------------------------------------------------------------------


@pytest.mark.parametrize(("questions", "points"), [(100, 11), (200, 8), (500, 5)])
def test_detectable_difference_at_known_sizes(questions, points):
    # Published for accuracy .8 and correlation .5 between the two, a share of 2(.8)(.2)(.5)
    # changed, by the normal test; the exact one is a little more careful.
    assert 0 <= 100 * detectable_difference(questions, 0.16) - points < 2


def test_detectable_difference_at_the_edges():
    assert detectable_difference(0, 0.1) == detectable_difference(3, 0.1) == 1.0
    assert 0 < detectable_difference(20, 0.0) < 1
    sizes = [detectable_difference(n, 0.2) for n in (10, 50, 100, 1000, 100_000)]
    assert sizes == sorted(sizes, reverse=True)


def test_the_power_is_a_sum_over_all_outcomes():
    questions, psi, loss = 12, 0.5, 0.4
    seen = sum(
        comb(questions, changed)
        * psi**changed
        * (1 - psi) ** (questions - changed)
        * comb(changed, fixed)
        * 0.1**fixed
        * 0.9 ** (changed - fixed)
        for changed in range(questions + 1)
        for fixed in range(changed + 1)
        if mcnemar_worse(fixed, changed - fixed) <= 0.025
    )
    assert mcnemar_power(questions, psi, loss, 0.95) == pytest.approx(seen)
    at = detectable_difference(100, 0.16)
    assert mcnemar_power(100, 0.16, at, 0.95) == pytest.approx(POWER, abs=0.001)


def test_questions_needed():
    assert questions_needed(0.0, 0.1) is None
    # The normal formula gives (1.95996 + 0.84162)² .16 / .05² = 503 questions; a loss of the
    # margin would itself make more answers change, and steps cost some.
    assert 503 < questions_needed(0.05, 0.16) < 560
    asked = [questions_needed(margin, 0.1) for margin in (0.01, 0.02, 0.05, 0.1)]
    assert asked == sorted(asked, reverse=True)


@pytest.mark.parametrize(
    ("interval", "p_worse", "margin", "expected"),
    [
        ((-0.01, 0.01), 1.0, 0.02, "pass"),
        ((0.0, 0.0), 1.0, 0.0, "pass"),
        ((-0.02, 0.1), 1.0, 0.02, "pass"),
        ((-0.04, -0.01), 0.01, 0.05, "pass"),  # surely worse, but by less than is accepted
        ((-0.3, -0.1), 0.001, 0.02, "fail"),
        ((-0.3, -0.1), 0.03, 0.02, "underpowered"),  # an accident among many tests
        ((-0.3, 0.0), 0.02, 0.02, "underpowered"),
        ((-0.1, 0.1), 0.9, 0.02, "underpowered"),
    ],
)
def test_the_rule(interval, p_worse, margin, expected):
    assert decide(Interval(*interval), p_worse, margin=margin, confidence=0.95) == expected


def test_the_worst_verdict():
    assert worst(["pass", "underpowered", "pass"]) == "underpowered"
    assert worst(["underpowered", "fail"]) == "fail"
    assert worst([]) == "pass"
