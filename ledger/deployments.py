"""What is live: appended events and their fold.

Every change is one event with who and why, appended only if nobody else changed the alias
in between (compare-and-set on the alias's last event). Nothing here touches a server: servers
follow the events by themselves.

    candidate   a version is to be loaded, with no traffic
    share       the candidate gets this percentage of the traffic
    promote     a version takes all the traffic; the one before stays as the way back
    rollback    a running canary is dropped, else the previous version takes all the traffic
    withdraw    the candidate is dropped before it had traffic
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import sqlalchemy as sa

from ledger.database import tables
from ledger.errors import LedgerError, StaleDeployment, UsageError
from ledger.records import DeploymentEvent
from ledger.store import Store, now

BASE = 0
"""The version number that stands for the base model without an adapter."""


@dataclass(frozen=True)
class Deployment:
    """The state of one alias: the fold of its events.

    Attributes:
        seq: the alias's last event, 0 before the first.
        history: versions that had all the traffic, oldest first; the last one is live.
        candidate: the version being tried, or None.
        share: percent of the traffic that the candidate gets, 0 to 100.
        since: when the last event happened, seconds since the epoch.
    """

    alias: str
    seq: int = 0
    history: tuple[int, ...] = (BASE,)
    candidate: int | None = None
    share: float = 0.0
    since: float = 0.0
    why: str = ""

    @property
    def live(self) -> int:
        """The version that has the traffic."""
        return self.history[-1]

    @property
    def previous(self) -> int | None:
        """The version that a rollback goes back to, or None."""
        return self.history[-2] if len(self.history) > 1 else None

    @property
    def stage(self) -> str:
        """`live`, `candidate` (loaded, no traffic) or `canary`."""
        if self.candidate is None:
            return "live"
        return "canary" if self.share > 0 else "candidate"

    @property
    def resident(self) -> tuple[int, ...]:
        """Versions that a server keeps loaded, the base model left out."""
        wanted = (self.live, self.previous, self.candidate)
        return tuple(dict.fromkeys(v for v in wanted if v))


def fold(state: Deployment, event: DeploymentEvent) -> Deployment:
    """The state after an event."""
    state = replace(state, seq=event.seq, since=event.ts, why=event.why)
    if event.kind == "candidate":
        return replace(state, candidate=event.version, share=0.0)
    if event.kind == "share":
        return replace(state, candidate=event.version, share=event.share or 0.0)
    if event.kind == "promote":
        assert event.version is not None
        history = (*(v for v in state.history if v != event.version), event.version)
        return replace(state, history=history, candidate=None, share=0.0)
    if event.kind == "rollback" and state.candidate is None:
        return replace(state, history=state.history[:-1] or (BASE,))
    return replace(state, candidate=None, share=0.0)


def version_name(alias: str, version: int, base: str) -> str:
    """`support@v4`, or the base model's name for version 0."""
    return base if version == BASE else f"{alias}@v{version}"


def name_or_none(alias: str, version: int | None, base: str) -> str | None:
    """The name of a version that may be absent; the base model is a version too."""
    return None if version is None else version_name(alias, version, base)


def parse_version(text: str, alias: str) -> int:
    """`4`, `v4` or `support@v4`; `base` is 0.

    Raises:
        UsageError: it is none of these, or names another alias.
    """
    rest = text.removeprefix(f"{alias}@")
    if rest == "base":
        return BASE
    digits = rest.removeprefix("v")
    if not digits.isascii() or not digits.isdigit():
        raise UsageError(
            f"{text!r} is not a version of {alias}",
            remedy=f"Write 4, v4, {alias}@v4 or base; `flywheel versions {alias}` lists them.",
        )
    return int(digits)


class Change(NamedTuple):
    """What an event did."""

    event: DeploymentEvent
    before: Deployment
    after: Deployment


class Deployments:
    """The deployments in a ledger."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def events(self, alias: str) -> list[DeploymentEvent]:
        """All events of an alias, oldest first."""
        return self._events(tables.deployments.c.alias == alias)

    def state(self, alias: str) -> Deployment:
        """What holds now for an alias; the base model where nothing ever happened."""
        return self.states([alias])[alias]

    def states(self, aliases: Sequence[str]) -> dict[str, Deployment]:
        """What holds now for several aliases, read in one query."""
        states = {alias: Deployment(alias) for alias in aliases}
        for event in self._events(tables.deployments.c.alias.in_(aliases)):
            states[event.alias] = fold(states[event.alias], event)
        return states

    def last_seq(self) -> int:
        """The number of the last event of any alias; cheap enough to ask five times a second."""
        with self._store.reading() as connection:
            return connection.scalar(sa.select(sa.func.max(tables.deployments.c.seq))) or 0

    def candidate(self, alias: str, version: int, *, who: str, why: str) -> Change:
        """Have a version loaded, without traffic."""
        return self._append(alias, "candidate", version, None, who, why)

    def share(self, alias: str, version: int, share: float, *, who: str, why: str) -> Change:
        """Give a version this percentage of the traffic, above 0 and below 100."""
        return self._append(alias, "share", version, share, who, why)

    def promote(self, alias: str, version: int, *, who: str, why: str) -> Change:
        """Give a version all the traffic."""
        return self._append(alias, "promote", version, None, who, why)

    def rollback(self, alias: str, *, who: str, why: str) -> Change:
        """Drop a running canary; without one, go back to the previous version."""
        return self._append(alias, "rollback", None, None, who, why)

    def withdraw(self, alias: str, *, who: str, why: str) -> Change:
        """Drop the candidate."""
        return self._append(alias, "withdraw", None, None, who, why)

    def _events(self, condition: sa.ColumnElement[bool]) -> list[DeploymentEvent]:
        table = tables.deployments
        columns = [c for c in table.columns if c.name not in ("after", "report")]
        query = sa.select(*columns).where(condition).order_by(table.c.seq)
        with self._store.reading() as connection:
            return [DeploymentEvent(**values) for values in connection.execute(query).mappings()]

    def _append(
        self,
        alias: str,
        kind: str,
        version: int | None,
        share: float | None,
        who: str,
        why: str,
    ) -> Change:
        before = self.state(alias)
        if kind == "share" and not (share is not None and 0 < share < 100):
            raise UsageError(
                f"a share of {share} %", rule="A share is above 0 and below 100 percent."
            )
        if version is not None and version < 0:
            raise UsageError(
                f"version {version} of {alias}", rule="Versions count from 1; 0 is base."
            )
        event = DeploymentEvent(
            alias=alias, ts=now(), kind=kind, version=version, share=share, who=who, why=why
        )
        _check(before, event)
        values = event.model_dump(exclude={"seq"})
        text, _ = self._store.redacted({"why": why})
        values["why"] = text.get("why", "")
        with self._store.transaction() as connection:
            try:
                result = connection.execute(
                    sa.insert(tables.deployments).values(**values, after=before.seq)
                )
            except sa.exc.IntegrityError:
                raise StaleDeployment(
                    f"{alias} changed while this was decided (its last event was {before.seq})",
                    remedy=f"Look at `flywheel status {alias}` and decide again.",
                ) from None
        key = result.inserted_primary_key
        if key is None:
            raise LedgerError("the ledger gave the event no number")
        event = event.model_copy(update={"seq": key[0]})
        return Change(event, before, fold(before, event))


def _check(state: Deployment, event: DeploymentEvent) -> None:
    """Refuse an event that makes no sense where things stand.

    Raises:
        UsageError: with what holds now, and what can be done.
    """
    alias = state.alias
    if event.kind in ("candidate", "share"):
        if event.version == state.live:
            raise UsageError(f"v{event.version} of {alias} is live already")
        if state.stage == "canary" and state.candidate != event.version:
            raise UsageError(
                f"{alias} has a canary running: v{state.candidate} at {state.share:g} %",
                rule="One version is tried at a time.",
                remedy=f"Promote it, or drop it with `flywheel rollback {alias}`.",
            )
    if event.kind == "promote" and event.version == state.live:
        raise UsageError(f"v{event.version} of {alias} is live already")
    if event.kind == "rollback" and state.candidate is None and state.previous is None:
        raise UsageError(
            f"{alias} has nothing to go back to", rule="No version was live before this one."
        )
    if event.kind == "withdraw" and state.candidate is None:
        raise UsageError(f"{alias} has no candidate to withdraw")
