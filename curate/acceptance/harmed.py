"""Corrections that were new in a version that harmed users wait for eyes again.

A version that its canary's users reject more often learned something wrong, and what was new in it
is where that stands. Accepted corrections would be trained on again by the next version, and by the
one after that. So they wait, as they would have had somebody doubted them: accepting one again is
enough, and then it counts.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import sqlalchemy as sa

from curate.acceptance import reasons
from curate.acceptance.policy import Verdict
from curate.datasets.plan import learned_from
from curate.judging.decisions import append, restated
from curate.tagging.swept import mark
from ledger.database import tables
from ledger.deployments import Deployment, Deployments, fold
from ledger.marks import CORRECTION_WAITS, by_user
from ledger.records import ANONYMOUS, DeploymentEvent
from ledger.settings import Settings
from ledger.store import Store
from ledger.store.base import chunks
from ledger.store.corrections import holding

_corrections = tables.corrections


class SetAside(NamedTuple):
    """How many corrections wait again because of a version."""

    version: int
    corrections: int


def set_aside(settings: Settings, store: Store, alias: str) -> SetAside | None:
    """Let corrections wait that only the last version learned from that harmed users.

    Harmed users means that its canary was rolled back for negatives or edits. Slow answers and
    the like are not what corrections bring about, and a person who takes a version back knows
    why. What somebody decided since the rollback stands. To do it twice changes nothing.

    Returns:
        None where there was nothing to do.
    """
    found = _last_harm(Deployments(store).events(alias), alias)
    if found is None:
        return None
    back, before = found
    assert before.candidate is not None
    new = learned_from(settings, store, alias, before.candidate)
    new -= learned_from(settings, store, alias, before.live)
    count = _wait(store, new, back, f"{alias}@v{before.candidate}")
    return SetAside(before.candidate, count) if count else None


def _last_harm(
    events: Collection[DeploymentEvent], alias: str
) -> tuple[DeploymentEvent, Deployment] | None:
    """The last rollback of a canary for what its users said, and what held before it."""
    state, last = Deployment(alias), None
    for event in events:
        metrics = (event.report or {}).get("metrics", [])
        if event.kind == "rollback" and state.candidate and any(map(_harmful, metrics)):
            last = event, state
        state = fold(state, event)
    return last


def _harmful(metric: dict[str, Any]) -> bool:
    """Whether it is what a rollback rests on, as `eval.canary` has it in its evidence."""
    return bool(metric["harm"] >= 1 > metric["safety"])


def _wait(store: Store, row_ids: Collection[str], back: DeploymentEvent, version: str) -> int:
    """Let the accepted corrections of rows wait that are older than a rollback."""
    verdict = Verdict("proposed", [f"{reasons.HARMED}: {version}"])
    count = 0
    for page in chunks(sorted(row_ids)):
        query = sa.select(_corrections.c.row_id).where(
            _corrections.c.seq.in_(holding(page)),
            _corrections.c.decision == "accepted",
            _corrections.c.ts < back.ts,
        )
        with store.reading() as connection:  # nearly always there is nothing left to do
            if connection.scalar(query.limit(1)) is None:
                continue
        with store.transaction() as connection:
            for row_id in connection.scalars(query).all():
                holds = store.correction_history(row_id)[-1]
                if holds.text is None:
                    continue  # its author was forgotten: no dataset has it
                append(store, restated(row_id, holds, verdict.decision, verdict.why), connection)
                user = None if holds.author == ANONYMOUS else holds.author
                who = by_user(user) if holds.source == "user" else "rule:harmed"
                tag = mark(row_id, CORRECTION_WAITS, who, "; ".join(verdict.words))
                store.add_tags([tag], connection)
                count += 1
    return count
