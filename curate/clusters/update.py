"""Bringing the clusters of an alias up to date: take in what is new, learn, report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from curate.clusters.fresh import Fresh, report
from curate.clusters.intake import Intake
from curate.clusters.learn import learn
from curate.clusters.model import Model, latest
from ledger.settings import Settings
from ledger.store import Store, now


class Updated(NamedTuple):
    """What an update did.

    Attributes:
        seen: answers that were new.
        placed: rows that were looked at: the sample's, and those somebody said something about.
        unknown: those of them that were like nothing known when they came.
        clusters: how many there are now.
        new: numbers of clusters that there were not before.
        fitted: whether everything was fitted anew.
        reported: clusters that the training data does not know.
    """

    seen: int
    placed: int
    unknown: int
    clusters: int
    new: tuple[int, ...]
    fitted: bool
    reported: tuple[Fresh, ...]


def update(
    settings: Settings,
    store: Store,
    alias: str,
    *,
    say: Callable[[str], None] | None = None,
    at: float | None = None,
    http: Any = None,
) -> Updated:
    """Take in new rows, learn new clusters and report those that the training data lacks.

    What it costs follows what is new. Running it again, or twice at once, changes nothing more.

    Args:
        say: told what takes longer.
        at: the time that recent traffic ends at, seconds since the epoch; unset: now.
        http: what speaks to the endpoint; see `curate.clusters.endpoint`.

    Raises:
        ConfigError: there is no such alias, or the endpoint is not set.
        ServerError: the endpoint does not answer; nothing is lost, and nothing done twice.
        LedgerError, LedgerLocked: the ledger cannot be read or written.
    """
    settings.alias(alias)
    ours = settings.curate.clusters

    def load() -> Model:
        return Model.load(store, alias, ours, http)

    intake = Intake(store, alias, load, ours.sample_a_day)
    taken = intake.run()
    learned = learn(store, alias, load(), say or (lambda _: None))
    fresh = report(store, alias, ours, now() if at is None else at)
    return Updated(*taken, len(latest(store, alias)), learned.new, learned.fitted, tuple(fresh))
