"""That the gate's statistics keep their promises, by simulation and by counting all outcomes.

With no true difference at most 5 % false fails at the level .95 (one-sided tests: half of that);
a loss of the size reported as detectable is caught 80 % of the time; a true loss of the margin
passes at most 2.5 % of the time. For single questions, conversations, several samples a question,
several sets and slices.

For yes/no scores only the share of changed answers matters, whatever the accuracy: two versions
of accuracy .5 or .9 with a tenth of the answers changed are the same case here.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.special import gammaln, xlogy
from scipy.stats import binom, norm

from eval import stats
from eval.client import Answer
from eval.power import POWER, detectable, detectable_difference, questions_needed
from eval.results import EvalResults, PackUsed, Probe, SetResults, question_hash
from eval.verdict import decide, judge
from ledger.gold import GoldQuestion
from ledger.packs import GoldSet, SliceRule
from ledger.settings import Gate

LEVEL = 0.025  # one-sided
Z = norm.ppf(1 - LEVEL)
SIZES = (30, 60, 100, 300, 1000)
CHANGED = (0.02, 0.1, 0.3)
ROUNDS = 2000


def slack(rate: float, rounds: int) -> float:
    """Three standard errors of a simulated rate."""
    return 3 * float(np.sqrt(rate * (1 - rate) / rounds))


# -- yes/no questions, each for itself -------------------------------------------------------------


def passes(fixed: Any, broken: Any, questions: int, margin: float) -> Any:
    """`decide`'s pass for arrays of counts."""
    counts, inverse = np.unique(broken, return_inverse=True)
    bounds = [stats.share_interval(int(count), questions).high for count in counts]
    most_lost = np.array(bounds)[inverse].reshape(np.shape(broken))
    return (stats.score_reach(fixed, broken, questions, -margin) >= Z) | (most_lost <= margin)


def fails(fixed: Any, broken: Any) -> Any:
    """The test of `decide`'s fail."""
    return binom.cdf(fixed, np.add(fixed, broken), 0.5) <= LEVEL


def test_the_two_functions_above_are_the_rule() -> None:
    for fixed, broken, margin in product((0, 1, 4, 9), (0, 1, 3, 8, 15), (0.02, 0.1, 0.2)):
        interval = stats.score_interval(fixed, broken, 60)
        verdict = decide(
            interval, stats.mcnemar_worse(fixed, broken), margin=margin, confidence=0.95
        )
        passed = bool(passes(fixed, broken, 60, margin))
        failed = bool(fails(fixed, broken)) and not passed
        assert verdict == ("pass" if passed else "fail" if failed else "underpowered")


def drawn(rng: np.random.Generator, questions: int, psi: float, loss: float, rounds: int) -> Any:
    """Counts of fixed and broken answers of many simulated gates."""
    psi = max(psi, loss)
    shares = [(psi - loss) / 2, (psi + loss) / 2, 1 - psi]
    return rng.multinomial(questions, shares, size=rounds).T[:2]


@pytest.mark.parametrize("questions", SIZES)
def test_equal_versions_seldom_fail(questions: int) -> None:
    rng = np.random.default_rng(questions)
    for psi in CHANGED:
        fixed, broken = drawn(rng, questions, psi, 0.0, ROUNDS)
        assert fails(fixed, broken).mean() <= LEVEL + slack(LEVEL, ROUNDS) < 0.05


@pytest.mark.parametrize("questions", SIZES)
def test_a_loss_of_the_detectable_size_is_caught(questions: int) -> None:
    rng = np.random.default_rng(questions)
    for psi in CHANGED:
        loss = detectable_difference(questions, psi)
        fixed, broken = drawn(rng, questions, psi, loss, ROUNDS)
        failed = fails(fixed, broken) & ~passes(fixed, broken, questions, 0.0)
        assert failed.mean() >= POWER - slack(POWER, ROUNDS)
        # A smaller loss is caught less often: the reported size is not far too large.
        fixed, broken = drawn(rng, questions, psi, 0.7 * loss, ROUNDS)
        assert fails(fixed, broken).mean() < POWER


@pytest.mark.parametrize("questions", [30, 60, 100, 300])
def test_a_loss_of_the_margin_seldom_passes_counted_over_all_outcomes(questions: int) -> None:
    counts = np.arange(questions + 1)
    fixed, broken = (grid[np.tri(questions + 1, dtype=bool)[::-1]] for grid in np.meshgrid(
        counts, counts, indexing="ij"
    ))  # fmt: skip
    same = questions - fixed - broken
    ways = gammaln(questions + 1) - gammaln(fixed + 1) - gammaln(broken + 1) - gammaln(same + 1)
    for margin in (0.02, 0.05, 0.1, 0.2):
        passed = passes(fixed, broken, questions, margin)
        for psi in (margin, 1.1 * margin, 1.5 * margin, 2 * margin, 0.3, 0.6, 0.9):
            won, lost = (psi - margin) / 2, (psi + margin) / 2
            if won < 0:
                continue
            chance = ways + xlogy(fixed, won) + xlogy(broken, lost) + xlogy(same, 1 - psi)
            assert np.exp(chance[passed]).sum() <= LEVEL + 1e-9, (margin, psi)


def test_a_loss_of_the_margin_seldom_passes_on_a_thousand_questions() -> None:
    rng = np.random.default_rng(7)
    for margin, psi in ((0.02, 0.02), (0.02, 0.1), (0.05, 0.3)):
        fixed, broken = drawn(rng, 1000, psi, margin, 4 * ROUNDS)
        assert passes(fixed, broken, 1000, margin).mean() <= LEVEL + slack(LEVEL, 4 * ROUNDS)


def test_a_bootstrap_alone_would_not_hold_its_level() -> None:
    # A true loss of 10 points; with some luck nothing breaks in 30 questions, and a percentile
    # interval is then [0, 0]: it passes whatever the margin is.
    unlucky = 0.9**30
    assert unlucky > 1.5 * LEVEL
    assert stats.bootstrap_interval([0.0] * 30) == (0.0, 0.0)
    assert not passes(0, 0, 30, 0.1)


def test_with_the_questions_needed_an_equal_version_passes() -> None:
    rng = np.random.default_rng(4)
    for margin, psi in product((0.02, 0.05, 0.1), CHANGED):
        questions = questions_needed(margin, psi)
        assert questions is not None
        fixed, broken = drawn(rng, questions, psi, 0.0, ROUNDS)
        passed = passes(fixed, broken, questions, margin).mean()
        assert passed >= POWER - slack(POWER, ROUNDS), (margin, psi)


# -- conversations, and several samples a question -------------------------------------------------


class Case(NamedTuple):
    """Simulated gates of one kind: conversations of several questions, or samples of each."""

    units: int
    size: int = 1  # questions a conversation
    psi: float = 0.2  # share of changed answers
    alike: float = 0.9  # correlation within a conversation
    samples: int = 0  # of each question; 0: yes/no scores

    def differences(self, rng: np.random.Generator, loss: float) -> Any:
        """One gate's differences."""
        if self.samples:
            # Each question has a chance of its own to be answered rightly; the candidate's moves
            # up or down by the same, then loses.
            live = 0.1 + 0.8 * rng.beta(2, 1, self.units)
            moved = live + rng.choice([-1, 1], self.units) * 0.4 * np.minimum(live, 1 - live)
            mean = 0.1 + 0.8 * 2 / 3
            right = rng.binomial(self.samples, moved * (1 - loss / mean))
            return (right - rng.binomial(self.samples, live)) / self.samples
        shared = np.repeat(rng.normal(size=self.units), self.size)
        own = rng.normal(size=self.units * self.size)
        at = norm.cdf(np.sqrt(self.alike) * shared + np.sqrt(1 - self.alike) * own)
        psi = max(self.psi, loss)
        return np.where(at < (psi + loss) / 2, -1.0, np.where(at > 1 - (psi - loss) / 2, 1.0, 0.0))

    @property
    def clusters(self) -> list[str] | None:
        """Conversations of the questions."""
        if self.size == 1:
            return None
        return [str(n // self.size) for n in range(self.units * self.size)]


CASES = (
    Case(12, size=5),
    Case(30, size=3, psi=0.05, alike=0.3),
    Case(80, size=4),
    Case(30, samples=5),
    Case(100, samples=3),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_units_keep_the_same_promises(case: Case) -> None:
    rng, rounds, clusters = np.random.default_rng(11), 300, case.clusters

    def found(loss: float, count: int) -> list[stats.Comparison]:
        return [
            stats.compare(case.differences(rng, loss), clusters, resamples=1000, seed=n)
            for n in range(count)
        ]

    def share(made: list[stats.Comparison], verdict: str, margin: float) -> float:
        said = [decide(c.interval, c.p_worse, margin=margin, confidence=0.95) for c in made]
        return said.count(verdict) / len(said)  # type: ignore[arg-type]

    equal = found(0.0, rounds)
    assert share(equal, "fail", 0.0) <= LEVEL + slack(LEVEL, rounds) < 0.055
    assert share(found(0.1, rounds), "pass", 0.1) <= LEVEL + slack(LEVEL, rounds)
    seen = float(np.median([detectable(c, confidence=0.95) for c in equal[:50]]))
    if seen <= 0.5:
        assert share(found(seen, 200), "fail", 0.0) >= POWER - slack(POWER, 200)


def test_questions_of_one_conversation_taken_for_independent_would_fail_too_often() -> None:
    # What clustering is for: the same simulation, with each question counted for itself.
    rng, case = np.random.default_rng(3), Case(30, size=5, psi=0.3, alike=0.95)
    wrong = right = 0
    for n in range(200):
        values = case.differences(rng, 0.0)
        wrong += stats.compare(values).p_worse <= LEVEL
        right += stats.compare(values, case.clusters, resamples=1000, seed=n).p_worse <= LEVEL
    assert wrong / 200 > 0.1 > LEVEL + slack(LEVEL, 200) >= right / 200


# -- several sets and slices -----------------------------------------------------------------------

SETS, SLICES, QUESTIONS = 3, 4, 60


def results(rng: np.random.Generator, psi: float, losses: list[float]) -> EvalResults:
    """A gate of several sets, each with slices that may not lose anything."""
    sets = []
    for number, loss in enumerate(losses):
        questions = [
            GoldQuestion.model_validate(
                {
                    "id": f"q{n}",
                    "messages": [{"role": "user", "content": "?"}],
                    "checks": [{"type": "exact", "value": "yes"}],
                    "slice": f"s{n % SLICES}",
                }
            )
            for n in range(QUESTIONS)
        ]
        changes = rng.choice(
            [1, -1, 0], p=[(psi - loss) / 2, (psi + loss) / 2, 1 - psi], size=QUESTIONS
        )
        rules = GoldSet(
            name=f"set{number}",
            kind="gold",
            gold=("x",),  # type: ignore[arg-type]
            margin=0.02,
            slices={"*": SliceRule(max_loss=0.0)},
        )  # fmt: skip
        said = {
            "new": {q.id: [answer("new", c >= 0)] for q, c in zip(questions, changes, strict=True)},
            "old": {q.id: [answer("old", c <= 0)] for q, c in zip(questions, changes, strict=True)},
        }
        sets.append(
            SetResults(
                pack="p",
                name=rules.name,
                rules=rules,
                sampling={"temperature": 0, "seed": 0, "samples": 1, "max_tokens": 9},
                questions=questions,
                question_hash=question_hash(questions, of_users=False),
                answers=said,
            )
        )
    same = [("a", -1.0)]
    differing = Probe.model_validate(
        {"question": "q", "base": same, "candidate": [("b", -1.0)], "base_again": same}
    )
    return EvalResults(
        run_id="r",
        alias="a",
        candidate="new",
        baseline="old",
        base_model="base",
        created=0,
        seconds=0,
        gate=Gate(resamples=1000),
        packs=[PackUsed(name="p", pack_hash="", description="", origin="configured")],
        sets=sets,
        probes=[differing],
        bootstrap_seed=0,
        packages={},
    )  # fmt: skip


def answer(model: str, right: bool) -> Answer:
    text = "yes" if right else "no"
    fields: dict[str, Any] = {"finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1}
    return Answer(model=model, text=text, latency_s=0.1, **fields)


def test_many_sets_and_slices_do_not_make_equal_versions_fail() -> None:
    rng, rounds = np.random.default_rng(5), 100
    failed = alone = 0
    for _ in range(rounds):
        report = judge(results(rng, 0.4, [0.0] * SETS))
        assert report.tests == SETS * (1 + SLICES)
        failed += report.verdict == "fail"
        uncorrected = [stats.mcnemar_worse(len(one.fixed), len(one.broken)) for one in report.sets]
        alone += min(uncorrected) <= LEVEL
    assert failed / rounds <= LEVEL + slack(LEVEL, rounds)
    # Three sets alone, uncorrected, err more often than that; with their slices still more.
    assert alone / rounds > LEVEL


def test_a_loss_in_one_of_many_sets_is_caught_at_the_size_that_is_reported() -> None:
    rng, rounds = np.random.default_rng(6), 60
    seen = judge(results(rng, 0.2, [0.0] * SETS)).sets[0].detectable
    caught = [
        judge(results(rng, max(0.2, seen), [seen, 0.0, 0.0])).sets[0].verdict == "fail"
        for _ in range(rounds)
    ]
    assert np.mean(caught) >= POWER - slack(POWER, rounds)
