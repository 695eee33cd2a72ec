"""What the wheel costs: tokens, seconds of the box and currency, by alias, version and purpose.

Two answers to two questions. *What does it cost however much it is used?* The box: an hour at
`prices.gpu_hour`, day and night, `prices.boxes` of them. *What do a thousand more answers cost?*
The seconds that the box is busy with them: measured in gates, where the box was busy for a whole
pass with a known number of tokens, times the tokens served. That is an estimate, and is called
one: a gate asks many questions at once, and for one user at a time a token takes longer.

Training and gates have measured seconds, teachers and judges have tokens; both were priced when
they were spent (`ledger.store.spending`). What had no price then takes today's. Where there is
none either the cost is None, never 0, and `cost_from` says what to set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from flywheel.costs.compare import thousands
from flywheel.costs.kinds import WHATS, Box, Costs, Line, Rate, Total, serving_cost
from ledger import pricing
from ledger.database import tables
from ledger.keeping.rollups import SECONDS, used
from ledger.settings import Settings
from ledger.store import Spent, SpentOn, Store

HOUR, DAY = 3600.0, 86_400.0
#: Of a year, divided by twelve.
HOURS_A_MONTH = 365 * 24 / 12
# Gates that say how long a token takes now: another box may have done older ones.
_RECENT = 90 * DAY


def costs(
    settings: Settings,
    store: Store,
    *,
    since: float,
    until: float,
    aliases: Sequence[str] | None = None,
) -> Costs:
    """The bill of some time.

    Args:
        since, until: seconds since the epoch; answers count by whole hours.
        aliases: those that are shown, by default all; the box is shared by all of them.
    """
    shown = sorted(settings.aliases) if aliases is None else list(aliases)
    rates = {alias: rate(store, alias, until) for alias in settings.aliases}
    served = _served(settings, store, since, until, rates)
    spent = _spent(settings, store, since, until)
    box = _box(settings, store, since, until, [*served, *spent])
    everything = [*_with_idle(served, box), *spent]
    mine = [one for one in everything if aliases is None or one.alias in shown]
    mine.sort(key=_order)
    return Costs(
        since=since,
        until=until,
        currency=settings.prices.currency,
        box=box,
        outlay=_outlay(box, everything),
        rates={alias: rates[alias] for alias in shown},
        lines=mine,
        totals={alias: total(one for one in mine if one.alias == alias) for alias in shown},
        thousands={alias: thousands(settings, store, alias, mine) for alias in shown},
    )


def rate(store: Store, alias: str, until: float) -> Rate:
    """How long the box takes for a token, from the alias's gates, else from those of others."""
    for since in (until - _RECENT, 0.0):
        for whose in (alias, None):
            found = store.spending_by_version(whose, since=since)
            gates = [one for on, one in found.items() if on.what == "gate"]
            tokens = sum(one.prompt_tokens + one.completion_tokens for one in gates)
            seconds = sum(one.gpu_seconds for one in gates)
            if tokens and seconds:
                said = f"{len(gates)} gate(s){'' if whose else ' of other aliases'}"
                return Rate(seconds / tokens, f"{seconds:.0f} s for {tokens:,} tokens in {said}")
    return Rate(None, "no gate has measured how long the box takes for a token")


def total(lines: Iterable[Line]) -> Total:
    """The sum of some lines' costs."""
    found = [one.cost for one in lines]
    known = sum(one for one in found if one is not None)
    return Total(None if None in found else known, known)


# -- serving ---------------------------------------------------------------------------------


def _served(
    settings: Settings, store: Store, since: float, until: float, rates: dict[str, Rate]
) -> list[Line]:
    hours = int(since // SECONDS), int(-(-until // SECONDS))
    lines = []
    for (alias, version), one in used(store, since=hours[0], until=hours[1]).items():
        token = (rates.get(alias or "") or rate(store, alias or "", until)).seconds
        seconds = None if token is None else token * (one.prompt_tokens + one.completion_tokens)
        cost = serving_cost(settings, version, pricing.Use(*one, seconds))
        lines.append(
            Line(
                alias,
                version,
                "serving",
                settings.model.name,
                *one,
                seconds,
                None if cost.amount is None else cost.amount * one.answers / 1000,
                cost.how,
                pricing.token_price(settings, version) is not None,
                cost.amount,
            )
        )
    return lines


def _with_idle(served: list[Line], box: Box) -> list[Line]:
    """The same lines, each with its part of the box's whole price, by tokens."""
    everybody = sum(one.prompt_tokens + one.completion_tokens for one in served)
    if box.paid is None or not everybody:
        return served
    return [
        one._replace(
            whole_per_1000=1000
            * box.paid
            * (one.prompt_tokens + one.completion_tokens)
            / everybody
            / one.calls
        )
        for one in served
        if one.calls
    ]


# -- what was written down when it was spent -------------------------------------------------


def _spent(settings: Settings, store: Store, since: float, until: float) -> list[Line]:
    aliases = _spending_aliases(store, since, until)
    return [
        _line(settings, alias, on, one)
        for alias in aliases
        for on, one in store.spending_by_version(alias, since=since, until=until).items()
    ]


def _spending_aliases(store: Store, since: float, until: float) -> list[str]:
    table = tables.spending
    query = sa.select(table.c.alias).where(table.c.ts >= since, table.c.ts < until).distinct()
    with store.reading() as connection:
        return sorted(connection.scalars(query))


def _line(settings: Settings, alias: str, on: SpentOn, one: Spent) -> Line:
    by_token = on.what in ("teacher", "judge")
    cost, how = one.cost, "as priced when it was spent"
    if cost is None:
        now = _todays(settings, on, one)
        cost, how = now.amount, now.how
    return Line(
        alias,
        on.version,
        on.what,
        on.model,
        one.calls,
        one.prompt_tokens,
        one.completion_tokens,
        None if by_token else one.gpu_seconds,
        cost,
        how,
        by_token,
    )


def _todays(settings: Settings, on: SpentOn, one: Spent) -> pricing.Cost:
    """What had no price when it was spent, at the prices of today."""
    if on.what not in ("teacher", "judge"):
        amount = pricing.of_box(settings, one.gpu_seconds)
        how = "unknown: set prices.gpu_hour" if amount is None else "at today's prices.gpu_hour"
        return pricing.Cost(amount, how)
    given = settings.curate.teacher if on.what == "teacher" else settings.curate.judge
    if given is None or given.model != on.model:
        return pricing.Cost(None, "unknown: it had no price then, and is not configured now")
    use = pricing.Use(one.calls, one.prompt_tokens, one.completion_tokens)
    found = pricing.teacher_per_thousand(given, use, f"curate.{on.what}")
    if found.amount is None:
        return found
    return pricing.Cost(found.amount * one.calls / 1000, f"at today's price in {found.how}")


# -- the box ---------------------------------------------------------------------------------


def _box(
    settings: Settings, store: Store, since: float, until: float, lines: Sequence[Line]
) -> Box:
    begin = max(since, min(_first(store), until))
    hours, boxes, price = (until - begin) / HOUR, settings.prices.boxes, settings.prices.gpu_hour
    seconds = [one.gpu_seconds for one in lines if one.what not in ("teacher", "judge")]
    busy = None
    if boxes and hours > 0 and None not in seconds:
        busy = sum(one for one in seconds if one is not None) / (boxes * hours * HOUR)
    known = boxes > 0 and price is not None
    return Box(
        boxes,
        boxes * (price or 0.0) * HOURS_A_MONTH if known else None,
        hours,
        boxes * (price or 0.0) * hours if known else None,
        busy,
    )


def _first(store: Store) -> float:
    """When anything was first recorded; infinite where nothing was."""
    rows, gone, spent = tables.interactions, tables.rollups, tables.spending
    with store.reading() as connection:
        times = [
            connection.scalar(sa.select(sa.func.min(rows.c.ts))),
            connection.scalar(sa.select(sa.func.min(spent.c.ts))),
        ]
        hour = connection.scalar(sa.select(sa.func.min(gone.c.hour)))
    times.append(None if hour is None else hour * SECONDS)
    return min((float(one) for one in times if one is not None), default=float("inf"))


def _outlay(box: Box, lines: Sequence[Line]) -> float | None:
    if not box.boxes:
        return total(lines).cost
    rest = total(one for one in lines if one.by_token).cost
    return None if box.paid is None or rest is None else box.paid + rest


def _order(one: Line) -> tuple[str, bool, list[int], int]:
    version = one.version or ""
    number = version.rpartition("@v")[2]
    known = [0, int(number)] if "@v" in version and number.isdigit() else [-1, 0]
    place = WHATS.index(one.what) if one.what in WHATS else len(WHATS)
    return one.alias or "", one.version is None, known, place
