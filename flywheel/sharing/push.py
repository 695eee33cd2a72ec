"""Pushing a version: its files as they are, its manifest last.

What users wrote stays here unless it is asked for: `training_data.jsonl` is sealed with this
ledger's keys, so elsewhere it is noise, but it is theirs. The manifest that goes lists what goes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from flywheel.sharing.card import rendered
from flywheel.sharing.place import Place
from ledger.errors import RegistryError
from ledger.registry import MANIFEST, TRAINING_DATA, Manifest, Registry, content_id
from ledger.registry.signing import SIGNATURES
from ledger.settings import Settings
from ledger.store import Store


class Pushed(NamedTuple):
    """What a push did.

    Attributes:
        url: of the version.
        new: whether anything was written; False where all was there.
        files: what the version has there.
        without_data: whether the training data stayed here.
        signed: whether its signature went too.
    """

    version: str
    url: str
    new: bool
    files: list[str]
    without_data: bool
    signed: bool


def push(
    settings: Settings,
    store: Store,
    place: Place,
    alias: str,
    number: int,
    *,
    who: str,
    with_data: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Pushed:
    """Push a version. Repeating it is harmless.

    Args:
        with_data: push the training data too.

    Raises:
        RegistryError: it is not whole, was pruned, or another version has its name there.
        PlaceError: the place cannot be written; nothing that was there is changed.
    """
    registry = Registry.of(settings)
    version = registry.get(alias, number)
    if version.pruned is not None:
        raise RegistryError(f"{version.name} was pruned: its weights are gone")
    registry.verify(version)
    folder = f"{alias}/v{number}"
    signature = registry.signature(alias, number)
    kept = {
        file: sha
        for file, sha in version.manifest.files.items()
        if with_data or file != TRAINING_DATA
    }
    outgoing = version.manifest.model_copy(update={"files": kept})
    there = _there(place, f"{folder}/{MANIFEST}")
    if there is not None and content_id(there) != content_id(version.manifest):
        raise RegistryError(
            f"{place.url}/{folder} holds another version: {content_id(there)}, ours is "
            f"{content_id(version.manifest)}",
            rule="The name of a version is never used twice.",
            remedy="Push to another place, or pull that one with `flywheel pull --as-new`.",
        )
    if there is not None:  # what is there stays: data that was pushed once is not taken back
        data = there.files.get(TRAINING_DATA)
        if not with_data and data is not None:
            outgoing = outgoing.model_copy(update={"files": {**kept, TRAINING_DATA: data}})
    signed_there = f"{alias}/{SIGNATURES}/{signature.name}" in place.files(f"{alias}/{SIGNATURES}")
    complete = there is not None and there.files == outgoing.files
    new = not complete or (signature.is_file() and not signed_there)
    if new:
        say(f"pushing {version.name} to {place.url}")
        files: dict[str, Path | bytes] = {
            f"{folder}/{file}": version.path / file
            for file, sha in kept.items()
            if there is None or there.files.get(file) != sha
        }
        if signature.is_file():
            files[f"{alias}/{SIGNATURES}/{signature.name}"] = signature
        files[place.card_path(alias)] = rendered(settings, store, version, place.url).encode()
        files[f"{folder}/{MANIFEST}"] = (outgoing.model_dump_json(indent=2) + "\n").encode()
        place.upload(files, f"{version.name}: {version.manifest.pairs} pairs")
        store.note_version(
            alias, number, "pushed", content_id(version.manifest), who=who, why=place.url
        )
    return Pushed(
        version.name,
        f"{place.url}/{folder}",
        new,
        sorted(outgoing.files),
        TRAINING_DATA in version.manifest.files and TRAINING_DATA not in outgoing.files,
        signature.is_file() or signed_there,
    )


def _there(place: Place, path: str) -> Manifest | None:
    """The manifest that a place has; None where a push was cut off, or never was."""
    data = place.read(path)
    if data is None:
        return None
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise RegistryError(
            f"{place.url}/{path} is damaged: {error.error_count()} field(s) are wrong",
            remedy="Look what it is; remove it if a push was cut off there.",
        ) from error


def newest(place: Place, alias: str) -> int | None:
    """The highest number of a complete version at a place."""
    numbers = [
        int(path.split("/")[1][1:])
        for path in place.files(alias)
        if path.endswith(f"/{MANIFEST}")
        and path.count("/") == 2
        and path.split("/")[1][:1] == "v"
        and path.split("/")[1][1:].isdigit()
    ]
    return max(numbers, default=None)
