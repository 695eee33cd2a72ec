"""Copies of what cannot be made again, taken while everything runs: `flywheel backup FOLDER`.

    FOLDER/ledger.db        the ledger at one moment (SQLite), or ledger.dump (PostgreSQL, pg_dump)
    FOLDER/registry/        the versions, hashes checked; with no versions asked for only listed
    FOLDER/backup.json      what there is, with hashes; written last, so that it means complete

The copy of the ledger is made by the database itself (SQLite's online backup, `pg_dump`), so it
is whole although servers write meanwhile; copying the file would not be. The ledger comes first
and the registry after it: whatever the copied ledger speaks of is among the versions.

Keys are never in FOLDER. The text in the ledger is sealed, and whoever has the copy and the keys
reads everything: `keys` names another place for them. Not copied: runs (a retrain that is under way
begins anew), reports, the fetched model, the configuration.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy.engine import URL, make_url

from ledger.clock import now
from ledger.errors import ConfigError, LedgerError, UsageError
from ledger.files import read_json, write_atomic, write_json
from ledger.hashing import file_sha256
from ledger.registry import Registry
from ledger.registry.manifest import content_id
from ledger.settings import MASTER_VARIABLE, Settings
from ledger.store import Store

NOTE = "backup.json"
_SQLITE, _DUMP, _REGISTRY = "ledger.db", "ledger.dump", "registry"
#: Longest `pg_dump`, seconds.
_DUMP_SECONDS = 6 * 3600


class Backup(NamedTuple):
    """What was copied.

    Attributes:
        ledger: the copy.
        bytes: of it.
        master: id of the master key that its text is sealed under; None: nothing is sealed.
        versions: by pinned name what they are (`fw1:version:…`).
        copied: whether their files were copied too.
        keys: key files that were copied, elsewhere.
        missing: keys that no file has, a sentence each: they have to be kept by hand.
    """

    folder: Path
    ledger: Path
    bytes: int
    master: str | None
    versions: dict[str, str]
    copied: bool
    keys: list[Path]
    missing: list[str]

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        return {
            **self._asdict(),
            "folder": str(self.folder),
            "ledger": str(self.ledger),
            "keys": [str(one) for one in self.keys],
        }


def backup(settings: Settings, folder: Path, *, keys: Path | None, versions: bool) -> Backup:
    """Copy the ledger and the versions into a new folder.

    Args:
        keys: another folder for the key files; None: they are not copied.
        versions: whether their files are copied, or only listed.

    Raises:
        UsageError: the folder has something in it, or would hold the keys too.
        ConfigError: `pg_dump` is not there.
        LedgerError: the ledger is not there, cannot be copied, or its copy is damaged.
        RegistryError: a version is damaged.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(
            f"{folder} is not empty",
            rule="A backup is never written over another one.",
            remedy="Name a new folder, such as one called by the date.",
        )
    if keys is not None:
        _apart(folder, keys)
    url = make_url(settings.ledger.url)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise LedgerError(f"{settings.ledger.url}: there is no ledger to copy")
    with closing(Store.open(settings)) as store:
        master = store.master()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    copy = _ledger(url, folder)
    found = _versions(settings, folder, copied=versions)
    copied, missing = ([], []) if keys is None else _keys(settings, keys)
    done = Backup(folder, copy, copy.stat().st_size, master, found, versions, copied, missing)
    write_json(
        folder / NOTE,
        {
            "format": 1,
            "created": now(),
            "ledger": {"file": copy.name, "sha256": file_sha256(copy), "bytes": done.bytes},
            "master_key": master,
            "versions": found,
            "versions_copied": versions,
        },
    )
    return done


def check(folder: Path) -> str:
    """Look whether a backup is whole; says what is in it.

    Raises:
        LedgerError: it is not complete, or its ledger is damaged.
        RegistryError: a version is damaged.
    """
    try:
        note = read_json(folder / NOTE)
    except FileNotFoundError:
        raise LedgerError(
            f"{folder} has no {NOTE}",
            rule="It is written when a backup is complete.",
            remedy="Take another backup; this one was cut off, or is none.",
        ) from None
    except ValueError as error:
        raise LedgerError(str(error)) from error
    copy = folder / note["ledger"]["file"]
    if not copy.is_file() or file_sha256(copy) != note["ledger"]["sha256"]:
        raise LedgerError(
            f"{copy} is not what was written then", remedy="Use another backup of that time."
        )
    if copy.name == _SQLITE:
        _sound(copy)
    if note["versions_copied"]:
        _verified(folder / _REGISTRY)
    count = len(note["versions"])
    return f"{folder} is whole: the ledger of {note['ledger']['bytes']:,} bytes, {count} version(s)"


# -- the ledger ------------------------------------------------------------------------------


def _ledger(url: URL, folder: Path) -> Path:
    if url.get_backend_name() == "sqlite":
        return _sqlite(Path(str(url.database)), folder / _SQLITE)
    return _postgresql(url, folder / _DUMP)


def _sqlite(file: Path, copy: Path) -> Path:
    """SQLite's online backup: one moment of the ledger, whatever is written meanwhile."""
    part = copy.with_name(f".{copy.name}")
    try:
        with (
            closing(sqlite3.connect(f"file:{file}?mode=rw", uri=True)) as source,
            closing(sqlite3.connect(part)) as target,
        ):
            part.chmod(0o600)
            source.backup(target)
            # One file, not three: the write-ahead log comes back when the ledger is opened.
            target.execute("PRAGMA journal_mode=DELETE")
        _sound(part)
    except sqlite3.Error as error:
        part.unlink(missing_ok=True)
        raise LedgerError(f"{file} cannot be copied to {copy}: {error}") from error
    part.replace(copy)
    return copy


def _sound(file: Path) -> None:
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            [(said,)] = connection.execute("PRAGMA integrity_check(1)").fetchall()
    except sqlite3.Error as error:
        said = str(error)
    if said != "ok":
        raise LedgerError(
            f"{file} is damaged: {said}", remedy="Restore the ledger from an older backup."
        )


def _postgresql(url: URL, copy: Path) -> Path:
    program = shutil.which("pg_dump")
    if program is None:
        raise ConfigError(
            "pg_dump is not installed here",
            rule="A PostgreSQL ledger is copied by PostgreSQL's own program.",
            remedy="Install postgresql-client in the version of the server or newer, or run it on "
            "another machine: docs/operations.md has the command.",
        )
    place = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    # The password in the environment: a command line can be read by everybody on the machine.
    environment = dict(os.environ)
    if url.password is not None:
        environment["PGPASSWORD"] = str(url.password)
    part = copy.with_name(f".{copy.name}")
    command = [program, "--format=custom", "--no-password", "--file", str(part), "--dbname", place]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_DUMP_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        part.unlink(missing_ok=True)
        raise LedgerError(f"pg_dump failed: {error}") from error
    if done.returncode:
        part.unlink(missing_ok=True)
        raise LedgerError(f"pg_dump failed: {done.stderr.strip()}")
    part.chmod(0o600)
    part.replace(copy)
    return copy


# -- versions and keys -----------------------------------------------------------------------


def _versions(settings: Settings, folder: Path, *, copied: bool) -> dict[str, str]:
    registry = Registry(settings.registry)
    if copied and registry.root.is_dir():
        # A build under way is no version, and a claim that is being written is none yet.
        skip = shutil.ignore_patterns(".building-*", ".[0-9]*-*")
        shutil.copytree(registry.root, folder / _REGISTRY, ignore=skip)
        return dict(_verified(folder / _REGISTRY))
    return dict(_listed(registry))


def _verified(root: Path) -> Iterator[tuple[str, str]]:
    registry = Registry(root)
    for alias in registry.aliases():
        for version in registry.versions(alias):
            registry.verify(version)
    yield from _listed(registry)


def _listed(registry: Registry) -> Iterator[tuple[str, str]]:
    for alias in registry.aliases():
        for version in registry.versions(alias):
            yield version.name, content_id(version.manifest)


def _apart(folder: Path, keys: Path) -> None:
    here, there = folder.resolve(), keys.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise UsageError(
            f"the keys would lie in {keys}, with the ledger in {folder}",
            rule="Who finds both reads everything that users wrote.",
            remedy="Name a folder elsewhere, best on another machine.",
        )


def _keys(settings: Settings, folder: Path) -> tuple[list[Path], list[str]]:
    """Copy the key files that there are; the others are somebody's business, and said."""
    from curate.review.keys import keys_file

    privacy = settings.privacy
    files, missing = [privacy.key_file, keys_file(settings)], []
    if os.environ.get(MASTER_VARIABLE):
        missing.append(f"the master key is in {MASTER_VARIABLE}: keep it where it comes from")
    elif privacy.master_key_command:
        missing.append("the master key comes from privacy.master_key_command: it keeps it")
    else:
        files.append(privacy.master_file)
    if settings.serve.api_keys_file is not None:
        files.append(settings.serve.api_keys_file)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    copied = []
    for file in files:
        if file.is_file():
            write_atomic(folder / file.name, file.read_bytes(), mode=0o600)
            copied.append(folder / file.name)
    return copied, missing


def text(done: Backup) -> str:
    """For a person."""
    how = "copied, hashes right" if done.copied else "listed, not copied"
    lines = [
        f"ledger    {done.ledger} ({done.bytes:,} bytes)",
        f"versions  {len(done.versions)} {how}",
    ]
    if done.master is not None:
        lines.append(f"sealed    under master key {done.master}: without it no text can be read")
    lines += [f"key       {file}" for file in done.keys]
    lines += [f"key       {one}" for one in done.missing]
    if not done.keys and not done.missing:
        lines.append("keys      not copied (--keys FOLDER, elsewhere)")
    return "\n".join(lines)
