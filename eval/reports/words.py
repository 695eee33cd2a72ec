"""A report's numbers and verdicts in words; the same wherever they are read."""

from __future__ import annotations

from eval.reported import GateReport, LimitReport, RuleReport, SetReport, SliceReport

LIMITS = {"p95_latency": "latency, 95th percentile", "completion_tokens": "tokens an answer"}


def verdict_in_words(report: GateReport) -> str:
    """One sentence for somebody who has never seen a gate."""
    new, old = report.candidate, report.baseline
    if report.gold_candidate is None:
        return f"{new} was not asked: it is not really live on this server."
    if report.verdict == "fail":
        return f"{new} gives worse answers than {old} and stays out."
    if report.verdict == "underpowered":
        return (
            f"these {asked(report)} questions cannot tell whether {new} is as good as "
            f"{old}, so it stays out."
        )
    if report.interval is not None and report.interval[0] > 0:
        return f"{new} gives better answers than {old} and may take traffic."
    return f"{new} is at least as good as {old}, within the margin, and may take traffic."


def asked(report: GateReport) -> int:
    """Questions of all sets."""
    return sum(one.questions for one in report.sets) or report.questions


def points(value: float) -> str:
    """A difference in points of score, signed."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"  # plus 0: no "-0.0"


def between(interval: tuple[float, float] | None) -> str:
    """An interval of differences, in points."""
    return "" if interval is None else f"{points(interval[0])} to {points(interval[1])}"


def percent(value: float) -> str:
    """A score."""
    return f"{value:.1%}"


def chance(value: float) -> str:
    """A p-value."""
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def slice_rule(part: SliceReport) -> str:
    """What a slice must hold to; "" where it has no rule."""
    rules = [f"at least {part.floor:.0%}"] if part.floor is not None else []
    if part.max_loss is not None:
        rules.append(f"loses at most {100 * part.max_loss:g}")
    return ", ".join(rules)


def rule_bound(rule: RuleReport) -> str:
    """How often a rule may be broken."""
    return "no more than live" if rule.at_most is None else f"at most {rule.at_most:.1%}"


def limit_line(limit: LimitReport) -> str:
    """A limit and what was measured."""
    name, bound = LIMITS[limit.limit], f"at most {limit.at_most:g} times as much"
    if limit.ratio is None or limit.candidate is None or limit.baseline is None:
        return f"{name}: not measured ({bound})"
    unit = " s" if limit.limit == "p95_latency" else ""
    return (
        f"{name}: {limit.candidate:.3g}{unit} against {limit.baseline:.3g}{unit}, "
        f"{limit.ratio:.2f} times as much ({bound})"
    )


def key(one: SetReport) -> str:
    """`pack/set`; the set alone where the pack is called the same."""
    return one.name if one.pack == one.name else f"{one.pack}/{one.name}"
