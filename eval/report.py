"""The gate's report for people: a table, the verdict in plain words, and the broken answers.

On a terminal it has lines and colours; in a log or a pipe it is plain ASCII.
"""

from __future__ import annotations

import unicodedata

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.verdict import EvalResults, GateReport

_SHOWN_BROKEN = 10
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
    console.print(_table(report, plain=not console.is_terminal))
    if report.slices:
        console.print(_slice_table(report, plain=not console.is_terminal))
    line = Text(f"Verdict: {report.verdict.upper()}", style=f"bold {_COLOURS[report.verdict]}")
    line.append(f" - {verdict_in_words(report)}", style="default not bold")
    console.print(line)
    for reason in report.reasons:
        console.print(Text(f"  {reason[0].upper()}{reason[1:]}."))
    if results is not None and report.broken and not report.passed:
        _print_broken(report, results, console)


def verdict_in_words(report: GateReport) -> str:
    """One sentence for somebody who has never seen a gate."""
    new, old = report.candidate, report.baseline
    if report.gold_candidate is None:
        return f"{new} was not asked: it is not really live on this server."
    if report.verdict == "fail":
        return f"{new} gives worse answers than {old} and stays out."
    if report.verdict == "underpowered":
        return (
            f"these {report.questions} questions cannot tell whether {new} is as good as "
            f"{old}, so it stays out."
        )
    if report.interval is not None and report.interval[0] > 0:
        return f"{new} gives better answers than {old} and may take traffic."
    return f"{new} is at least as good as {old}, within the margin, and may take traffic."


def _table(report: GateReport, *, plain: bool) -> Table:
    table = _new_table(f"Gate of {report.alias}: {report.questions} gold questions", plain)
    table.add_column("")
    table.add_column("right", justify="right")
    if report.gold_candidate is None or report.gold_baseline is None:
        return table
    table.add_row(Text(f"candidate {report.candidate}"), f"{report.gold_candidate:.1%}")
    table.add_row(Text(f"baseline  {report.baseline}"), f"{report.gold_baseline:.1%}")
    for model, value in report.also.items():
        table.add_row(Text(f"also      {model}"), f"{value:.1%}")
    if report.difference is not None and report.interval is not None:
        low, high = report.interval
        table.add_row("difference, points", f"{100 * report.difference:+.1f}")
        table.add_row(
            f"its {report.confidence:.0%} interval", f"{100 * low:+.1f} to {100 * high:+.1f}"
        )
        table.add_row("accepted loss, points", f"{100 * report.margin:g}")
    if report.p_value is not None:
        table.add_row("p (exact McNemar)", f"{report.p_value:.2g}")
    table.add_row("answers fixed / broken", f"{len(report.fixed)} / {len(report.broken)}")
    for model, count in report.truncated.items():
        if count:
            table.add_row(Text(f"cut at the longest length: {model}"), str(count))
    return table


def _slice_table(report: GateReport, *, plain: bool) -> Table:
    table = _new_table("By slice", plain)
    table.add_column("slice")
    for name in ("questions", "candidate", "baseline"):
        table.add_column(name, justify="right")
    for name, part in report.slices.items():
        table.add_row(
            Text(_one_line(name, 40)),
            str(part.questions),
            f"{part.candidate:.0%}",
            f"{part.baseline:.0%}",
        )
    return table


def _new_table(title: str, plain: bool) -> Table:
    return Table(
        title=Text(title),
        box=box.ASCII if plain else box.ROUNDED,
        show_header=title == "By slice" or not plain,
        title_justify="left",
    )


def _print_broken(report: GateReport, results: EvalResults, console: Console) -> None:
    questions = {question.id: question for question in results.questions}
    console.print(f"Broken answers ({len(report.broken)}):")
    for number in report.broken[:_SHOWN_BROKEN]:
        answer = results.answers[report.candidate][number].text
        before = results.answers[report.baseline][number].text
        why = "; ".join(
            check.reason for check in results.checks[report.candidate][number] if check.reason
        )
        console.print(Text(f"  {number}: {_one_line(questions[number].text)}"))
        console.print(Text(f"    {report.baseline}: {_one_line(before)}"))
        console.print(Text(f"    {report.candidate}: {_one_line(answer)}  ({_one_line(why)})"))
    if (more := len(report.broken) - _SHOWN_BROKEN) > 0:
        console.print(f"  and {more} more")


def _one_line(text: str, limit: int = _SHOWN_CHARACTERS) -> str:
    """On one line, cut, without the control characters that would steer a terminal."""
    line = " ".join(text.split())
    shown = "".join("?" if unicodedata.category(char)[0] == "C" else char for char in line)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"
