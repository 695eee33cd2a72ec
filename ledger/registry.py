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
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ledger.errors import RegistryError
from ledger.files import write_atomic, write_json
from ledger.hashing import file_sha256

MANIFEST = "manifest.json"
WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
#: What a version was trained on: lines of `ledger.store.lines`.
TRAINING_DATA = "training_data.jsonl"
# What vLLM's lora/peft_helper.py refuses (0.32), or would apply as if it were not there.
_UNSERVABLE = (
    "use_dora",
    "modules_to_save",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "use_bdlora",
    "use_qalora",
)
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal")
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class Manifest(BaseModel):
    """What a version is. `files` maps each file of the folder to its SHA-256."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alias: str
    version: int = Field(ge=1)
    lora_id: int = Field(ge=1, description="the id by which vLLM knows it; never reused")
    base_model: str
    base_fingerprint: str
    template_hash: str
    rank: int
    dataset_id: str
    pairs: int
    parent: str | None = Field(None, description="the version that was live when it was trained")
    run_id: str
    created: float = Field(description="seconds since the epoch, UTC")
    files: dict[str, str]


class Version(BaseModel):
    """A complete version in the registry."""

    model_config = ConfigDict(frozen=True)

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The pinned name, `support@v4`."""
        return f"{self.manifest.alias}@v{self.manifest.version}"


class Registry:
    """The versions under one folder.

    Args:
        root: `var/registry`, or a folder that several servers share.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

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
        return Version(path=folder, manifest=manifest)

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
            if folder.is_dir() and (not is_version or not (folder / MANIFEST).exists()):
                found.append(folder)
        return found

    def verify(self, version: Version) -> None:
        """Recompute every hash of a version.

        Raises:
            RegistryError: a file is missing, added or altered.
        """
        name, listed = version.name, version.manifest.files
        present = {
            str(p.relative_to(version.path))
            for p in version.path.rglob("*")
            if p.is_file() and p.name != MANIFEST
        }
        if missing := sorted(set(listed) - present):
            raise RegistryError(f"{name} lacks {', '.join(missing)}")
        if added := sorted(present - set(listed)):
            raise RegistryError(f"{name} has files that its manifest does not list: {added}")
        for file, expected in listed.items():
            found = file_sha256(version.path / file)
            if found != expected:
                raise RegistryError(
                    f"{name}: {file} has SHA-256 {found}, its manifest says {expected}",
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
        if found.manifest.base_fingerprint != fingerprint:
            raise RegistryError(
                f"{found.name} was trained on another base model ({found.manifest.base_model})",
                rule="An adapter fits only the weights that it was trained on.",
                remedy="Serve that base model, or retrain on this one.",
            )
        check_adapter(found.path, max_rank=max_rank)
        self.verify(found)
        return found

    @contextmanager
    def building(self, alias: str) -> Iterator[tuple[int, int, Path]]:
        """Claim a version number and an adapter id, and build in a hidden folder.

        Yields:
            (version, lora_id, folder). Fill the folder, then call `publish`; on an exception
            the folder is removed and the number stays unused.
        """
        version, lora_id = self._claim(alias)
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

    def _claim(self, alias: str) -> tuple[int, int]:
        """Take the next adapter id, and with it the next version number of the alias."""
        ids = self.root / ".ids"
        ids.mkdir(parents=True, exist_ok=True)
        while True:
            taken = {int(p.name): p for p in ids.iterdir() if p.name.isdigit()}
            used = [self._claimed(p) for p in taken.values()]
            numbers = [number for owner, number in used if owner == alias] + self._numbers(alias)
            lora_id, version = max(taken, default=0) + 1, max(numbers, default=0) + 1
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


def check_adapter(folder: Path, *, max_rank: int | None = None) -> dict[str, Any]:
    """Whether vLLM can serve the adapter in a folder.

    Args:
        max_rank: the server's largest rank; None leaves the rank unchecked.

    Returns:
        The adapter's configuration.

    Raises:
        RegistryError: naming the file or field, and what would work.
    """
    pickled = [p.name for p in sorted(folder.rglob("*")) if p.suffix in _PICKLED]
    if pickled:
        raise RegistryError(
            f"{folder} holds pickled weights: {', '.join(pickled)}",
            rule="A pickle can run any program when it is read, so only safetensors are served.",
            remedy="Save the adapter again with safe_serialization=True.",
        )
    if not (folder / WEIGHTS).is_file():
        raise RegistryError(f"{folder} has no {WEIGHTS}")
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RegistryError(f"{folder} has no {ADAPTER_CONFIG}") from None
    except ValueError as error:
        raise RegistryError(f"{folder / ADAPTER_CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise RegistryError(f"{folder / ADAPTER_CONFIG} does not hold a JSON object")
    start = config.get("init_lora_weights")
    unservable = {
        **{name: config.get(name) for name in _UNSERVABLE},
        "bias": config.get("bias") not in (None, "none"),
        # The others (PiSSA, OLoRA, CorDA, LoftQ, …) change the base model's weights.
        f"init_lora_weights={start}": isinstance(start, str) and start not in _PLAIN_STARTS,
    }
    if refused := [name for name, value in unservable.items() if value]:
        raise RegistryError(
            f"the adapter in {folder} uses {', '.join(refused)}, which vLLM cannot serve",
            remedy="Train plain LoRA or rsLoRA.",
        )
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(type(rank) is int and rank > 0 for rank in ranks):
        raise RegistryError(
            f"{folder / ADAPTER_CONFIG} gives the rank(s) {ranks}",
            rule="`r` and the values of `rank_pattern` are whole numbers above 0.",
        )
    rank = max(ranks)
    if max_rank is not None and rank > max_rank:
        raise RegistryError(
            f"the adapter in {folder} has rank {rank}, the server accepts up to {max_rank}",
            remedy="Raise serve.max_lora_rank and restart the server, or train with a lower rank.",
        )
    return config
