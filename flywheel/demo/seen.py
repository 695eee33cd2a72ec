"""What the loop has done, as the ledger says: read by the demo that nobody steers."""

from __future__ import annotations

from typing import NamedTuple

from ledger.deployments import Deployments, parse_version
from ledger.store import Firing, Store

# Signals that tell a new product from the old one; both have a baseline that outlives a version.
_WATCHED = ("negatives", "edits")


class Judged(NamedTuple):
    """A retrain's version, its gate's verdict, and its gold score less the live version's."""

    version: str
    verdict: str
    difference: float | None


class Ended(NamedTuple):
    """How a rollout ended (live, rolled_back, dropped), when, and why."""

    how: str
    at: float
    why: str


class Seen:
    """Reads one alias."""

    def __init__(self, store: Store, alias: str) -> None:
        self._store, self._alias = store, alias
        self._deployments = Deployments(store)

    def fired(self, after: int) -> Firing | None:
        """The first decision to retrain after another, by its number."""
        found = self._store.firings(self._alias)
        new = [one for one in found if one.decision == "retrain" and one.seq > after]
        return new[0] if new else None

    def judged(self, firing: int) -> Judged | None:
        """What a decision's retrain came to, once it was before its gate."""
        [now] = [one for one in self._store.firings(self._alias) if one.seq == firing]
        run = now.outcome("run")
        if run is None:
            return None
        verdict = self._store.evaluations(self._alias).get(run.report["version"])
        if verdict is None:
            return None
        return Judged(verdict.candidate, verdict.verdict, verdict.report.get("difference"))

    def ended(self, version: str) -> Ended | None:
        """How the rollout of a version ended; None before that."""
        number, tried = parse_version(version, self._alias), False
        for event in self._deployments.events(self._alias):
            if event.version == number and event.kind in ("begin", "supersede", "expand"):
                tried = True
            elif event.kind == "promote" and event.version == number:
                return Ended("live", event.ts, event.why)
            elif tried and event.kind == "rollback":
                return Ended("rolled_back", event.ts, event.why)
            elif tried and event.kind in ("withdraw", "abort", "supersede"):
                return Ended("dropped", event.ts, event.why)
        return None

    def rolled_back(self) -> float | None:
        """When the last rollback was; None where there was none."""
        events = self._deployments.events(self._alias)
        return max((event.ts for event in events if event.kind == "rollback"), default=None)

    def drifts(self, since: float) -> list[str]:
        """Drift that was noticed since a moment, in sentences, oldest first."""
        found = self._store.alerts(self._alias, kind="drift:", since=since)
        return [one.said for one in reversed(found)]

    def usual(self, version: str) -> bool:
        """Whether drift detection knows what is usual with a version."""
        states = self._store.watches(self._alias)
        return all(
            (one := states.get(name)) is not None
            and one["version"] == version
            and one["baseline"] is not None
            and one["warm"] is None
            for name in _WATCHED
        )
