"""What the triggers look at: one reading of the ledger for an alias.

Corrections count once they could be trained on: accepted, not a near-duplicate, not a gold
question, within the caps, and not in what the live version learned (`curate.datasets.plan`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from curate.clusters import ClusterCounts, counts
from curate.datasets.plan import plan
from eval.drift import Signal, look
from ledger.deployments import Deployment, Deployments, fold, version_name
from ledger.files import read_json
from ledger.records import Evaluation
from ledger.registry import Registry
from ledger.settings import Settings
from ledger.store import Alert, Firing, Store

HOUR, DAY, WEEK = 3600.0, 86_400.0, 7 * 86_400.0


class NewPair(NamedTuple):
    """A pair that the next dataset would have and the live version did not learn.

    Attributes:
        ts: when its question was asked, seconds since the epoch.
        cluster: None: like nothing known.
    """

    row_id: str
    ts: float
    cluster: int | None


class Measured(NamedTuple):
    """What the last retrain took, seconds of one GPU or box; `pairs` were trained on."""

    pairs: int
    train: float
    gate: float


class Facts(NamedTuple):
    """All that is known of an alias at a moment.

    Attributes:
        at: the moment, seconds since the epoch.
        last_retrain: when a version was last trained or judged; None: never.
        pairs: what is new since the live version's training.
        pool: pairs of the next dataset, the new ones among them.
        waiting: answers that wait for a person.
        alerts: of drift, newer than the last retrain, oldest first.
        clusters: by number, over the window of `triggers.failures.days` or since the live version
            took over, if that is later: what an earlier one did wrong may be mended.
        verdicts: the last one on each version, by its name.
        firings: all decisions so far, oldest first.
        gpu_hours, cost: spent on training and gates in the last seven days; the cost is None
            where no price is set.
        measured: what the last retrain took; None before the first.
        negative_rate: of the live version's answers lately, 0 to 1; None where too little is
            known.
    """

    alias: str
    at: float
    state: Deployment
    live: str
    last_retrain: float | None
    pairs: Sequence[NewPair]
    pool: int
    waiting: int
    signals: Mapping[str, Signal]
    alerts: Sequence[Alert]
    clusters: Mapping[int | None, ClusterCounts]
    verdicts: Mapping[str, Evaluation]
    firings: Sequence[Firing]
    gpu_hours: float
    cost: float | None
    measured: Measured | None = None
    negative_rate: float | None = None


def facts(settings: Settings, store: Store, alias: str, *, now: float) -> Facts:
    """Read them. Nothing is written but what a build remembers of rows it has opened.

    Raises:
        ConfigError, GoldError: see `curate.datasets.plan.plan`.
    """
    state = Deployments(store).state(alias)
    made = plan(settings, store, alias)
    chosen = [one.candidate for one in made.selection.chosen]
    verdicts, firings = store.evaluations(alias), store.firings(alias)
    last = _last_retrain(store, alias, verdicts, firings)
    since = max(now - settings.triggers.failures.days * DAY, _live_since(store, alias))
    hours, cost = _spent(settings, store, alias, now)
    signals = {one.name: one for one in look(settings, store, alias, now=now)}
    negatives = signals.get("negatives")
    return Facts(
        alias=alias,
        at=now,
        state=state,
        live=version_name(alias, state.live, settings.model.name),
        last_retrain=last,
        pairs=[
            NewPair(one.row_id, one.ts, made.clusters.get(one.row_id))
            for one in chosen
            if one.kind == "correction" and one.row_id not in made.trained
        ],
        pool=len(chosen),
        waiting=sum(store.waiting(alias).values()),
        signals=signals,
        alerts=_drift(store, alias, last),
        clusters={one.cluster: one for one in counts(store, alias, since=since, until=now)},
        verdicts=verdicts,
        firings=firings,
        gpu_hours=hours,
        cost=cost,
        measured=_measured(settings, alias, verdicts),
        negative_rate=None if negatives is None else negatives.effect,
    )


def _measured(
    settings: Settings, alias: str, verdicts: Mapping[str, Evaluation]
) -> Measured | None:
    """From the newest version's own training and its gate."""
    for version in reversed(Registry(settings.registry).versions(alias)):
        file = version.path / "train.json"
        if file.exists():
            verdict = verdicts.get(version.name)
            gate = 0.0 if verdict is None else float(verdict.report.get("seconds") or 0.0)
            return Measured(version.manifest.pairs, float(read_json(file)["seconds"]), gate)
    return None


def _live_since(store: Store, alias: str) -> float:
    """When the live version took over, seconds since the epoch; 0 where it always was."""
    state, since = Deployment(alias), 0.0
    for event in Deployments(store).events(alias):
        before, state = state.live, fold(state, event)
        since = event.ts if state.live != before else since
    return since


def _last_retrain(
    store: Store, alias: str, verdicts: Mapping[str, Evaluation], firings: Sequence[Firing]
) -> float | None:
    times = [one.ts for one in verdicts.values()]
    times += [one.ts for one in firings if one.decision == "retrain"]
    times += [one.ts for one in Deployments(store).events(alias) if one.kind == "candidate"]
    return max(times, default=None)


def _drift(store: Store, alias: str, after: float | None) -> list[Alert]:
    """Drift alerts since a moment; what curation reports as new is the trigger `domain`'s."""
    found = store.alerts(alias, kind="drift:", since=after or 0.0)
    return [one for one in reversed(found) if after is None or one.ts > after]


def _spent(settings: Settings, store: Store, alias: str, now: float) -> tuple[float, float | None]:
    found = store.spending(alias, since=now - WEEK)
    hours = sum(one.gpu_seconds for (what, _), one in found.items() if what in ("training", "gate"))
    hours /= HOUR
    price = settings.prices.gpu_hour
    return hours, None if price is None else hours * price
