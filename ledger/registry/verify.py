"""Recomputing everything that a version's manifest claims, and who signed it.

Five things, each named where it differs: every file against the manifest; the manifest against
what the ledger wrote down when the version was published or pulled, against the ids that are
claimed, and against the signed `train.json`; the training data against the dataset that it was
taken from; the base model against the configuration's; the signature, where there is one or one
is required.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import sqlalchemy as sa

from ledger import dataset
from ledger.database import tables
from ledger.deployments import Deployment
from ledger.errors import FlywheelError, RegistryError
from ledger.fingerprint import base_fingerprint
from ledger.model import model_folder
from ledger.registry.adapters import WEIGHTS
from ledger.registry.manifest import MANIFEST, TRAINING_DATA, Manifest, Version, content_id
from ledger.registry.versions import Registry
from ledger.settings import Settings
from ledger.store import Store, VersionNote

_TRAINED = "train.json"
# What the manifest repeats of what training said.
_REPEATED = ("run_id", "dataset_id", "base_model", "base_fingerprint", "template_hash")


class Examined(NamedTuple):
    """What was found out about a version.

    Attributes:
        problems: what differs, each naming the file; [] where all is as it was made.
        notes: what could not be compared, and what is worth knowing.
        signature: `valid`, `invalid`, `missing` (and required), `none`, or `unchecked` where
            there is no public key.
    """

    version: str
    problems: list[str]
    notes: list[str]
    signature: str


def verify_alias(
    settings: Settings, store: Store, alias: str, state: Deployment, only: int | None = None
) -> list[Examined]:
    """Examine the versions of an alias, those that the ledger knows and are gone too.

    Args:
        only: one version.

    Raises:
        RegistryError: `only` is a version that never was.
        LedgerError: the ledger cannot be read.
    """
    registry, notes = Registry.of(settings), store.version_notes(alias)
    numbers = registry.numbers(alias) | set(notes)
    if only is not None and only not in numbers:
        raise RegistryError(
            f"{alias}@v{only} is not in the registry {registry.root}",
            remedy=f"`flywheel versions {alias}` lists the versions.",
        )
    base = _base(settings)
    return [
        _examine(settings, store, registry, alias, number, state, notes.get(number, []), base)
        for number in sorted(numbers if only is None else {only})
    ]


def _examine(
    settings: Settings,
    store: Store,
    registry: Registry,
    alias: str,
    number: int,
    state: Deployment,
    noted: Iterable[VersionNote],
    base: str | None,
) -> Examined:
    name = f"{alias}@v{number}"
    try:
        version = registry.get(alias, number)
    except RegistryError as error:
        return Examined(name, [error.problem], [], "none")
    manifest = version.manifest
    problems, notes = registry.differences(version), []
    found = content_id(manifest)
    made = [note for note in noted if note.kind in ("published", "pulled")]
    if not made:
        notes.append("the ledger did not write down its hash when it was made")
    problems += [
        f"{MANIFEST} has the content {found}, the ledger wrote down {note.content_id} when it "
        f"was {note.kind}"
        for note in made
        if note.content_id != found
    ]
    problems += _claim(registry, manifest) + _trained(version)
    data_problems, data_notes = _data(settings, store, version)
    problems += data_problems
    notes += data_notes
    if base is None:
        notes.append("the base model is not here, so its fingerprint was not compared")
    elif base != manifest.base_fingerprint:
        said = f"trained on the base {manifest.base_fingerprint}, the configuration's is {base}"
        (problems if number in state.resident else notes).append(said)
    if version.pruned is not None:
        notes.append("its weights were let go")
    signature, why = _signature(registry, version)
    if why:
        problems.append(why)
    return Examined(name, problems, notes, signature)


def _claim(registry: Registry, manifest: Manifest) -> list[str]:
    owner = registry.claimed(manifest.lora_id)
    if owner == (manifest.alias, manifest.version):
        return []
    said = "nobody's" if owner is None else f"{owner[0]}@v{owner[1]}'s"
    return [f"{MANIFEST} says its adapter id is {manifest.lora_id}, which is {said}"]


def _trained(version: Version) -> list[str]:
    """Where the manifest says something else than training did."""
    manifest = version.manifest
    if _TRAINED not in manifest.files:
        return []
    try:
        found: dict[str, Any] = json.loads((version.path / _TRAINED).read_text(encoding="utf-8"))
        said = {key: found.get(key) for key in _REPEATED}
        weights = found.get("adapter_sha256")
    except (OSError, ValueError, AttributeError):
        return []  # its hash says so already
    claimed = manifest.model_dump()
    wrong = [
        f"{MANIFEST} says {key} {claimed[key]}, {_TRAINED} says {value}"
        for key, value in said.items()
        if value is not None and value != claimed[key]
    ]
    if weights is not None and manifest.files.get(WEIGHTS) != weights:
        wrong.append(f"{WEIGHTS} is not what was trained: {_TRAINED} says {weights}")
    return wrong


def _data(settings: Settings, store: Store, version: Version) -> tuple[list[str], list[str]]:
    """The training data against its dataset; problems and notes."""
    file, manifest = version.path / TRAINING_DATA, version.manifest
    if not file.is_file():
        return [], [f"{TRAINING_DATA} is not here"]
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        opened = store.opened_lines(lines, TRAINING_DATA)
        rows = [line["row_id"] for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{TRAINING_DATA} is damaged: {error}"], []
    except FlywheelError as error:
        return [f"{TRAINING_DATA}: {error.problem}"], []
    folder = settings.runs / manifest.run_id / "dataset"
    if not (folder / dataset.MANIFEST).exists():
        return _by_ledger(store, manifest, rows)
    try:
        frozen, pairs = dataset.load(folder, store)
    except FlywheelError as error:
        return [f"{folder}: {error.problem}"], []
    if frozen.dataset_id != manifest.dataset_id:
        return [
            f"{MANIFEST} says it was trained on {manifest.dataset_id}, {folder} holds "
            f"{frozen.dataset_id}"
        ], []
    messages = {pair.row_id: pair.messages for pair in pairs if pair.split == "train"}
    other = [
        row
        for row, line in zip(rows, opened, strict=True)
        if line is not None and messages.get(row) != line.get("messages")
    ]
    if other:
        return [f"{TRAINING_DATA} differs from its dataset in row(s) {', '.join(other[:5])}"], []
    return [], []


def _by_ledger(store: Store, manifest: Manifest, rows: list[str]) -> tuple[list[str], list[str]]:
    """Where the frozen dataset is not here: are the rows those that the ledger wrote down?"""
    table = tables.dataset_rows
    query = sa.select(table.c.row_id).where(table.c.dataset_id == manifest.dataset_id)
    with store.reading() as connection:
        known = set(connection.scalars(query))
    if not known:
        return [], [f"the dataset {manifest.dataset_id} is not here, so it was not compared"]
    if strange := sorted(set(rows) - known):
        return [f"{TRAINING_DATA} holds rows that its dataset has not: {strange[:5]}"], []
    return [], ["its dataset's folder is not here: rows were compared, not their text"]


def _signature(registry: Registry, version: Version) -> tuple[str, str]:
    """How it stands with the signature, and what is wrong with it; "" where nothing is."""
    signer = registry.signer
    assert signer is not None
    file = registry.signature(version.manifest.alias, version.manifest.version)
    if version.pruned is not None:
        return "none", ""
    if not file.is_file():
        return (
            ("missing", "it is not signed, and signing.required is on")
            if (signer.required)
            else ("none", "")
        )
    if not signer.can_check:
        return "unchecked", ""
    try:
        signer.verify(version.path, file, version.name)
    except RegistryError as error:
        return "invalid", error.problem
    return "valid", ""


def _base(settings: Settings) -> str | None:
    try:
        return base_fingerprint(model_folder(settings))
    except (FlywheelError, OSError):
        return None
