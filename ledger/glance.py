"""What the ledger knows of an alias in a few small queries: for `/metrics`, `flywheel status` and
the review page. No text of users, and nothing that grows with the traffic is read.

Two things are in no table of their own, because nobody decides on them: what a rollout waits for,
and what the last tick of the loop came to. Who knows them leaves them here (`remember`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import sqlalchemy as sa

from ledger.clock import now
from ledger.database import tables
from ledger.deployments import Deployment, Deployments
from ledger.store import Spent, Store

#: Where a stage stands: `action`, `said`, `next_share`, `evidence`, all of `eval.canary`.
ROLLOUT: Final = "rollout"
#: What a tick came to: `decision`, as `firings` have it, and `failed`, errors in words.
LOOP: Final = "loop"
#: How the signals of `eval.drift` stand, by name: `state`, `score` (0 to 1, 1 is drift), `effect`,
#: `low`, `high`, `baseline`, `limit`, `count`, `unit`, `since`, `said`.
SIGNALS: Final = "signals"

_alerts, _deployments, _evaluations = tables.alerts, tables.deployments, tables.evaluations
_firings, _queue = tables.firings, tables.queue


class Glance(NamedTuple):
    """How an alias stands.

    Attributes:
        at: when it was looked at, seconds since the epoch.
        changes: deployment events so far, by kind.
        verdicts: verdicts of the gate so far, by verdict.
        judged: the last verdict on each version, by its name, in the order of the verdicts.
        signals: see `SIGNALS`; empty before the first look at drift.
        drifts: signals that have drifted and are not back.
        alerts: alerts so far, by kind.
        decisions: decisions of the loop so far, by what was decided.
        to_review: rows that wait for a person.
        spent: sums so far, by what they were spent on.
        rollout, loop: see `ROLLOUT` and `LOOP`, with `at`; None where nothing was left.
    """

    alias: str
    at: float
    state: Deployment
    changes: Mapping[str, int]
    verdicts: Mapping[str, int]
    judged: Mapping[str, str]
    signals: Mapping[str, Mapping[str, Any]]
    drifts: frozenset[str]
    alerts: Mapping[str, int]
    decisions: Mapping[str, int]
    to_review: int
    spent: Mapping[str, Spent]
    rollout: Mapping[str, Any] | None
    loop: Mapping[str, Any] | None


def glance(store: Store, alias: str) -> Glance:
    """Look at an alias.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    state = Deployments(store).state(alias)
    with store.reading() as connection:

        def count(column: sa.Column[Any], *conditions: sa.ColumnElement[bool]) -> dict[str, int]:
            query = sa.select(column, sa.func.count()).where(*conditions).group_by(column)
            return {str(key): int(number) for key, number in connection.execute(query)}

        verdicts = count(_evaluations.c.verdict, _evaluations.c.alias == alias)
        judged: dict[str, str] = {}
        query = sa.select(_evaluations.c.candidate, _evaluations.c.verdict)
        query = query.where(_evaluations.c.alias == alias).order_by(_evaluations.c.seq)
        for candidate, verdict in connection.execute(query):
            judged.pop(candidate, None)
            judged[candidate] = verdict
        changes = count(_deployments.c.kind, _deployments.c.alias == alias)
        alerts = count(_alerts.c.kind, _alerts.c.alias == alias)
        decisions = count(_firings.c.decision, _firings.c.alias == alias)
        waiting = sa.select(sa.func.count()).where(_queue.c.waiting, _queue.c.alias == alias)
        to_review = int(connection.scalar(waiting) or 0)
        left = {what: store.watch(alias, what, connection) for what in (SIGNALS, ROLLOUT, LOOP)}
    drifts = {one.kind.partition(":")[2] for one in store.open_drifts(alias)} if alerts else set()
    rollout = left[ROLLOUT]
    if rollout is not None and rollout.get("stage") != state.stage_seq:
        rollout = None  # of a stage that is over
    return Glance(
        alias=alias,
        at=now(),
        state=state,
        changes=changes,
        verdicts=verdicts,
        judged=judged,
        signals=(left[SIGNALS] or {}).get("signals", {}),
        drifts=frozenset(drifts),
        alerts=alerts,
        decisions=decisions,
        to_review=to_review,
        spent=spent_on(store, alias),
        rollout=rollout,
        loop=left[LOOP],
    )


def spent_on(store: Store, alias: str, *, since: float = 0.0) -> dict[str, Spent]:
    """What was spent for an alias, by what it was spent on.

    Args:
        since: seconds since the epoch.
    """
    found: dict[str, Spent] = {}
    for (what, _), one in store.spending(alias, since=since).items():
        before = found.get(what, Spent(0, 0, 0, 0.0, 0.0))
        cost = None if one.cost is None or before.cost is None else before.cost + one.cost
        found[what] = Spent(
            before.calls + one.calls,
            before.prompt_tokens + one.prompt_tokens,
            before.completion_tokens + one.completion_tokens,
            cost,
            before.gpu_seconds + one.gpu_seconds,
        )
    return found


def remember(
    store: Store,
    alias: str,
    what: Literal["rollout", "loop", "signals"],
    found: Mapping[str, Any],
    *,
    at: float,
) -> None:
    """Leave how something stands for whoever glances, in place of what was left before.

    Args:
        what: `ROLLOUT`, `LOOP` or `SIGNALS`; `found` is JSON without anybody's text. Of a rollout
            it has `stage`, the event that began it (`Deployment.stage_seq`).
        at: seconds since the epoch.
    """
    with store.transaction() as connection:
        store.save_watches(alias, {what: {**found, "at": at}}, connection, at=at)
