"""A bill for a person: on a terminal, and the words that the weekly report shares with it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from flywheel.costs.kinds import Costs, Line, Thousand

_DAY = 86_400.0
_ASKED = {
    "gate": "the gate's questions",
    "served": "answers served",
    "asked": "stored questions it was asked",
    "": "nothing",
}


def money(amount: float | None) -> str:
    """An amount with the digits that matter; `unknown` for None."""
    if amount is None:
        return "unknown"
    if amount == 0 or abs(amount) >= 0.1:
        return f"{amount:,.2f}"
    return f"{amount:.2g}"


def name(line: Line) -> str:
    """Whose a line is: its version, or that it is no version's."""
    return line.version or "no version"


def gpu(line: Line) -> str:
    """Seconds of the box; those of serving are marked as an estimate."""
    if line.by_token and line.gpu_seconds is None:
        return "-"
    if line.gpu_seconds is None:
        return "unknown"
    return f"{'≈' * (line.what == 'serving')}{line.gpu_seconds:,.0f}"


def box_said(found: Costs) -> str:
    """What the boxes cost, idle or not, in a sentence or two."""
    box, currency = found.box, found.currency
    days = f"{box.hours / 24:.1f} days"
    busy = "" if box.busy is None else f" Busy {box.busy:.1%} of it."
    if not box.boxes:
        return f"No box is paid for by the clock (prices.boxes is 0); {days} looked at."
    boxes = "The box costs" if box.boxes == 1 else f"{box.boxes} boxes cost"
    if box.paid is None:
        return f"{boxes} an unknown amount: set prices.gpu_hour.{busy}"
    return (
        f"{boxes} {money(box.a_month)} {currency} a month however idle; {money(box.paid)} in these "
        f"{days}.{busy}"
    )


def asked_what(one: Thousand) -> str:
    """To what the answers were that a cost per 1,000 is from."""
    return _ASKED[one.asked]


def times(ratio: float | None) -> str:
    """A multiple; a dash where it is unknown."""
    return "-" if ratio is None else f"{ratio:.2g} ×"


def text(found: Costs) -> str:
    """The bill on a terminal."""
    begin, end = (time.strftime("%Y-%m-%d", time.gmtime(t)) for t in (found.since, found.until))
    lines = [f"{begin} to {end}, in {found.currency}. {box_said(found)}"]
    if found.box.boxes:
        lines.append(f"In all, with what is paid by the token: {money(found.outlay)}")
    for alias in [*found.totals, *_others(found)]:
        mine = [one for one in found.lines if (one.alias or "") == alias]
        lines += ["", alias or "(no alias: the base model by its name)"]
        if not mine:
            lines.append("  nothing was served or spent")
            continue
        lines += _table(mine)
        if alias in found.totals:
            sum_ = found.totals[alias]
            known = f", at least {money(sum_.known)}" if sum_.cost is None and sum_.known else ""
            lines.append(f"  in all {money(sum_.cost)}{known}")
        if alias in found.thousands:
            lines += _thousands(found.thousands[alias], found.currency)
        if alias in found.rates:
            seconds, said = found.rates[alias]
            lines.append(
                f"  ≈ is an estimate: {said}"
                if seconds
                else f"  The seconds of serving are unknown: {said}."
            )
    return "\n".join(lines)


def _others(found: Costs) -> list[str]:
    """Aliases with lines that are not configured (any more)."""
    return sorted({one.alias or "" for one in found.lines} - set(found.totals))


def _table(lines: Sequence[Line]) -> list[str]:
    head = ("", "", "calls", "prompt", "answer", "GPU s", "cost", "per 1,000", "with idle")
    rows: list[Sequence[str]] = [head]
    last = None
    for one in lines:
        here = name(one)
        rows.append(
            (
                "" if here == last else here,
                one.what,
                f"{one.calls:,}",
                f"{one.prompt_tokens:,}",
                f"{one.completion_tokens:,}",
                gpu(one),
                money(one.cost),
                money(one.per_1000) if one.what == "serving" else "",
                "" if one.whole_per_1000 is None else money(one.whole_per_1000),
            )
        )
        last = here
    unknown = {f"  {one.what}: {one.cost_from}" for one in lines if one.cost is None}
    return [*_aligned(rows), *sorted(unknown)]


def _thousands(them: Sequence[Thousand], currency: str) -> list[str]:
    rows: list[Sequence[str]] = [
        ("1,000 answers of", "", currency, "base's", "teacher's", "from", "")
    ]
    rows += [
        (
            one.role,
            one.model,
            money(one.cost),
            times(one.against_base),
            times(one.against_teacher),
            asked_what(one),
            one.cost_from,
        )
        for one in them
    ]
    return ["", *_aligned(rows, left=(0, 1, 5, 6))]


def _aligned(rows: Sequence[Sequence[str]], left: tuple[int, ...] = (0, 1)) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        (
            "  "
            + "  ".join(
                cell.ljust(width) if place in left else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        ).rstrip()
        for row in rows
    ]
