"""Pulling a version: nothing of it appears before every hash agrees.

What comes from elsewhere is not believed: names of files that lead out of the folder, pickles,
a manifest that says something else than its path, an adapter that vLLM cannot serve, and, where
signatures are required, one that is not ours, are all refused. The adapter's id is this
registry's own. Kept is the number; where another version has it here, `as_new` takes the next.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pydantic import ValidationError

from flywheel.sharing.place import Place
from flywheel.sharing.push import newest
from ledger.errors import RegistryError
from ledger.files import write_atomic
from ledger.hashing import file_sha256
from ledger.registry import MANIFEST, Manifest, Registry, Version, check_adapter, content_id
from ledger.registry.adapters import PICKLED
from ledger.registry.signing import SIGNATURES
from ledger.settings import Settings
from ledger.store import Store

_MOST_FILES = 64
_PLAIN = re.compile(r"[A-Za-z0-9][\w.@+-]*\Z", re.ASCII)


class Pulled(NamedTuple):
    """What a pull did. `new` is False where the version was here."""

    version: str
    origin: str
    new: bool
    lora_id: int
    base_model: str
    base_fingerprint: str


def pull(
    settings: Settings,
    store: Store,
    place: Place,
    alias: str,
    number: int | None,
    *,
    who: str,
    as_new: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Pulled:
    """Bring a version into the registry. Repeating it is harmless.

    Args:
        number: the newest one there unless given.
        as_new: give it the next number here, whatever it had there.

    Raises:
        RegistryError: it is not there, is not what its manifest says, cannot be served or
            trusted, or another version has its number here.
        PlaceError: the place cannot be read.
    """
    settings.alias(alias)
    wanted = newest(place, alias) if number is None else number
    if wanted is None:
        raise RegistryError(f"{place.url} has no version of {alias}")
    folder = f"{alias}/v{wanted}"
    there, origin = _manifest(place, alias, wanted), f"{place.url}/{folder}"
    registry = Registry.of(settings)
    if here := _here(registry, alias, wanted, there, as_new=as_new):
        return _pulled(here, origin, new=False)
    with _staged(registry, alias) as staged:
        for file, sha in sorted(there.files.items()):
            say(f"fetching {file}")
            target = staged / file
            target.parent.mkdir(parents=True, exist_ok=True)
            place.download(f"{folder}/{file}", target)
            if (found := file_sha256(target)) != sha:
                raise RegistryError(
                    f"{origin}/{file} has SHA-256 {found}, its manifest says {sha}",
                    rule="A version is taken whole and unaltered, or not at all.",
                )
        check_adapter(staged)
        signature = place.read(f"{alias}/{SIGNATURES}/v{wanted}.sig")
        _check_signature(registry, staged, signature, origin)
        # Only now: a try that fails must not use up the number.
        with registry.building(alias, None if as_new else wanted) as (version, lora_id, building):
            building.rmdir()
            staged.rename(building)
            fields = there.model_dump(exclude={"files"})
            fields |= {"version": version, "lora_id": lora_id, "origin": origin}
            if signature is not None:  # first, so that a version that needs one is never without
                write_atomic(registry.signature(alias, version), signature)
            done = registry.publish(building, fields)
    store.note_version(alias, version, "pulled", content_id(done.manifest), who=who, why=origin)
    return _pulled(done, origin, new=True)


def _pulled(version: Version, origin: str, *, new: bool) -> Pulled:
    facts = version.manifest
    return Pulled(
        version.name, origin, new, facts.lora_id, facts.base_model, facts.base_fingerprint
    )


def _manifest(place: Place, alias: str, number: int) -> Manifest:
    """The manifest at a place, as far as it can be trusted."""
    where = f"{place.url}/{alias}/v{number}"
    data = place.read(f"{alias}/v{number}/{MANIFEST}")
    if data is None:
        raise RegistryError(
            f"{where} has no {MANIFEST}",
            rule="Without it a version is not complete.",
            remedy="Push it again, or look for another number.",
        )
    try:
        found = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise RegistryError(f"the manifest of {where} is damaged: {error}") from error
    if (found.alias, found.version) != (alias, number):
        raise RegistryError(f"the manifest of {where} says it is {found.alias}@v{found.version}")
    if not _PLAIN.match(found.run_id):
        raise RegistryError(f"the manifest of {where} names a run {found.run_id!r}")
    if len(found.files) > _MOST_FILES:
        raise RegistryError(
            f"{where} has {len(found.files)} files, at most {_MOST_FILES} are taken"
        )
    for file in found.files:
        path = PurePosixPath(file)
        if (
            not path.parts
            or not all(_PLAIN.match(part) for part in path.parts)
            or str(path) != file
            or file == MANIFEST
        ):
            raise RegistryError(
                f"the manifest of {where} names a file {file!r}",
                rule="Files lie in the version's own folder, under plain names.",
            )
        if path.suffix in PICKLED:
            raise RegistryError(
                f"{where} holds {file}",
                rule="A pickle can run any program when it is read, so only safetensors are taken.",
            )
    return found


def _here(
    registry: Registry, alias: str, number: int, there: Manifest, *, as_new: bool
) -> Version | None:
    """The version here that is the one there; None where it has to be fetched."""
    same = [
        version
        for version in registry.versions(alias)
        if content_id(version.manifest) == content_id(there) and version.pruned is None
    ]
    for version in same:
        if as_new or version.manifest.version == number:
            return version
    if not as_new and number in registry.numbers(alias):
        raise RegistryError(
            f"{alias}@v{number} is here, and is another version",
            rule="The name of a version is never used twice.",
            remedy=f"`flywheel pull {alias} --version {number} --as-new` gives it the next number.",
        )
    return None


@contextmanager
def _staged(registry: Registry, alias: str) -> Iterator[Path]:
    """A hidden folder of the registry; it goes unless it was renamed."""
    (registry.root / alias).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=registry.root / alias, prefix=".building-pulled-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_signature(
    registry: Registry, folder: Path, signature: bytes | None, origin: str
) -> None:
    """Check the signature that came with it, where we can; refuse it without one where we must."""
    signer = registry.signer
    assert signer is not None
    if signature is None:
        if signer.required:
            raise RegistryError(f"{origin} is not signed", rule="signing.required is on.")
        return
    if signer.can_check or signer.required:
        with tempfile.TemporaryDirectory() as beside:
            file = Path(beside) / "signature"
            file.write_bytes(signature)
            signer.verify(folder, file, origin)
