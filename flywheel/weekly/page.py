"""The page of a report: Markdown that also reads well as it is."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence

from curate.estimates import Interval
from flywheel.costs.shown import asked_what, box_said, gpu, money, times
from flywheel.costs.shown import name as whose
from flywheel.loop.history import DROPPED, LIVE, REFUSED, ROLLED_BACK
from flywheel.weekly.facts import Day, Facts
from ledger.store import Alert, Firing
from ledger.store.alerts import DRIFT, RECOVERED

#: Longest reason in a table's cell, characters.
_LONG = 160
_OUTCOMES = {
    "run": "trained",
    "verdict": "judged",
    LIVE: "live",
    ROLLED_BACK: "rolled back",
    REFUSED: "refused",
    DROPPED: "dropped",
}


def markdown(facts: Facts, picture: str) -> str:
    """The page.

    Args:
        picture: name of the PNG beside it.
    """
    parts = [
        [f"# {facts.alias}, {facts.period.said}", "", *_headline(facts)],
        [f"![answers and what users made of them, by day]({picture})"],
        ["## Versions", "", *_history(facts)],
        ["## The gate", "", *_verdicts(facts)],
        ["## Answers by day", "", *_days(facts)],
        ["## Drift", "", *_alerts(facts)],
        ["## What the loop decided", "", *_firings(facts)],
        ["## Corrections", "", *_corrections(facts)],
        ["## What it cost", "", *_costs(facts)],
        ["## What waits for a person", "", *_waits(facts)],
    ]
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(facts.at))
    note = (
        "Rates are of all answers, those whose rows were let go included, with 95 % intervals. "
        "Feedback that comes later is in no report before it came."
    )
    parts.append([f"Written {written} by `flywheel report`. {note}"])
    return "\n\n".join("\n".join(part) for part in parts)


def _headline(facts: Facts) -> list[str]:
    whole, before = facts.whole, facts.before
    tried = ""
    if facts.candidate is not None:
        share = f" with {facts.state.share:g} % of the traffic" if facts.state.share else ""
        tried = f"; **{facts.candidate}** is being tried{share}"
    lines = [f"**{facts.live}** is live{tried}."]
    if not whole.answers:
        return [*lines, "No answers were given."]
    earlier = f"; {before.answers:,} in the {facts.period.days} days before"
    return [
        *lines,
        "",
        f"- answers: {whole.answers:,}{earlier * bool(before.answers)}",
        f"- negative: {_changed(whole.negative_rate, before.negative_rate)}",
        f"- edited: {_changed(whole.edit_rate, before.edit_rate)}",
    ]


def _changed(now: Interval | None, before: Interval | None) -> str:
    return _rate(now) if before is None else f"{_rate(now)}; before {_rate(before)}"


def _rate(one: Interval | None) -> str:
    return "-" if one is None else f"{one.value:.1%} ({one.low:.1%} to {one.high:.1%})"


def _history(facts: Facts) -> list[str]:
    if not facts.history:
        return ["Nothing changed."]
    rows = [
        (_when(one.ts), one.version, one.what, one.who, _short(one.why)) for one in facts.history
    ]
    return _table(("when (UTC)", "version", "what", "who", "why"), rows)


def _verdicts(facts: Facts) -> list[str]:
    if not facts.verdicts:
        return ["No version came before it."]
    rows = []
    for one in facts.verdicts:
        said = "-"
        if one.difference is not None:
            said = f"{100 * one.difference:+.1f} points"
            if one.interval is not None:
                low, high = (100 * end for end in one.interval)
                said += f" ({low:+.1f} to {high:+.1f})"
        reasons = _short("; ".join(one.reasons))
        rows.append(
            (_when(one.ts), one.candidate, f"**{one.verdict}**", one.baseline, said, reasons)
        )
    return _table(("when (UTC)", "version", "verdict", "against", "difference", "reasons"), rows)


def _days(facts: Facts) -> list[str]:
    def row(name: str, day: Day) -> tuple[str, ...]:
        return name, f"{day.answers:,}", _rate(day.negative_rate), _rate(day.edit_rate)

    rows = [
        row(time.strftime("%a %d %b", time.gmtime(day.ts)), day)
        for day in facts.days
        if day.ts < facts.at
    ]
    rows.append(row("**all**", facts.whole))
    return _table(("day", "answers", "negative", "edited"), rows)


def _alerts(facts: Facts) -> list[str]:
    if not facts.alerts:
        return ["Nothing was noticed."]
    rows = []
    for one in facts.alerts:
        kind = one.kind
        for start, word in ((DRIFT, "drift of"), (RECOVERED, "over:")):
            if kind.startswith(start):
                kind = f"{word} {kind.removeprefix(start)}"
        rows.append((_when(one.ts), kind.replace("_", " "), _short(_noticed(one))))
    return _table(("when (UTC)", "what", "in words"), rows)


def _noticed(one: Alert) -> str:
    """In words; a new kind of question by the terms that name it."""
    if "said" not in one.report and "name" in one.report:
        share = one.report.get("share")
        part = "" if share is None else f", {share:.1%} of the traffic"
        return f"{one.report['name']}{part}"
    return one.said


def _firings(facts: Facts) -> list[str]:
    if not facts.firings:
        tried = facts.candidate is not None
        return [
            f"No retrain: {facts.candidate} was being tried."
            if tried
            else "It saw no cause for a retrain."
        ]
    rows = []
    for one in facts.firings:
        said = [*one.report.get("said", ()), *one.report.get("missing", ())]
        rows.append(
            (
                _when(one.ts),
                "collect more first" if one.decision == "collect" else one.decision,
                ", ".join(one.triggers),
                _short("; ".join(said)),
                _came(one),
            )
        )
    return _table(("when (UTC)", "decision", "because of", "expected", "what came of it"), rows)


def _came(one: Firing) -> str:
    words = []
    for outcome in one.outcomes:
        word = _OUTCOMES.get(outcome.kind, outcome.kind.replace("_", " "))
        if outcome.kind == "run" and outcome.report.get("version"):
            word = f"{outcome.report['version']} trained"
        if outcome.kind == "verdict":
            word = f"gate: {outcome.report['verdict']}"
        words.append(word)
    if not words:
        return "-" if one.decision == "collect" else "nothing yet"
    return ", ".join(words)


def _corrections(facts: Facts) -> list[str]:
    found = facts.corrections
    if not found.decisions:
        return ["None came."]
    rows = [
        (source, *(f"{count.get(word, 0):,}" for word in ("accepted", "proposed", "rejected")))
        for source, count in found.decisions.items()
    ]
    lines = _table(("from", "accepted", "waiting", "rejected"), rows)
    for title, part in (
        ("Waiting because", found.waits),
        ("Rejected because", found.rejected),
        ("Held out of the training data because", found.capped),
    ):
        if part:
            said = ", ".join(f"{reason} ({count})" for reason, count in part.items())
            lines += ["", f"{title}: {said}."]
    return lines


def _costs(facts: Facts) -> list[str]:
    bill, currency = facts.costs, facts.costs.currency
    lines = [box_said(bill)]
    if bill.box.boxes and bill.outlay is not None:
        lines[0] += f" In all, with what is paid by the token: {money(bill.outlay)} {currency}."
    if bill.lines:
        rows = [
            (
                whose(one),
                one.what,
                f"{one.calls:,}",
                f"{one.prompt_tokens + one.completion_tokens:,}",
                gpu(one),
                money(one.cost),
                money(one.per_1000) if one.what == "serving" else "",
            )
            for one in bill.lines
        ]
        head = ("version", "what", "calls", "tokens", "GPU s", currency, "per 1,000 answers")
        lines += ["", *_table(head, rows)]
    compared = bill.thousands.get(facts.alias, [])
    if any(one.cost is not None for one in compared):
        rows_ = [
            (
                f"{one.role}: {one.model}",
                money(one.cost),
                times(one.against_base),
                times(one.against_teacher),
                asked_what(one),
            )
            for one in compared
        ]
        head_ = ("1,000 answers of", currency, "of the base's", "of the teacher's", "from")
        lines += ["", *_table(head_, rows_)]
    for one in bill.rates.values():
        lines += ["", f"≈ is an estimate: {one.said}." if one.seconds else f"Unknown: {one.said}."]
    return lines


def _waits(facts: Facts) -> list[str]:
    return [f"- {one}" for one in facts.waits] or ["Nothing."]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return lines + [f"| {' | '.join(_cell(one) for one in row)} |" for row in rows]


def _cell(text: str) -> str:
    """In one cell, whatever a person typed as a reason."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;") or "-"


def _short(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(text) <= _LONG else text[: _LONG - 1].rstrip() + "…"


def _when(ts: float) -> str:
    return time.strftime("%a %d %b %H:%M", time.gmtime(ts))
