"""Who may log in to the review page: a file of names, roles and hashes of keys.

A line is `name role hash`. Keys are 256 random bits, so that a plain SHA-256 of one tells
nothing, and nobody can guess one. Covers no passwords and no single sign-on.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path
from typing import NamedTuple, cast

from curate.judging.standing import ROLES, Role
from ledger.errors import ConfigError, RecordError
from ledger.settings import Settings

__all__ = ["ROLES", "People", "Person", "Role", "digest_of", "keys_file"]

_FILE = "review.keys"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")


class Person(NamedTuple):
    """Somebody who may log in. `digest` is the SHA-256 of their key, 64 hex digits."""

    name: str
    role: Role
    digest: str

    def may(self, role: Role) -> bool:
        """Whether they may do what a role may do."""
        return ROLES.index(self.role) >= ROLES.index(role)


def keys_file(settings: Settings) -> Path:
    """Where the people of a configuration stand."""
    return settings.curate.review.keys_file or settings.privacy.key_file.with_name(_FILE)


class People:
    """The people of a file, read again whenever it has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[tuple[int, int, int], dict[str, Person]] | None = None

    def all(self) -> list[Person]:
        """Everybody, in the order of the file; nobody where there is no file.

        Raises:
            ConfigError: the file cannot be read, is readable by others, or is malformed.
        """
        return list(self._people().values())

    def named(self, name: str) -> Person | None:
        """Somebody by name."""
        return self._people().get(name)

    def with_key(self, key: str) -> Person | None:
        """Whose key it is. Each one is compared, in the same time whatever the key is."""
        digest, found = digest_of(key), None
        for person in self._people().values():
            if hmac.compare_digest(person.digest, digest):
                found = person
        return found

    def add(self, name: str, role: Role) -> str:
        """Add somebody, and return their key. It is kept nowhere.

        Raises:
            RecordError: the name has signs that names have not, or is taken.
            ConfigError: the file can be neither read nor written.
        """
        people = self._people()
        if not _NAME.fullmatch(name):
            raise RecordError(
                f"{name!r} cannot be a name",
                field="name",
                rule="A name has 1 to 64 letters, digits, '_', '-', '.' and '@', a letter or "
                "digit first.",
            )
        if name in people:
            raise RecordError(
                f"there is a {name!r} already",
                field="name",
                remedy=f"Take them out first: flywheel review --remove {name}",
            )
        key = secrets.token_urlsafe(32)
        self._write({**people, name: Person(name, role, digest_of(key))})
        return key

    def remove(self, name: str) -> None:
        """Take somebody out; they are logged out at their next step.

        Raises:
            RecordError: there is nobody of that name.
        """
        people = dict(self._people())
        if people.pop(name, None) is None:
            known = ", ".join(people) or "nobody"
            raise RecordError(f"there is no {name!r}", field="name", rule=f"Known: {known}.")
        self._write(people)

    def _people(self) -> dict[str, Person]:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {error.strerror}") from error
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if self._read is None or self._read[0] != stamp:
            self._read = (stamp, _parsed(self.path, status.st_mode))
        return self._read[1]

    def _write(self, people: dict[str, Person]) -> None:
        """Replace the file at once: a reader sees the old one or the new one."""
        lines = [f"{one.name} {one.role} {one.digest}\n" for one in people.values()]
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w") as handle:
                handle.writelines(lines)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(self.path)
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be written: {error.strerror}",
                remedy="Set curate.review.keys_file to a file in a folder that this user can "
                "write.",
            ) from error


def digest_of(key: str) -> str:
    """SHA-256 of a key, 64 hex digits."""
    return hashlib.sha256(key.strip().encode()).hexdigest()


def _parsed(path: Path, mode: int) -> dict[str, Person]:
    if mode & 0o077:
        raise ConfigError(
            f"key file {path} has mode {mode & 0o777:04o}",
            rule="Others must neither read nor change who may log in.",
            remedy=f"chmod 600 {path}",
        )
    people: dict[str, Person] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split()
        fits = len(words) == 3 and words[1] in ROLES and bool(_HASH.fullmatch(words[2]))
        if not fits or not _NAME.fullmatch(words[0]) or words[0] in people:
            raise ConfigError(
                f"line {number} of {path} names nobody who may log in",
                rule=f"A line is `name role hash`, each name once; a role is one of "
                f"{', '.join(ROLES)}.",
                remedy="Take the line out; flywheel review --add makes new ones.",
            )
        people[words[0]] = Person(words[0], cast(Role, words[1]), words[2])
    return people
