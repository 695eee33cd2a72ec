"""The gate's report for people: tables, the verdict in plain words, and the broken answers.

On a terminal it has lines and colours; in a log or a pipe it is plain ASCII.
"""

from __future__ import annotations

import unicodedata

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.reported import GateReport, SetReport, Verdict
from eval.reports.changed import changed, sets_of
from eval.reports.words import (
    asked,
    between,
    key,
    limit_line,
    percent,
    points,
    rule_bound,
    slice_rule,
    verdict_in_words,
)
from eval.results import EvalResults

_SHOWN_BROKEN = 10
_SHOWN_SLICES = 20
_SHOWN_CHARACTERS = 200
_COLOURS = {"pass": "green", "fail": "red", "underpowered": "yellow"}


def print_report(
    report: GateReport, results: EvalResults | None = None, console: Console | None = None
) -> None:
    """Print a report.

    Args:
        results: what the report was made from; with it the broken answers are listed.
        console: where to; by default standard output, 100 characters wide where that is no
            terminal.
    """
    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = 100
    plain = not console.is_terminal
    console.print(
        Text(
            f"Gate of {report.alias}: candidate {report.candidate}, baseline {report.baseline}, "
            f"{asked(report)} questions in {len(report.sets)} set(s)",
            style="bold",
        )
    )
    if report.sets:
        console.print(_sets(report, plain=plain))
    for one in report.sets:
        if one.slices:
            console.print()
            console.print(_slices(one, plain=plain))
        _print_rules(one, console)
    for model, score in report.also.items():
        console.print(Text(f"For information: {model} scores {percent(score)}."))
    for model, count in report.truncated.items():
        if count:
            console.print(Text(f"{count} answer(s) of {model} reached the longest length."))
    if results is not None and results.cached:
        known = f"{results.asked} answers asked now, {results.cached} known from earlier gates."
        console.print(Text(known))
    console.print()
    line = Text(f"Verdict: {report.verdict.upper()}", style=f"bold {_COLOURS[report.verdict]}")
    line.append(f" - {verdict_in_words(report)}", style="default not bold")
    console.print(line)
    for reason in report.reasons:
        console.print(Text(f"  {reason[0].upper()}{reason[1:]}."))
    if results is not None and not report.passed:
        _print_broken(report, results, console)


def _sets(report: GateReport, *, plain: bool) -> Table:
    table = _table("", plain)
    table.add_column("set", no_wrap=True)
    for name in ("asked", "new", "live"):
        table.add_column(name, justify="right")
    table.add_column(f"points, {report.confidence:.0%} interval", justify="right", no_wrap=True)
    table.add_column("margin", justify="right")
    table.add_column("+/-", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for one in report.sets:
        name = _one_line(key(one), 24)
        table.add_row(
            Text(name if one.role == "required" else f"{name} ({one.role})"),
            str(one.questions),
            percent(one.candidate),
            percent(one.baseline),
            f"{points(one.difference)}  {between(one.interval)}",
            f"{100 * one.margin:g}",
            f"{len(one.fixed)}/{len(one.broken)}",
            _verdict(one.verdict),
        )
    table.caption = "points: new minus live. +/-: answers fixed and broken."
    return table


def _slices(one: SetReport, *, plain: bool) -> Table:
    table = _table(f"By slice: {key(one)}", plain)
    table.add_column("slice")
    for name in ("questions", "candidate", "baseline", "points"):
        table.add_column(name, justify="right")
    ruled = any(part.verdict is not None for part in one.slices.values())
    if ruled:
        table.add_column("rule")
        table.add_column("verdict")
    # The worst first where there are too many for a screen.
    parts = sorted(one.slices.items(), key=lambda item: item[1].candidate - item[1].baseline)
    shown = sorted(parts[:_SHOWN_SLICES])
    for name, part in shown:
        cells: list[str | Text] = [
            Text(_one_line(name, 40)),
            str(part.questions),
            f"{part.candidate:.0%}",
            f"{part.baseline:.0%}",
            points(part.candidate - part.baseline),
        ]
        if ruled:
            said = Text("") if part.verdict is None else _verdict(part.verdict)
            cells += [slice_rule(part), said]
        table.add_row(*cells)
    if (more := len(parts) - len(shown)) > 0:
        table.caption = f"and {more} more slices, none of which lost more"
    return table


def _print_rules(one: SetReport, console: Console) -> None:
    for rule in one.rules:
        console.print(
            Text(
                f"{key(one)}: {_one_line(rule.rule, 60)} broken by {percent(rule.candidate)} of "
                f"the candidate's answers, {percent(rule.baseline)} of the baseline's "
                f"({rule_bound(rule)}): "
            )
            + _verdict(rule.verdict)
        )
    for limit in one.limits:
        console.print(Text(f"{key(one)}: {limit_line(limit)}: ") + _verdict(limit.verdict))
    if one.agreement is not None:
        people = one.agreement
        console.print(
            Text(
                f"{key(one)}: the judge agrees with people on {people.share:.0%} of "
                f"{people.pairs} pairs ({people.interval[0]:.0%} to {people.interval[1]:.0%})"
            )
        )
    if one.forgotten:
        console.print(
            Text(f"{key(one)}: {one.forgotten} question(s) of forgotten people are left out")
        )


def _print_broken(report: GateReport, results: EvalResults, console: Console) -> None:
    for one, found in sets_of(report, results):
        if found is None or not one.broken or one.role == "informative":
            continue
        console.print(Text(f"Broken answers ({len(one.broken)}): {key(one)}"))
        listed = [item for item in changed(one, found, results) if item.kind == "broken"]
        for item in listed[:_SHOWN_BROKEN]:
            if item.row is not None:
                console.print(Text(f"  row {item.row}"))
                continue
            console.print(Text(f"  {item.id}: {_one_line(item.turns[-1][1])}"))
            for model, said in ((report.baseline, item.before), (report.candidate, item.after)):
                for answer in said[:1] if len(said) == 1 else said:
                    line = f"    {model}: {_one_line(answer.text)}"
                    line += f"  ({_one_line(answer.why)})" if answer.why else ""
                    console.print(Text(line))
        if (more := len(listed) - _SHOWN_BROKEN) > 0:
            console.print(f"  and {more} more")
        if found.of_users:
            console.print("  Their texts are on the review page, under the version.")


def _table(title: str, plain: bool) -> Table:
    return Table(
        title=Text(title) if title else None,
        box=None if plain else box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        title_style="" if plain else "bold",
        caption_style="" if plain else "dim",
        padding=(0, 2, 0, 0) if plain else (0, 1),
    )


def _verdict(verdict: Verdict) -> Text:
    return Text(verdict, style=_COLOURS[verdict])


def _one_line(text: str, limit: int = _SHOWN_CHARACTERS) -> str:
    """On one line, cut, without the control characters that would steer a terminal."""
    line = " ".join(text.split())
    shown = "".join("?" if unicodedata.category(char)[0] == "C" else char for char in line)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"
