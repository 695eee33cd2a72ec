"""Versions on disk: `registry/<alias>/v<N>/`, immutable once they are there.

A version is built in a hidden folder, its manifest is written last, and one rename puts it in
place: a folder without a manifest is not a version. A number is never used twice, and neither
is the integer id by which vLLM knows an adapter: both are claimed in `registry/.ids/` and stay
claimed when a version is pruned.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from ledger.errors import RegistryError
from ledger.files import write_atomic, write_json
from ledger.hashing import file_sha256
from ledger.registry.adapters import check_adapter
from ledger.registry.manifest import MANIFEST, Manifest, Version, content_id
from ledger.registry.signing import SIGNATURES, Signer
from ledger.settings import Settings
from ledger.store import Store

#: Beside the versions of an alias: what is known of each whose weights were let go.
PRUNED = ".pruned"
_BESIDE = (SIGNATURES, PRUNED)


class Registry:
    """The versions under one folder.

    Args:
        root: `var/registry`, or a folder that several servers share.
        signer: where signatures are required, `servable` checks them with it.
    """

    def __init__(self, root: Path, signer: Signer | None = None) -> None:
        self.root = root
        self.signer = signer

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The registry of a configuration, with its signatures."""
        return cls(settings.registry, Signer(settings.signing))

    def path(self, alias: str, version: int) -> Path:
        """Where a version is, or would be."""
        return self.root / alias / f"v{version}"

    def get(self, alias: str, version: int) -> Version:
        """One version.

        Raises:
            RegistryError: it is not there, is half written, or its manifest is damaged.
        """
        folder = self.path(alias, version)
        file = folder / MANIFEST
        try:
            manifest = Manifest.model_validate_json(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RegistryError(
                f"{alias}@v{version} is not complete: {folder} has no {MANIFEST}"
                if folder.is_dir()
                else f"{alias}@v{version} is not in the registry {self.root}",
                remedy=f"`flywheel versions {alias}` lists the versions that are complete.",
            ) from None
        except (OSError, ValueError, ValidationError) as error:
            raise RegistryError(f"{file} is damaged: {error}") from error
        if (manifest.alias, manifest.version) != (alias, version):
            raise RegistryError(
                f"{file} says it is {manifest.alias}@v{manifest.version}",
                rule="A version folder is never renamed or copied under another name.",
            )
        note = self.pruned_note(alias, version)
        return Version(path=folder, manifest=manifest, pruned=note and note["ts"])

    def signature(self, alias: str, version: int) -> Path:
        """Where the signature of a version is, or would be."""
        return self.root / alias / SIGNATURES / f"v{version}.sig"

    def sign(self, version: Version, store: Store, *, who: str) -> bool:
        """Sign a version, and write that down; False where a signature is there already.

        Raises:
            ConfigError, RegistryError: see `Signer.sign`; or it is not whole.
        """
        facts = version.manifest
        file = self.signature(facts.alias, facts.version)
        if file.is_file():
            return False
        assert self.signer is not None, "use Registry.of"
        self.verify(version)
        self.signer.sign(version.path, file)
        store.note_version(facts.alias, facts.version, "signed", content_id(facts), who=who)
        return True

    def pruned_note(self, alias: str, version: int) -> dict[str, Any] | None:
        """What was written down when a version's weights were let go: `ts`, `who`, `why`, `files`.

        Raises:
            RegistryError: the note is damaged.
        """
        file = self.root / alias / PRUNED / f"v{version}.json"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            return {"ts": float(found["ts"]), "files": list(found["files"]), **found}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RegistryError(f"{file} is damaged: {error}") from error

    def write_pruned_note(self, alias: str, version: int, note: dict[str, Any]) -> None:
        """Write down that a version's weights are let go; before the first of them goes."""
        write_json(self.root / alias / PRUNED / f"v{version}.json", note)

    def versions(self, alias: str) -> list[Version]:
        """The complete versions of an alias, oldest first."""
        numbers = sorted(number for number in self._numbers(alias) if self._complete(alias, number))
        return [self.get(alias, number) for number in numbers]

    def incomplete(self) -> list[Path]:
        """Folders that look like a version or a build of one, but are not complete."""
        if not self.root.is_dir():
            return []
        found = []
        for folder in sorted(p for p in self.root.glob("*/*") if p.parent.name != ".ids"):
            is_version = folder.name.startswith("v") and folder.name[1:].isdigit()
            if folder.name in _BESIDE:
                continue
            if folder.is_dir() and (not is_version or not (folder / MANIFEST).exists()):
                found.append(folder)
        return found

    def differences(self, version: Version) -> list[str]:
        """What a version's folder has otherwise than its manifest says; [] where it is whole.

        Reads every file. Weights that were let go are not missed.
        """
        listed, note = version.manifest.files, self._note(version)
        gone = set(note["files"]) if note else set()
        present = {
            str(p.relative_to(version.path))
            for p in version.path.rglob("*")
            if (p.is_file() or p.is_symlink()) and p.name != MANIFEST
        }
        found = [f"{file} is missing" for file in sorted(set(listed) - present - gone)]
        found += [f"{file} is not in its manifest" for file in sorted(present - set(listed))]
        for file in sorted(present & set(listed)):
            try:
                sha = file_sha256(version.path / file)
            except OSError as error:
                found.append(f"{file} cannot be read: {error.strerror}")
                continue
            if sha != listed[file]:
                found.append(f"{file} has SHA-256 {sha}, its manifest says {listed[file]}")
        return found

    def verify(self, version: Version) -> None:
        """Recompute every hash of a version.

        Raises:
            RegistryError: a file is missing, added or altered.
        """
        if differences := self.differences(version):
            raise RegistryError(
                f"{version.name}: {'; '.join(differences)}",
                rule="A version never changes.",
                remedy="Restore the file from a backup, or retrain.",
            )

    def servable(self, alias: str, version: int, *, fingerprint: str, max_rank: int) -> Version:
        """A version whose files are whole and that fits a server's base model and rank.

        Args:
            fingerprint: of the server's base model, see `ledger.fingerprint`.

        Raises:
            RegistryError: naming what is wrong and what to do.
        """
        found = self.get(alias, version)
        if found.pruned is not None:
            raise RegistryError(
                f"{found.name} was pruned: its weights are gone",
                remedy="Pull it again from where it was pushed to (`flywheel pull --as-new`).",
            )
        if found.manifest.base_fingerprint != fingerprint:
            raise RegistryError(
                f"{found.name} was trained on another base model ({found.manifest.base_model})",
                rule="An adapter fits only the weights that it was trained on.",
                remedy="Serve that base model, or retrain on this one.",
            )
        check_adapter(found.path, max_rank=max_rank)
        self.verify(found)
        if self.signer is not None and self.signer.required:
            self.signer.verify(found.path, self.signature(alias, version), found.name)
        return found

    @contextmanager
    def building(self, alias: str, number: int | None = None) -> Iterator[tuple[int, int, Path]]:
        """Claim a version number and an adapter id, and build in a hidden folder.

        Args:
            number: the version number wanted; the next one unless given.

        Yields:
            (version, lora_id, folder). Fill the folder, then call `publish`; on an exception
            the folder is removed and the number stays unused.

        Raises:
            RegistryError: the number wanted was used before.
        """
        version, lora_id = self._claim(alias, number)
        folder = self.root / alias / f".building-v{version}"
        folder.mkdir(parents=True)
        try:
            yield version, lora_id, folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, folder: Path, fields: dict[str, Any]) -> Version:
        """Check what was built, write the manifest last, and rename it into place.

        Args:
            folder: from `building`.
            fields: those of `Manifest` but `files`.

        Raises:
            RegistryError: the adapter cannot be served (see `check_adapter`).
        """
        check_adapter(folder)
        files = {
            str(p.relative_to(folder)): file_sha256(p)
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }
        manifest = Manifest(**fields, files=files)
        write_json(folder / MANIFEST, manifest.model_dump())
        final = self.path(manifest.alias, manifest.version)
        if final.exists():
            raise RegistryError(
                f"{final} is there already", rule="The name of a version is never used twice."
            )
        folder.rename(final)
        return self.get(manifest.alias, manifest.version)

    def numbers(self, alias: str) -> set[int]:
        """Numbers of the folders of an alias that are called like a version, whole or not."""
        return set(self._numbers(alias))

    def claimed(self, lora_id: int) -> tuple[str, int] | None:
        """Whose an adapter id is: alias and version number; None where nobody claimed it."""
        file = self.root / ".ids" / str(lora_id)
        return self._claimed(file) if file.is_file() else None

    def aliases(self) -> list[str]:
        """Aliases that have, or had, a version here."""
        if not self.root.is_dir():
            return []
        return sorted(p.name for p in self.root.iterdir() if p.is_dir() and p.name[0] != ".")

    def remove_lines(self, version: Version, file: str, field: str, values: set[str]) -> int:
        """Take lines out of a JSONL file of a version, because somebody was forgotten.

        The only change that a version ever sees. Weights stay as they are. Safe to repeat: what
        was cut off between the file and the manifest is finished by the same call.

        Returns:
            How many lines went.

        Raises:
            RegistryError: the file is damaged or cannot be written.
        """
        path = version.path / file
        if not path.exists():
            return 0
        try:
            lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line]
            kept = [line for line in lines if json.loads(line).get(field) not in values]
            if len(kept) < len(lines):
                write_atomic(path, "".join(line + "\n" for line in kept).encode())
            files = {**version.manifest.files, file: file_sha256(path)}
            if files != version.manifest.files:
                changed = version.manifest.model_copy(update={"files": files})
                write_json(version.path / MANIFEST, changed.model_dump())
        except (OSError, ValueError) as error:
            raise RegistryError(f"{path} cannot be changed: {error}") from error
        return len(lines) - len(kept)

    def _numbers(self, alias: str) -> list[int]:
        folders = (self.root / alias).glob("v*") if (self.root / alias).is_dir() else ()
        return [int(p.name[1:]) for p in folders if p.is_dir() and p.name[1:].isdigit()]

    def _complete(self, alias: str, number: int) -> bool:
        return (self.path(alias, number) / MANIFEST).exists()

    def _note(self, version: Version) -> dict[str, Any] | None:
        return self.pruned_note(version.manifest.alias, version.manifest.version)

    def _claim(self, alias: str, wanted: int | None = None) -> tuple[int, int]:
        """Take the next adapter id, and with it a version number of the alias."""
        ids = self.root / ".ids"
        ids.mkdir(parents=True, exist_ok=True)
        while True:
            taken = {int(p.name): p for p in ids.iterdir() if p.name.isdigit()}
            used = [self._claimed(p) for p in taken.values()]
            numbers = [number for owner, number in used if owner == alias] + self._numbers(alias)
            lora_id, version = max(taken, default=0) + 1, wanted or max(numbers, default=0) + 1
            if version in numbers:
                raise RegistryError(
                    f"{alias}@v{version} was claimed before",
                    rule="The name of a version is never used twice.",
                    remedy="Take the next number (`flywheel pull --as-new`).",
                )
            # Linked when it is filled: another process must see whose number it is at once.
            claim = ids / f".{os.getpid()}-{secrets.token_hex(4)}"
            claim.write_text(json.dumps([alias, version]), encoding="utf-8")
            try:
                os.link(claim, ids / str(lora_id))
            except FileExistsError:
                continue  # another process took it: look again
            finally:
                claim.unlink()
            return version, lora_id

    @staticmethod
    def _claimed(file: Path) -> tuple[str, int]:
        try:
            alias, version = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return "", 0  # damaged, but the id stays taken
        return str(alias), int(version)
