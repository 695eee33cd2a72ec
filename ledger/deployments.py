"""What is live: appended events and their fold.

Every change is one event with who and why, appended only if nobody else changed the alias
in between (compare-and-set on the alias's last event). Nothing here touches a server: servers
follow the events by themselves.

    candidate   a version is to be loaded, with no traffic
    share       the candidate gets this percentage of the traffic
    promote     a version takes all the traffic; the one before stays as the way back
    rollback    a running canary is dropped, else the previous version takes all the traffic
    withdraw    the candidate is dropped before it had traffic

A rollout by stages (`flywheel.rollout`) adds:

    begin       the candidate gets the share of the first stage
    expand      it gets the share of the next one; the last stage ends with a promote
    supersede   a newer version takes the candidate's place, and begins its own first stage
    pause       shares stay as they are, and so do users; the stage's clock stands still
    resume      it goes on
    ask         the stage took too long to tell: a person decides; shares stay
    abort       a person ends the rollout: all traffic goes to the live version

Each change of a share begins a stage (`Deployment.stage_seq`), by whomever it is made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from ledger.database import tables
from ledger.errors import LedgerError, StaleDeployment, UsageError
from ledger.records import DeploymentEvent
from ledger.store import Store, now

BASE = 0
"""The version number that stands for the base model without an adapter."""


Report = dict[str, Any] | None
_SHARES = ("share", "begin", "expand", "supersede")


@dataclass(frozen=True)
class Deployment:
    """The state of one alias: the fold of its events.

    Attributes:
        seq: the alias's last event, 0 before the first.
        history: versions that had all the traffic, oldest first; the last one is live.
        candidate: the version being tried, or None.
        share: percent of the traffic that the candidate gets, 0 to 100.
        since: when the last event happened, seconds since the epoch.
        stages: whether the canary is rolled out by stages; False where a person set its share
            without a rollout having begun.
        stage_seq: the event that gave the canary its share; answers that were routed by it or a
            later event belong to the stage. 0 without a canary.
        stage_since: when that was, seconds since the epoch.
        paused_since: since when the stage's clock stands still; None while it goes.
        paused_seconds: how long it stood still earlier in this stage.
        asked: whether a person was asked in this stage.
    """

    alias: str
    seq: int = 0
    history: tuple[int, ...] = (BASE,)
    candidate: int | None = None
    share: float = 0.0
    since: float = 0.0
    why: str = ""
    stages: bool = False
    stage_seq: int = 0
    stage_since: float = 0.0
    paused_since: float | None = None
    paused_seconds: float = 0.0
    asked: bool = False

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
    def paused(self) -> bool:
        """Whether the stage's clock stands still."""
        return self.paused_since is not None

    def stage_seconds(self, at: float) -> float:
        """How long the stage has run at a time, pauses left out; 0 without a canary."""
        if self.share <= 0:
            return 0.0
        until = at if self.paused_since is None else min(at, self.paused_since)
        return max(0.0, until - self.stage_since - self.paused_seconds)

    @property
    def resident(self) -> tuple[int, ...]:
        """Versions that a server keeps loaded, the base model left out."""
        wanted = (self.live, self.previous, self.candidate)
        return tuple(dict.fromkeys(v for v in wanted if v))


def fold(state: Deployment, event: DeploymentEvent) -> Deployment:
    """The state after an event."""
    state = replace(state, seq=event.seq, since=event.ts, why=event.why)
    match event.kind:
        case "candidate":
            return replace(_no_canary(state), candidate=event.version)
        case "share" | "begin" | "expand" | "supersede":
            # By hand within a rollout: the stages go on from there.
            same = state.candidate == event.version
            return replace(
                _no_canary(state),
                candidate=event.version,
                share=event.share or 0.0,
                stages=event.kind != "share" or (same and state.stages),
                stage_seq=event.seq,
                stage_since=event.ts,
            )
        case "promote":
            assert event.version is not None
            history = (*(v for v in state.history if v != event.version), event.version)
            return replace(_no_canary(state), history=history)
        case "pause":
            return state if state.paused else replace(state, paused_since=event.ts)
        case "resume":
            stood = 0.0 if state.paused_since is None else event.ts - state.paused_since
            return replace(
                state, paused_since=None, paused_seconds=state.paused_seconds + max(0.0, stood)
            )
        case "ask":
            return replace(state, asked=True)
        case "rollback" if state.candidate is None:
            return replace(state, history=state.history[:-1] or (BASE,))
        case _:  # rollback of a canary, withdraw, abort
            return _no_canary(state)


def _no_canary(state: Deployment) -> Deployment:
    """What is left where no version is tried."""
    return Deployment(
        state.alias, seq=state.seq, history=state.history, since=state.since, why=state.why
    )


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
        return self._events(tables.deployments.c.alias == alias, reports=True)

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

    def promote(
        self,
        alias: str,
        version: int,
        *,
        who: str,
        why: str,
        report: Report = None,
        seen: Deployment | None = None,
    ) -> Change:
        """Give a version all the traffic.

        Args:
            report: what the decision rests on; numbers, no text of users.
            seen: the state that was decided on; by default what holds now.
        """
        return self._append(alias, "promote", version, None, who, why, report, seen)

    def rollback(
        self,
        alias: str,
        *,
        who: str,
        why: str,
        report: Report = None,
        seen: Deployment | None = None,
    ) -> Change:
        """Drop a running canary; without one, go back to the previous version."""
        return self._append(alias, "rollback", None, None, who, why, report, seen)

    def withdraw(self, alias: str, *, who: str, why: str) -> Change:
        """Drop the candidate."""
        return self._append(alias, "withdraw", None, None, who, why)

    def step(
        self,
        kind: Literal["begin", "expand", "supersede"],
        alias: str,
        version: int,
        share: float,
        *,
        who: str,
        why: str,
        report: Report = None,
        seen: Deployment | None = None,
    ) -> Change:
        """A stage of a rollout begins; see the module."""
        return self._append(alias, kind, version, share, who, why, report, seen)

    def mark(
        self,
        kind: Literal["pause", "resume", "ask", "abort"],
        alias: str,
        *,
        who: str,
        why: str,
        report: Report = None,
        seen: Deployment | None = None,
    ) -> Change:
        """Something happens to the rollout that is running; see the module."""
        return self._append(alias, kind, None, None, who, why, report, seen)

    def _events(
        self, condition: sa.ColumnElement[bool], *, reports: bool = False
    ) -> list[DeploymentEvent]:
        table = tables.deployments
        # What holds now needs no report, and servers ask for it often.
        left_out = ("after",) if reports else ("after", "report")
        columns = [c for c in table.columns if c.name not in left_out]
        query = sa.select(*columns).where(condition).order_by(table.c.seq)
        with self._store.reading() as connection:
            return [_event(dict(values)) for values in connection.execute(query).mappings()]

    def _append(
        self,
        alias: str,
        kind: str,
        version: int | None,
        share: float | None,
        who: str,
        why: str,
        report: Report = None,
        seen: Deployment | None = None,
    ) -> Change:
        before = self.state(alias) if seen is None else seen
        if kind in _SHARES and not (share is not None and 0 < share < 100):
            raise UsageError(
                f"a share of {share} %", rule="A share is above 0 and below 100 percent."
            )
        if version is not None and version < 0:
            raise UsageError(
                f"version {version} of {alias}", rule="Versions count from 1; 0 is base."
            )
        event = DeploymentEvent(
            alias=alias,
            ts=now(),
            kind=kind,
            version=version,
            share=share,
            who=who,
            why=why,
            report=report,
        )
        _check(before, event)
        values = event.model_dump(exclude={"seq"})
        text, _ = self._store.redacted({"why": why})
        values["why"] = text.get("why", "")
        values["report"] = None if report is None else json.dumps(report)
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


def _event(values: dict[str, Any]) -> DeploymentEvent:
    if values.get("report") is not None:
        values["report"] = json.loads(values["report"])
    return DeploymentEvent(**values)


def _check(state: Deployment, event: DeploymentEvent) -> None:
    """Refuse an event that makes no sense where things stand.

    Raises:
        UsageError: with what holds now, and what can be done.
    """
    alias = state.alias
    if event.kind in ("candidate", *_SHARES):
        if event.version == state.live:
            raise UsageError(f"v{event.version} of {alias} is live already")
        other = state.stage == "canary" and state.candidate != event.version
        if other and event.kind != "supersede":
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
    if event.kind in ("pause", "resume", "ask", "abort") and state.candidate is None:
        raise UsageError(
            f"{alias} has no rollout to {event.kind}: no version is being tried",
            remedy=f"`flywheel status {alias}` says what is live.",
        )
    if event.kind == "pause" and state.paused:
        raise UsageError(f"the rollout of {alias} is paused already")
    if event.kind == "resume" and not state.paused:
        raise UsageError(f"the rollout of {alias} is not paused")
