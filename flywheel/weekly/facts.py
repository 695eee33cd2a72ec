"""What a report says, read from the ledger: numbers and our own words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from curate.acceptance.summary import Summary, summary
from curate.estimates import Interval, rate
from curate.review.looks import series
from eval.drift.hours import at
from flywheel.costs import Costs, costs
from flywheel.forget import trained_on_forgotten
from flywheel.weekly.period import DAY, Period
from ledger.database import tables
from ledger.deployments import Deployment, Deployments, name_or_none, version_name
from ledger.marks import rank_name
from ledger.records import DeploymentEvent
from ledger.settings import Settings
from ledger.store import Alert, Firing, Store
from ledger.store.alerts import DRIFT

#: How an event begins that gives a version a part of the traffic.
TRIED = "tried with "
#: Versions whose answers are counted; older ones have none any more.
_VERSIONS = 60


class Day(NamedTuple):
    """Answers of a day or of several, and what users made of them.

    Attributes:
        negatives, edits: answers that somebody was not content with, or wrote anew.
    """

    ts: float
    answers: int
    negatives: int
    edits: int

    @property
    def negative_rate(self) -> Interval | None:
        """Share of all answers, with Wilson's 95 % interval; None of nothing."""
        return rate(min(self.negatives, self.answers), self.answers)

    @property
    def edit_rate(self) -> Interval | None:
        """The same of edits."""
        return rate(min(self.edits, self.answers), self.answers)


class Event(NamedTuple):
    """Something that was done with a version: a line of the history."""

    ts: float
    version: str
    what: str
    who: str
    why: str


class Verdict(NamedTuple):
    """A verdict of the gate; `difference` and `interval` are of the main set, -1 to 1."""

    ts: float
    candidate: str
    baseline: str
    verdict: str
    difference: float | None
    interval: tuple[float, float] | None
    reasons: tuple[str, ...]


class Facts(NamedTuple):
    """Everything on a report.

    Attributes:
        at: when it was written, seconds since the epoch.
        days, whole, before: by day, in all, and in as many days before.
        versions: answers by version name, by day.
        state: at the end of the period, or now where it is not over.
        waits: what only a person can do, a sentence each, as it stands now.
    """

    alias: str
    period: Period
    at: float
    live: str
    candidate: str | None
    state: Deployment
    days: list[Day]
    whole: Day
    before: Day
    versions: dict[str, list[int]]
    history: list[Event]
    verdicts: list[Verdict]
    alerts: list[Alert]
    firings: list[Firing]
    corrections: Summary
    costs: Costs
    waits: list[str]


def began(store: Store, alias: str) -> float | None:
    """When the first answer was given, or the first version tried; None: nothing was yet."""
    events = Deployments(store).events(alias)
    times = [events[0].ts] if events else []
    first = series.first(store, alias)
    return min([*times, *([] if first is None else [first])], default=None)


def gather(settings: Settings, store: Store, alias: str, period: Period, *, now: float) -> Facts:
    """Read them.

    Raises:
        ConfigError: the configuration has no such alias.
    """
    settings.alias(alias)
    base, end = settings.model.name, min(period.until, now)
    events = Deployments(store).events(alias)
    state = at(events, alias, end)
    found = _over(settings, store, alias, events, period)
    days = _days(found, period)
    return Facts(
        alias=alias,
        period=period,
        at=now,
        live=version_name(alias, state.live, base),
        candidate=name_or_none(alias, state.candidate, base),
        state=state,
        days=days,
        whole=_sum(period.since, days),
        before=_sum(
            period.before.since,
            _days(_over(settings, store, alias, events, period.before), period.before),
        ),
        versions={one.name: [bucket.answers for bucket in one.buckets] for one in found},
        history=_history(alias, base, events, period),
        verdicts=_verdicts(store, alias, period),
        alerts=[
            one
            for one in reversed(store.alerts(alias, since=period.since))
            if one.ts < period.until
        ],
        firings=[one for one in store.firings(alias) if period.since <= one.ts < period.until],
        corrections=summary(store, alias, since=period.since),
        costs=costs(settings, store, since=period.since, until=end, aliases=[alias]),
        waits=_waits(settings, store, alias, Deployments(store).state(alias)),
    )


def _over(
    settings: Settings,
    store: Store,
    alias: str,
    events: Sequence[DeploymentEvent],
    period: Period,
) -> list[series.Over]:
    names = series.names(settings, alias, events, most=_VERSIONS)
    return series.over(
        settings, store, alias, names, series.Window(period.since, period.until, DAY)
    )


def _days(found: Sequence[series.Over], period: Period) -> list[Day]:
    days = []
    for number in range(period.days):
        buckets = [one.buckets[number] for one in found]
        days.append(
            Day(
                period.since + number * DAY,
                sum(one.answers for one in buckets),
                sum(one.negatives for one in buckets),
                sum(one.edits for one in buckets),
            )
        )
    return days


def _sum(ts: float, days: Sequence[Day]) -> Day:
    return Day(
        ts,
        sum(one.answers for one in days),
        sum(one.negatives for one in days),
        sum(one.edits for one in days),
    )


def _history(
    alias: str, base: str, events: Sequence[DeploymentEvent], period: Period
) -> list[Event]:
    """Deployment events of the period, in words."""
    found = []
    for number, event in enumerate(events):
        if not period.since <= event.ts < period.until:
            continue
        before = at(events[:number], alias, float("inf"))
        meant = event.version
        if meant is None:  # it speaks of what was being tried, else of what was live
            meant = before.live if before.candidate is None else before.candidate
        name = version_name(alias, meant, base)
        found.append(Event(event.ts, name, _did(event, before), event.who, event.why))
    return found


def _did(event: DeploymentEvent, before: Deployment) -> str:
    share = f"{event.share or 0:g} % of the traffic"
    match event.kind:
        case "candidate":
            return "loaded, no traffic yet"
        case "share" | "begin" | "expand":
            return f"{TRIED}{share}"
        case "supersede":
            return f"took the place of the one being tried, with {share}"
        case "promote":
            return "live"
        case "rollback":
            return "rolled back" if before.candidate is None else "taken back while it was tried"
        case "withdraw":
            return "refused" if event.who == "gate" else "dropped before it had traffic"
        case "abort":
            return "rollout ended by a person"
        case "pause":
            return "rollout paused"
        case "resume":
            return "rollout goes on"
        case _:
            return "a person is asked"


def _verdicts(store: Store, alias: str, period: Period) -> list[Verdict]:
    table = tables.evaluations
    query = (
        sa.select(table)
        .where(table.c.alias == alias, table.c.ts >= period.since, table.c.ts < period.until)
        .order_by(table.c.seq)
    )
    with store.reading() as connection:
        rows = connection.execute(query).all()
    found = []
    for row in rows:
        report: dict[str, Any] = json.loads(row.report)
        interval = report.get("interval")
        found.append(
            Verdict(
                row.ts,
                row.candidate,
                row.baseline,
                row.verdict,
                report.get("difference"),
                None if interval is None else (interval[0], interval[1]),
                tuple(report.get("reasons") or ()),
            )
        )
    return found


def _waits(settings: Settings, store: Store, alias: str, state: Deployment) -> list[str]:
    """What only a person can do now."""
    found = []
    if state.asked:
        found.append(
            f"the rollout of v{state.candidate} told nothing within its time: "
            f"`flywheel rollout show {alias}`, then `advance` or `abort`"
        )
    if state.paused:
        found.append(f"the rollout of v{state.candidate} is paused: `flywheel rollout resume`")
    waiting = {rank_name(rank): count for rank, count in sorted(store.waiting(alias).items())}
    if waiting:
        why = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in waiting.items())
        found.append(f"{sum(waiting.values())} answers on the review page ({why}): `make review`")
    if drifts := [one.kind.removeprefix(DRIFT) for one in store.open_drifts(alias)]:
        names = ", ".join(one.replace("_", " ") for one in drifts)
        found.append(f"drift that is not over ({names}): `flywheel drift {alias}`")
    last = store.firings(alias, limit=1)
    if last and last[-1].decision == "collect":
        missing = "; ".join(last[-1].report.get("missing") or ())
        found.append(f"a retrain waits for more to learn from: {missing}")
    tainted = trained_on_forgotten(settings, store)
    found += [
        f"{name} was trained on somebody who was forgotten since: retrain"
        for name in (version_name(alias, number, settings.model.name) for number in state.resident)
        if name in tainted
    ]
    return found
