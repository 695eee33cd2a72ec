"""Letting the weights of versions go that were turned away long ago.

What stays is a tombstone: the manifest, the card, what training said and the training data, and
in the ledger the verdict and the events. So lineage and reasons stay readable, the number and the
adapter's id stay claimed, and forgetting somebody still reaches the training data. A version that
is or was live, or that something waits for, is never touched.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from ledger.clock import now
from ledger.deployments import Deployments
from ledger.errors import RegistryError, UsageError
from ledger.registry.adapters import WEIGHTS
from ledger.registry.manifest import Version, content_id
from ledger.registry.standing import TURNED_AWAY, Standing, standings
from ledger.registry.versions import Registry
from ledger.store import Store

#: A server takes an adapter off its list within a second, but requests under way keep it.
LEAST_SECONDS = 3600.0


class Pruned(NamedTuple):
    """A version that was let go, or would be.

    Attributes:
        state: `rejected` or `superseded`.
        why: why it was turned away.
        age: since the last thing happened to it, seconds.
        size: of what goes, bytes.
    """

    version: str
    state: str
    why: str
    age: float
    size: int


class Outcome(NamedTuple):
    """What was pruned, and what was left although it is old enough: name and reason."""

    pruned: list[Pruned]
    kept: dict[str, str]


def prune(
    registry: Registry,
    store: Store,
    alias: str,
    *,
    older_than: float,
    who: str,
    loaded: Collection[str] = (),
    dry_run: bool = False,
) -> Outcome:
    """Let the weights of an alias's rejected and superseded versions go.

    Args:
        older_than: least time since the last thing happened to a version (made, judged, dropped),
            seconds.
        loaded: pinned names that a server has in memory: these stay.

    Raises:
        UsageError: `older_than` is below an hour.
        RegistryError: a file cannot be removed; what was begun is finished by the same call.
    """
    if older_than < LEAST_SECONDS:
        raise UsageError(
            f"versions younger than an hour cannot be pruned, {older_than:g} s were asked for",
            rule="Requests under way may still need an adapter that was just taken back.",
        )
    deployments, versions = Deployments(store), registry.versions(alias)
    numbers = [version.manifest.version for version in versions]
    stand = standings(alias, numbers, deployments.events(alias), store.evaluations(alias))
    done, kept = [], {}
    for version in versions:
        number = version.manifest.version
        found, weights = stand[number], version.path / WEIGHTS
        age = now() - max(found.since, version.manifest.created)
        if found.state not in TURNED_AWAY or age < older_than or not weights.exists():
            continue
        if version.name in loaded:
            kept[version.name] = "a server has it loaded"
            continue
        size = weights.stat().st_size
        if not dry_run:
            # Asked again: somebody may have made it a candidate since.
            if number in deployments.state(alias).resident:
                kept[version.name] = "it is deployed"
                continue
            _remove(registry, store, version, found, who)
        done.append(Pruned(version.name, found.state, "; ".join(found.why), age, size))
    return Outcome(done, kept)


def _remove(registry: Registry, store: Store, version: Version, found: Standing, who: str) -> None:
    manifest, why = version.manifest, "; ".join(found.why)
    if version.pruned is None:
        note = {"ts": now(), "who": who, "why": why, "files": [WEIGHTS]}
        registry.write_pruned_note(manifest.alias, manifest.version, note)
        store.note_version(
            manifest.alias, manifest.version, "pruned", content_id(manifest), who=who, why=why
        )
    try:
        (version.path / WEIGHTS).unlink(missing_ok=True)
    except OSError as error:
        raise RegistryError(
            f"{version.path / WEIGHTS} cannot be removed: {error.strerror}",
            remedy="Mend the permissions and run the same command: it goes on.",
        ) from error
