"""The reasons of a verdict: what was found, what it means, what would help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eval.power import POWER
from eval.reported import SetReport, Verdict


def set_reasons(report: SetReport, own: Verdict) -> list[str]:
    """Why a set says what it says.

    Args:
        own: the verdict of its difference alone.
    """
    found = [*_difference(report, own), *_slices(report), *_rules(report), *_limits(report)]
    if report.forgotten:
        found.append(
            f"{report.forgotten} question(s) are left out: their people were forgotten since"
        )
    return found


def gate_reasons(verdict: Verdict, sets: Sequence[SetReport], main: SetReport) -> list[str]:
    """Why the version gets its verdict: the sets that decided it."""
    if len(sets) == 1:
        return list(main.reasons)
    found = []
    for one in sets:
        decides = one.role == "required" or (one.role == "guard" and one.verdict == "fail")
        if decides and (one.verdict == verdict or one is main):
            found += [f"{one.pack}/{one.name}: {reason}" for reason in one.reasons]
    if verdict == "pass":
        passed = sum(one.role == "required" for one in sets)
        found.append(f"all {passed} required set(s) pass")
    return found


def _difference(report: SetReport, own: Verdict) -> Iterator[str]:
    low, high = (100 * edge for edge in report.interval)
    where = f"the difference lies between {low:+.1f} and {high:+.1f} points"
    margin = f"{100 * report.margin:g}"
    sight = (
        f"{report.questions} questions show losses of {100 * report.detectable:.1f} points and "
        f"more {POWER:.0%} of the time, smaller ones less often"
    )
    if own == "pass":
        yield f"{where}: no loss of more than the {margin} accepted"
        yield sight
        return
    if own == "fail":
        yield f"{where}: the candidate is worse than the version it would replace"
        return
    if report.interval[1] < 0:
        yield (
            f"{where}: it looks worse, but not so surely that it could not be one accident among "
            "the tests of this gate"
        )
    else:
        yield (
            f"{where}: that rules out neither a loss of more than the {margin} points accepted "
            "nor that nothing got worse"
        )
    yield sight
    if report.needed is None:
        yield (
            "with a margin of 0 no number of questions is enough for two equal versions: raise "
            "the margin"
        )
    else:
        yield f"about {report.needed} questions would let an equally good candidate pass"


def _slices(report: SetReport) -> Iterator[str]:
    for name, part in report.slices.items():
        if part.verdict in (None, "pass"):
            continue
        said = []
        if part.floor is not None and part.candidate < part.floor:
            said.append(f"{part.candidate:.1%} is below its floor of {part.floor:.1%}")
        lost = part.baseline - part.candidate
        if part.max_loss is not None and lost > part.max_loss:
            said.append(
                f"it lost {100 * lost:.1f} points where {100 * part.max_loss:g} may be lost"
            )
        yield f"slice {name}: {' and '.join(said)}{_surely(part.verdict, part.questions)}"


def _rules(report: SetReport) -> Iterator[str]:
    for rule in report.rules:
        if rule.verdict == "pass":
            continue
        allowed = (
            f"the live version's {rule.baseline:.1%}"
            if rule.at_most is None
            else f"the {rule.at_most:.1%} allowed"
        )
        yield (
            f"rule {rule.rule}: {rule.candidate:.1%} of the answers break it, more than {allowed}"
            f"{_surely(rule.verdict, report.questions)}"
        )


def _limits(report: SetReport) -> Iterator[str]:
    for limit in report.limits:
        if limit.ratio is None:
            yield f"{limit.limit}: too few answers were asked in this run to compare latencies"
        elif limit.verdict == "fail" and limit.interval is not None:
            low, high = limit.interval
            yield (
                f"{limit.limit}: {limit.ratio:.2f} times the live version's (interval {low:.2f} "
                f"to {high:.2f}), at most {limit.at_most:g} is allowed"
            )


def _surely(verdict: Verdict | None, questions: int) -> str:
    return "" if verdict == "fail" else f"; with {questions} questions that may be an accident"
