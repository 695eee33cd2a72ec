"""Markdown, for pull requests and summaries of builds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from eval.reported import GateReport, SetReport
from eval.reports.changed import KINDS, Changed, changed, sets_of
from eval.reports.words import (
    asked,
    between,
    chance,
    key,
    limit_line,
    percent,
    points,
    rule_bound,
    slice_rule,
    verdict_in_words,
)
from eval.results import EvalResults, SetResults

_SHOWN = 50  # questions of a kind; the page has all
_CHARACTERS = 400
# What Markdown or HTML would read as more than itself.
_MARKS = re.compile(r"([\\`*_{}\[\]<>()#+!|~&-])")


def markdown(report: GateReport, results: EvalResults) -> str:
    """The file's content."""
    lines = [
        f"# Gate of {_text(report.alias)}: {report.verdict}",
        "",
        f"**{_text(report.candidate)}** against **{_text(report.baseline)}**: "
        f"{_text(verdict_in_words(report))}",
        "",
        *[f"- {_text(reason)}" for reason in report.reasons],
        "",
    ]
    if report.sets:
        head = ["set", "it is", "questions", "candidate", "baseline", "points"]
        head += [f"{report.confidence:.0%} interval", "margin", "p", "fixed", "broken", "verdict"]
        lines += _table(head, map(_set, report.sets))
    for model, score in report.also.items():
        lines += [f"For information: {_text(model)} scores {percent(score)}.", ""]
    for one, found in sets_of(report, results):
        lines += _part(one, found, results)
    lines += [
        f"{asked(report)} questions; {results.asked} answers asked in {report.seconds:.0f} s, "
        f"{results.cached} known from earlier gates. Run `{report.run_id}`.",
        "",
    ]
    return "\n".join(lines)


def _set(one: SetReport) -> list[str]:
    return [
        _text(key(one)),
        one.role,
        str(one.questions),
        percent(one.candidate),
        percent(one.baseline),
        points(one.difference),
        between(one.interval),
        f"{100 * one.margin:g}",
        chance(one.p_corrected),
        str(len(one.fixed)),
        str(len(one.broken)),
        f"**{one.verdict}**",
    ]


def _part(one: SetReport, found: SetResults | None, results: EvalResults) -> list[str]:
    lines: list[str] = []
    if one.slices:
        lines += [f"## Slices of {_text(key(one))}", ""]
        rows = [
            [
                _text(name),
                str(part.questions),
                percent(part.candidate),
                percent(part.baseline),
                points(part.candidate - part.baseline),
                slice_rule(part),
                part.verdict or "",
            ]
            for name, part in one.slices.items()
        ]
        head = ["slice", "questions", "candidate", "baseline", "points", "rule", "verdict"]
        lines += _table(head, rows)
    for rule in one.rules:
        lines.append(
            f"- rule `{rule.rule}`: broken by {percent(rule.candidate)} of the candidate's "
            f"answers, {percent(rule.baseline)} of the baseline's ({rule_bound(rule)}): "
            f"{rule.verdict}"
        )
    lines += [f"- {_text(limit_line(limit))}: {limit.verdict}" for limit in one.limits]
    lines += [""] if one.rules or one.limits else []
    listed = [] if found is None else changed(one, found, results)
    for kind in KINDS:
        items = [item for item in listed if item.kind == kind]
        if items:
            lines += _changes(f"{key(one)}: {kind} ({len(items)})", items, results)
    return lines


def _changes(title: str, items: Sequence[Changed], results: EvalResults) -> list[str]:
    lines = [f"<details><summary>{_text(title)}</summary>", ""]
    if items[0].row is not None:
        lines += ["Their texts are on the review page, under the version.", ""]
        lines += [f"- row `{item.row}`" for item in items[:_SHOWN]]
        lines.append("")
    else:
        head = ["question", "", "wanted", results.baseline, results.candidate]
        rows = [
            [
                _text(item.id),
                _text(item.turns[-1][1] if item.turns else ""),
                _text(item.wanted),
                " / ".join(_text(said.text) for said in item.before),
                " / ".join(_text(said.text) for said in item.after),
            ]
            for item in items[:_SHOWN]
        ]
        lines += _table([_text(name) for name in head], rows)
    if (more := len(items) - _SHOWN) > 0:
        lines += [f"and {more} more, on the page `gate.html`", ""]
    return [*lines, "</details>", ""]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *[f"| {' | '.join(row)} |" for row in rows],
        "",
    ]


def _text(text: str) -> str:
    """On one line, cut, with nothing in it that is markup."""
    line = " ".join(text.split())
    line = line if len(line) <= _CHARACTERS else f"{line[: _CHARACTERS - 1]}…"
    return _MARKS.sub(r"\\\1", line)
