"""One look at an alias: take in what is complete, append alerts, do what follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import sqlalchemy as sa

from eval.drift import gold as golden
from eval.drift import reactions, signals, telling
from eval.drift.detector import Watch
from eval.drift.hours import Hours, Noticed, at
from eval.drift.rules import MONTH
from eval.drift.signals import SHARES, Signal
from ledger.database import tables
from ledger.deployments import Deployments, version_name
from ledger.errors import FlywheelError
from ledger.glance import SIGNALS, remember
from ledger.keeping.rollups import SECONDS
from ledger.settings import Settings
from ledger.store import Alert, Store

#: An answer's time is its request's, and records travel: an hour is taken in so long after its
#: end, seconds.
LATE = 600.0
#: How much of the past a first look takes in, hours.
PAST = 14 * 24
# Hours taken in with one transaction.
_CHUNK = 24
_CLOCK, _GOLD = "clock", "gold"

_rows, _rollups = tables.interactions, tables.rollups


class Watched(NamedTuple):
    """What a look found.

    Attributes:
        new_alerts: appended by this look, drifts and recoveries, oldest first.
        problems: what could not be done (a webhook, a pass over the gold questions).
    """

    signals: list[Signal]
    new_alerts: list[Alert]
    problems: list[str]


def watch(
    settings: Settings,
    store: Store,
    alias: str,
    *,
    now: float,
    ask_gold: Callable[[str], Mapping[str, float]] | None = None,
) -> Watched:
    """Take in what came since the last look. Idempotent, and safe to run twice at once.

    Args:
        now: seconds since the epoch.
        ask_gold: asks a version the gold questions (`gold_asker`); without it they are not asked.

    Raises:
        LedgerError, LedgerLocked: the ledger cannot be read or written. What was taken in before
            stays, and the next look goes on from there.
    """
    found: list[Alert] = []
    while (alerts := _advance(settings, store, alias, now)) is not None:
        found += alerts
    if ask_gold is not None and "gold" not in settings.drift.off:
        found += _ask_gold(settings, store, alias, now, ask_gold)
    telling.follow_up(settings, store, alias, now=now)
    states = store.watches(alias)
    shown = _signals(settings, states)
    left = {"signals": {one.name: asdict(one) for one in shown}}
    if {**(states.get(SIGNALS) or {}), **left} != states.get(SIGNALS):
        remember(store, alias, SIGNALS, left, at=now)
    return Watched(shown, found, problems(states))


def look(settings: Settings, store: Store, alias: str, *, now: float) -> list[Signal]:
    """How the signals stand as of the last look; nothing is taken in and nothing changes.

    Args:
        now: seconds since the epoch; a state that is older says so.
    """
    states = store.watches(alias)
    clock = states.get(_CLOCK)
    found = _signals(settings, states)
    if clock is None or (behind := now / SECONDS - clock["hour"] - 1) < 3:
        return found
    return [replace(one, said=f"{one.said} (as of {behind:.0f} h ago)") for one in found]


def problems(states: Mapping[str, Any]) -> list[str]:
    """What could not be done so far, in sentences.

    Args:
        states: `Store.watches` of an alias.
    """
    error = (states.get(_GOLD) or {}).get("error")
    asked = [f"the gold questions could not be asked: {error}"] if error else []
    return asked + telling.problems(states.get(telling.TODO))


def begin_anew(store: Store, alias: str, signal: str, *, now: float) -> None:
    """Forget what is usual of a signal: what comes from now on is its new warm-up.

    A drift of it is over: somebody has taken it for usual.
    """
    with store.transaction() as connection:
        state = store.watches(alias, connection).get(signal) or {}
        store.drop_watches(alias, [signal], connection)
        if state.get("drift"):
            said = {"signal": signal, "said": f"{signal}: taken for usual from here on"}
            store.add_alert(
                alias, f"recovered:{signal}", said, connection, at=now, since=now, until=now
            )


# -- hours -------------------------------------------------------------------------------------


def _advance(settings: Settings, store: Store, alias: str, now: float) -> list[Alert] | None:
    """Take in the next hours; None where none is complete, else the alerts that were appended."""
    states = store.watches(alias)
    clock = states.get(_CLOCK)
    complete = math.floor((now - LATE) / SECONDS) - 1
    if clock is None:
        first = _first(store, alias, complete)
        if first is None:
            return None
        said = reactions.start(store, first)
    else:
        first, said = clock["hour"] + 1, clock["reactions"]
    last = min(complete, first + _CHUNK - 1)
    if last < first:
        return None
    most = settings.drift.subject_hours_a_day
    by_hour, said = reactions.read(store, alias, said, first, last, most)
    hours = Hours(settings, store, alias, states)
    for hour in range(first, last + 1):
        hours.take(hour, by_hour[hour])
    new = {_CLOCK: {"hour": last, "reactions": said}, **hours.states()}
    with store.transaction() as connection:
        if store.watches(alias, connection).get(_CLOCK) != clock:
            return []  # somebody else took these hours in
        store.save_watches(alias, new, connection, at=now)
        shown = {one.name: one for one in _signals(settings, {**states, **new})}
        return _tell(settings, store, alias, hours.noticed, shown, now, connection)


def _first(store: Store, alias: str, complete: int) -> int | None:
    """The first hour to take in; None where nothing has come yet."""
    earliest = complete + 1 - PAST
    rows = sa.select(sa.func.min(_rows.c.ts)).where(
        _rows.c.alias == alias, _rows.c.ts >= earliest * SECONDS
    )
    gone = sa.select(sa.func.min(_rollups.c.hour)).where(
        _rollups.c.alias == alias, _rollups.c.hour >= earliest
    )
    with store.reading() as connection:
        ts, hour = connection.scalar(rows), connection.scalar(gone)
    found = [] if ts is None else [math.floor(ts / SECONDS)]
    found += [] if hour is None else [hour]
    return min(found, default=None)


def _tell(
    settings: Settings,
    store: Store,
    alias: str,
    noticed: list[Noticed],
    shown: Mapping[str, Signal],
    now: float,
    connection: sa.Connection,
) -> list[Alert]:
    """Append alerts, and note what follows from them."""
    found = []
    todo = store.watches(alias, connection).get(telling.TODO)
    for one in noticed:
        signal, until = shown[one.signal], (one.hour + 1.0) * SECONDS
        report: dict[str, Any] = {
            "signal": one.signal,
            "said": _said(one, signal),
            "unit": signal.unit,
        }
        report |= {"baseline": signal.baseline, "limit": signal.limit, "minimum": signal.minimum}
        report |= _rounded(one.numbers)
        kind = "drift" if one.kind == "drift" else "recovered"
        alert = store.add_alert(
            alias, f"{kind}:{one.signal}", report, connection,
            at=now, since=one.since * float(SECONDS), until=until,
        )  # fmt: skip
        todo = telling.noted(settings, todo, alert, until)
        found.append(alert)
    if found and todo is not None:
        store.save_watches(alias, {telling.TODO: todo}, connection, at=now)
    return found


def _said(one: Noticed, signal: Signal) -> str:
    """The change in one sentence."""
    if one.kind == "replaced":
        return f"{one.signal}: another version answers now; what is usual of it is being learned"
    usual = "" if signal.baseline is None else f", {signal.baseline:.3g} is usual"
    limit = "" if signal.limit is None else f", the limit is {signal.limit:.3g}"
    numbers = one.numbers
    told = (
        f"{numbers['rate']:.3g} ({numbers['low']:.3g} to {numbers['high']:.3g})"
        if "rate" in numbers
        else "back to usual"
    )
    begun = "drifted" if one.kind == "drift" else "is back"
    return f"{one.signal} {begun}: {signal.unit} {told}{usual}{limit}"


def _rounded(numbers: Mapping[str, Any]) -> dict[str, Any]:
    names = {"rate": "effect", "n": "count"}
    return {
        names.get(name, name): round(value, 5) if isinstance(value, float) else value
        for name, value in numbers.items()
    }


def _signals(settings: Settings, states: Mapping[str, dict[str, Any]]) -> list[Signal]:
    found = [
        signals.watched(name, Watch.load(states[name]) if name in states else None, rule, settings)
        for name, rule in signals.rules(settings).items()
    ]
    off = settings.drift.off
    for name, say in (
        ("gold", signals.gold),
        ("questions", signals.questions),
        ("new_clusters", signals.new_clusters),
    ):
        if name not in off:
            found.append(say(states.get(name), settings))
    order = list(SHARES)
    return sorted(found, key=lambda one: order.index(one.name))


# -- gold --------------------------------------------------------------------------------------


def _ask_gold(
    settings: Settings,
    store: Store,
    alias: str,
    now: float,
    ask: Callable[[str], Mapping[str, float]],
) -> list[Alert]:
    """Put the gold questions to the live version where it is time."""
    given, state = settings.drift, store.watches(alias).get(_GOLD)
    if state is not None and state["asked"] is not None:
        slot = given.gold_hours * SECONDS
        if math.floor(now / slot) == math.floor(state["asked"] / slot):
            return []
    events = Deployments(store).events(alias)
    live = at(events, alias, now).live
    version = version_name(alias, live, settings.model.name)
    noticed: list[Noticed] = []
    try:
        scores = ask(version)
    except FlywheelError as error:
        new = {"asked": None, "version": version, "best": None, "drift": None, **(state or {})}
        new |= {"error": error.problem, "asked": (state or {}).get("asked")}
    else:
        new, noticed = gold_step(settings, state, version, scores, now=now)
    with store.transaction() as connection:
        if store.watches(alias, connection).get(_GOLD) != state:
            return []
        store.save_watches(alias, {_GOLD: new}, connection, at=now)
        shown = {_GOLD: signals.gold(new, settings)}
        return _tell(settings, store, alias, noticed, shown, now, connection)


def gold_step(
    settings: Settings,
    state: Mapping[str, Any] | None,
    version: str,
    scores: Mapping[str, float],
    *,
    now: float,
) -> tuple[dict[str, Any], list[Noticed]]:
    """What is remembered after a pass over the gold questions, and what it changed."""
    given = settings.drift
    level = given.false_alarms * SHARES[_GOLD] * given.gold_hours / MONTH
    new, drop = golden.remember(state, version, scores, at=now, level=min(level, 0.4))
    return new, [] if drop is None else _turn(new, drop, given.gold_drop, now)


def _turn(state: dict[str, Any], drop: golden.Drop, part: float, now: float) -> list[Noticed]:
    """Begin or end a drift of the gold score: more than its limit lost, and not by chance."""
    limit, hour = part * drop.best, math.floor(now / SECONDS)
    numbers = {"rate": drop.value, "low": drop.low, "high": drop.high, "n": drop.questions}
    if not state.get("drift") and drop.value > limit and drop.low > 0:
        state["drift"] = {"since": now}
        return [Noticed(_GOLD, "drift", hour, hour, numbers)]
    if state.get("drift") and drop.value <= limit / 2:
        state["drift"] = None
        return [Noticed(_GOLD, "recovered", hour, hour, numbers)]
    return []
