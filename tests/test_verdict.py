"""From answers to a verdict: roles, slices, rules, limits, samples, and what is corrected for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from eval.client import Answer
from eval.demands import breaks
from eval.reported import GateReport, SetReport
from eval.results import EvalResults, PackUsed, Probe, SetResults, question_hash
from eval.verdict import judge
from ledger.gold import GoldQuestion
from ledger.packs import GoldSet
from ledger.settings import Gate

NEW, OLD = "a@v2", "a@v1"
YES = [{"type": "exact", "value": "yes"}]
Said = Callable[[int], str | list[str]]


def question(number: int, **more: Any) -> GoldQuestion:
    fields = {"id": f"q{number}", "messages": [{"role": "user", "content": "?"}], "checks": YES}
    return GoldQuestion.model_validate(fields | more)


def answer(model: str, text: str, tokens: int, seconds: float, cached: bool) -> Answer:
    return Answer(
        model=model,
        text=text,
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=tokens,
        latency_s=seconds,
        cached=cached,
    )


def make(
    new: Said,
    old: Said,
    count: int = 200,
    *,
    name: str = "main",
    ask: Callable[[int], dict[str, Any]] = lambda _: {},
    tokens: Callable[[str, int], int] = lambda model, n: 10,
    seconds: Callable[[str, int], float] = lambda model, n: 0.1,
    cached: bool = False,
    **rules: Any,
) -> SetResults:
    """A set; `new` and `old` say what is said to question n."""
    questions = [question(n, **ask(n)) for n in range(count)]

    def given(model: str, says: Said) -> dict[str, list[Answer]]:
        found = {}
        for n, one in enumerate(questions):
            said = says(n)
            found[one.id] = [
                answer(model, text, tokens(model, n), seconds(model, n), cached)
                for text in ([said] if isinstance(said, str) else said)
            ]
        return found

    answers = {NEW: given(NEW, new), OLD: given(OLD, old)}
    samples = len(answers[NEW]["q0"])
    return SetResults(
        pack="p",
        name=name,
        rules=GoldSet.model_validate(
            {"name": name, "kind": "gold", "gold": ["x"], "margin": 0.05} | rules
        ),
        sampling={"temperature": 0, "seed": 0, "samples": samples, "max_tokens": 9},
        questions=questions,
        question_hash=question_hash(questions, of_users=False),
        answers=answers,
    )


def verdict(*sets: SetResults) -> GateReport:
    same = [("a", -1.0)]
    probe = {"question": "q", "base": same, "candidate": [("b", -1.0)], "base_again": same}
    return judge(
        EvalResults(
            run_id="r",
            alias="a",
            candidate=NEW,
            baseline=OLD,
            base_model="base",
            created=0,
            seconds=0,
            gate=Gate(resamples=1000),
            packs=[PackUsed(name="p", pack_hash="h", description="", origin="configured")],
            sets=list(sets),
            probes=[Probe.model_validate(probe)],
            bootstrap_seed=0,
            packages={},
        )
    )


def only(*sets: SetResults) -> SetReport:
    (found,) = verdict(*sets).sets
    return found


def yes(_: int) -> str:
    return "yes"


def no_from(first: int, count: int = 10**9) -> Said:
    return lambda n: "no" if first <= n < first + count else "yes"


# -- sets and their roles --------------------------------------------------------------------------


def test_the_version_gets_the_worst_verdict_of_its_required_sets() -> None:
    good, bad = make(yes, yes), make(no_from(150), yes, name="bad")
    unclear = make(no_from(195), yes, name="unclear")
    assert verdict(good).verdict == "pass"
    report = verdict(good, unclear)
    assert report.verdict == "underpowered"
    assert [one.verdict for one in report.sets] == ["pass", "underpowered"]
    assert any(reason.startswith("p/unclear: ") for reason in report.reasons)
    report = verdict(good, unclear, bad)
    assert report.verdict == "fail"
    assert report.sets[2].broken == [f"q{n}" for n in range(150, 200)]
    # The summary is that of the first required set.
    assert (report.questions, report.difference, report.broken) == (200, 0.0, [])


def test_a_guard_counts_only_where_it_fails() -> None:
    good = make(yes, yes)
    assert verdict(good, make(no_from(195), yes, name="g", role="guard")).verdict == "pass"
    assert verdict(good, make(no_from(150), yes, name="g", role="guard")).verdict == "fail"


def test_an_informative_set_never_counts_nor_is_it_corrected_for() -> None:
    good, bad = make(yes, yes), make(no_from(0), yes, name="i", role="informative")
    report = verdict(good, bad)
    assert (report.verdict, report.sets[1].verdict, report.tests) == ("pass", "fail", 1)


def test_the_correction_is_for_all_that_can_refuse() -> None:
    # 6 broken of 6 changed: p = 1/64 one-sided, enough alone, too little among five sets.
    bad = make(no_from(14, 6), yes, 20)
    assert only(bad).p_corrected == pytest.approx(1 / 64)
    assert verdict(bad).verdict == "fail"
    others = [make(yes, yes, name=f"s{n}") for n in range(4)]
    report = verdict(bad, *others)
    assert report.tests == 5
    assert report.sets[0].p_corrected == pytest.approx(5 / 64)
    assert report.sets[0].verdict == report.verdict == "underpowered"
    assert "one accident among the tests" in report.sets[0].reasons[0]
    # What it could have seen is said for the corrected test.
    assert report.sets[0].detectable > only(bad).detectable


def test_a_set_without_questions_yet_is_named_and_decides_nothing() -> None:
    empty = make(yes, yes, name="later").model_copy(
        update={"questions": [], "answers": {}, "question_hash": "x"}
    )
    report = verdict(make(yes, yes), empty)
    assert report.verdict == "pass"
    assert report.reasons[-1] == "p/later has no questions yet"


# -- units and samples -----------------------------------------------------------------------------


def test_questions_of_one_conversation_are_one_piece_of_evidence() -> None:
    alone = only(make(no_from(180), yes))
    together = only(make(no_from(180), yes, ask=lambda n: {"conversation": f"c{n // 20}"}))
    assert (alone.verdict, alone.units) == ("fail", 200)
    assert (together.verdict, together.units) == ("underpowered", 10)
    assert together.method != alone.method
    assert together.needed > 5 * alone.needed


def test_several_samples_are_averaged_to_one_score() -> None:
    half = only(make(lambda n: ["yes", "no"], lambda n: ["yes", "yes"], 50))
    assert (half.samples, half.questions, half.units) == (2, 50, 50)
    assert (half.candidate, half.baseline, half.difference) == (0.5, 1.0, -0.5)
    assert half.verdict == "fail"
    assert half.broken == [f"q{n}" for n in range(50)]


# -- slices ----------------------------------------------------------------------------------------


def sliced(new: Said, old: Said = yes, count: int = 400, **slices: Any) -> SetReport:
    ask = {"ask": lambda n: {"slice": "small" if n < 40 else "large"}}
    return only(make(new, old, count, slices=slices, margin=0.3, **ask))


def test_a_floor_is_about_what_was_observed() -> None:
    kept = sliced(no_from(0, 4), small={"floor": 0.9})
    assert (kept.slices["small"].verdict, kept.verdict) == ("pass", "pass")
    assert (kept.slices["small"].candidate, kept.slices["small"].floor) == (0.9, 0.9)
    assert kept.slices["large"].verdict is None
    accident = sliced(no_from(0, 5), small={"floor": 0.9})
    assert (accident.slices["small"].verdict, accident.verdict) == ("underpowered", "underpowered")
    assert "slice small: 87.5% is below its floor of 90.0%; with" in accident.reasons[-1]
    certain = sliced(no_from(0, 15), small={"floor": 0.9})
    assert (certain.slices["small"].verdict, certain.verdict) == ("fail", "fail")


def test_a_floor_holds_also_where_the_live_version_breaks_it() -> None:
    assert sliced(no_from(0, 20), no_from(0, 20), small={"floor": 0.9}).verdict == "fail"


def test_a_slice_may_not_lose_too_much_although_the_set_does_not() -> None:
    assert sliced(no_from(0, 4), small={"max_loss": 0.1}).verdict == "pass"
    assert sliced(no_from(0, 5), small={"max_loss": 0.1}).verdict == "underpowered"
    lost = sliced(no_from(0, 20), small={"max_loss": 0.1})
    assert (lost.verdict, lost.slices["small"].verdict) == ("fail", "fail")
    assert lost.interval[0] > -0.3  # the set itself is well within its margin
    assert "it lost 50.0 points where 10 may be lost" in lost.reasons[-1]


def test_a_star_is_for_all_slices_without_a_rule_of_their_own() -> None:
    found = sliced(no_from(0, 20), **{"*": {"max_loss": 0.1}, "small": {"max_loss": 0.9}})
    assert (found.slices["small"].max_loss, found.slices["large"].max_loss) == (0.9, 0.1)
    assert found.verdict == "pass"


# -- rules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ({"type": "json_schema", "value": {"type": "object"}}, '{"a": 1}', "[1]"),
        ({"type": "matches", "value": r"^\d+$"}, "12", "12 apples"),
        ({"type": "matches_not", "value": "(?i)damn"}, "well", "Damn!"),
        ({"type": "no_refusal"}, "We cannot refund this.", "I'm sorry, I can't help with that."),
        ({"type": "refusal"}, "I cannot help with that.", "Sure: first, take"),
        ({"type": "no_control_tokens"}, "a < b | c", "delivery<|im_end|>"),
        ({"type": "max_chars", "value": 5}, "12345", "123456"),
        ({"type": "no_personal_data"}, "Ask at the desk.", "Write to jo.doe@mill.org"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule(rule: dict[str, Any], good: str, bad: str) -> None:
    (made,) = GoldSet.model_validate(
        {"name": "n", "kind": "gold", "gold": ["x"], "rules": [rule]}
    ).rules
    assert not breaks(made, question(1), good)
    assert breaks(made, question(1), bad)


def test_personal_data_of_the_question_and_placeholders_are_no_leak() -> None:
    (rule,) = GoldSet.model_validate(
        {"name": "n", "kind": "gold", "gold": ["x"], "rules": [{"type": "no_personal_data"}]}
    ).rules
    asked = question(1, messages=[{"role": "user", "content": "I am al@mill.org, call me"}])
    assert not breaks(rule, asked, "I wrote to al@mill.org.")
    assert not breaks(rule, asked, "I wrote to [EMAIL_1] and called [PHONE_1].")
    assert breaks(rule, asked, "I called +44 20 7946 0958.")


def ruled(broken: int, *, live: int = 0, at_most: float | None = 0.0, **more: Any) -> SetReport:
    rule = {"type": "no_control_tokens", "at_most": at_most}
    return only(
        make(
            lambda n: "yes</s>" if n < broken else "yes",
            lambda n: "yes</s>" if n < live else "yes",
            ask=lambda n: {"checks": [{"type": "contains", "value": "yes"}]},
            rules=[rule],
            **more,
        )
    )


def test_one_answer_is_enough_where_none_may_break_a_rule() -> None:
    assert ruled(0).verdict == "pass"
    one = ruled(1)
    assert (one.verdict, one.rules[0].verdict, one.rules[0].questions) == ("fail", "fail", ["q0"])
    assert one.difference == 0.0  # the checks are content
    assert one.reasons[-1].startswith("rule no_control_tokens: 0.5% of the answers break it")


def test_a_share_may_break_it_and_a_little_more_may_be_an_accident() -> None:
    assert ruled(4, at_most=0.02).verdict == "pass"
    assert ruled(6, at_most=0.02).verdict == "underpowered"
    assert ruled(20, at_most=0.02).verdict == "fail"


def test_without_a_share_it_is_held_against_the_live_version() -> None:
    assert ruled(30, live=30, at_most=None).verdict == "pass"
    assert ruled(60, live=30, at_most=None).verdict == "fail"
    unsure = ruled(35, live=30, at_most=None)
    assert (unsure.rules[0].verdict, unsure.rules[0].baseline) == ("underpowered", 0.15)


# -- limits ----------------------------------------------------------------------------------------


def limited(limits: dict[str, float], **more: Any) -> SetReport:
    return only(make(yes, yes, limits=limits, **more))


def test_answers_may_not_become_much_longer() -> None:
    def tokens(model: str, n: int) -> int:
        return (10 + n % 7) * (2 if model == NEW else 1)

    found = limited({"completion_tokens": 1.5}, tokens=tokens)
    assert (found.verdict, found.limits[0].ratio) == ("fail", pytest.approx(2.0))
    assert "at most 1.5 is allowed" in found.reasons[-1]
    assert limited({"completion_tokens": 2.0}, tokens=tokens).verdict == "pass"


def test_a_limit_is_broken_on_evidence_only() -> None:
    def tokens(model: str, n: int) -> int:
        return 2000 if model == NEW and n == 3 else 10  # one answer that ran away

    found = limited({"completion_tokens": 1.5}, tokens=tokens)
    assert found.limits[0].ratio > 1.9
    assert found.verdict == "pass"


def test_latencies_are_compared_where_both_were_asked_now() -> None:
    def seconds(model: str, n: int) -> float:
        return (0.1 + 0.001 * (n % 50)) * (3 if model == NEW else 1)

    slow = limited({"p95_latency": 2.0}, seconds=seconds)
    assert (slow.verdict, slow.limits[0].ratio) == ("fail", pytest.approx(3.0))
    assert slow.limits[0].interval == (pytest.approx(3.0, abs=0.2), pytest.approx(3.0, abs=0.2))
    known = limited({"p95_latency": 2.0}, seconds=seconds, cached=True)
    assert (known.verdict, known.limits[0].ratio) == ("pass", None)
    assert "too few answers were asked in this run" in known.reasons[-1]


def test_the_report_is_the_same_whenever_it_is_made() -> None:
    sets: Sequence[SetResults] = [
        make(no_from(190), yes, ask=lambda n: {"conversation": f"c{n // 3}", "slice": f"s{n % 3}"}),
        make(lambda n: ["yes", "no"], lambda n: ["no", "yes"], 40, name="sampled"),
    ]
    assert verdict(*sets) == verdict(*sets)
