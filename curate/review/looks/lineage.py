"""Versions: what each was trained on, how it was judged, and when it had the traffic."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import sqlalchemy as sa

from ledger.database import tables
from ledger.deployments import Deployment, DeploymentEvent, parse_version
from ledger.errors import FlywheelError
from ledger.records import Evaluation
from ledger.registry import Manifest, Registry, Version
from ledger.settings import Settings
from ledger.store import Store

_TRAINING = "train.json"
_SETTINGS = ("rank", "alpha", "learning_rate", "epochs", "batch_size", "accumulation")


class Step(NamedTuple):
    """A version, and what came of it. `role` is live, previous, candidate, canary or ""."""

    manifest: Manifest
    role: str
    verdict: Evaluation | None
    events: list[DeploymentEvent]
    current: bool


class Training(NamedTuple):
    """How a version was trained. `loss` is of each step, nats a token."""

    loss: list[float]
    facts: dict[str, str]


class Change(NamedTuple):
    """Pairs that a version's dataset has and its parent's has not, and the other way round."""

    parent: str
    added: int
    removed: int


def steps(
    settings: Settings,
    store: Store,
    alias: str,
    state: Deployment,
    events: list[DeploymentEvent],
) -> list[Step]:
    """The versions of an alias, newest first."""
    verdicts = store.evaluations(alias)
    roles = {state.previous: "previous", state.candidate: state.stage, state.live: "live"}
    return [
        Step(
            one.manifest,
            roles.get(one.manifest.version, ""),
            verdicts.get(one.name),
            [event for event in events if event.version == one.manifest.version],
            one.manifest.version == state.live,
        )
        for one in reversed(Registry(settings.registry).versions(alias))
    ]


def training(version: Version) -> Training | None:
    """What the version's folder says of its training; None where it says nothing."""
    try:
        found: Any = json.loads((version.path / _TRAINING).read_text(encoding="utf-8"))
        loss = [float(value) for value in found["loss"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    facts = {}
    for key, unit in (("pairs", ""), ("steps", ""), ("tokens", ""), ("seconds", " s")):
        if isinstance(value := found.get(key), int | float):
            facts[key] = f"{value:,.0f}{unit}"
    # What the settings left open was decided by the recipe.
    parts = [part for name in ("settings", "chosen") if isinstance(part := found.get(name), dict)]
    used = {key: value for part in parts for key, value in part.items()}
    facts |= {key.replace("_", " "): f"{used[key]:g}" for key in _SETTINGS if _number(used, key)}
    return Training(loss, facts)


def change(settings: Settings, store: Store, manifest: Manifest) -> Change | None:
    """What its dataset has beyond its parent's; None where it stands on the base model."""
    if manifest.parent is None or manifest.origin is not None:  # a pulled one's parent is there
        return None
    try:
        number = parse_version(manifest.parent, manifest.alias)
        parent = Registry(settings.registry).get(manifest.alias, number).manifest
    except FlywheelError:
        return None
    mine, theirs = manifest.dataset_id, parent.dataset_id
    with store.reading() as connection:
        added, removed = _beyond(connection, mine, theirs), _beyond(connection, theirs, mine)
    return Change(manifest.parent, added, removed)


def _beyond(connection: sa.Connection, one: str, other: str) -> int:
    """Rows of a dataset that another one has not."""
    rows = tables.dataset_rows
    known = rows.alias()
    query = sa.select(sa.func.count()).where(
        rows.c.dataset_id == one,
        ~sa.exists().where(known.c.dataset_id == other, known.c.row_id == rows.c.row_id),
    )
    return int(connection.scalar(query) or 0)


def _number(found: dict[str, Any], key: str) -> bool:
    return isinstance(found.get(key), int | float)
