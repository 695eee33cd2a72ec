"""Who somebody is, without knowing: a keyed hash of users and sessions.

The key never leaves its file (mode 0600). Without the key nobody can test whether a given
person is in the ledger; with it, the same user always has the same subject, so that caps,
forgetting and sticky routing work.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from ledger.errors import ConfigError

_KEY_BYTES = 32


class Vault:
    """Holds the key that hashes identities."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def open(cls, key_file: Path) -> Vault:
        """Read the key, making it on first use.

        Raises:
            ConfigError: the file cannot be read or made, is readable by others, or does not
                hold a key.
        """
        try:
            if not key_file.exists():
                _create(key_file)
            mode = key_file.stat().st_mode
            content = key_file.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"privacy.key_file {key_file} can be neither read nor made: {error.strerror}",
                remedy="Set privacy.key_file to a file in a folder that this user can write.",
            ) from error
        if mode & 0o077:
            raise ConfigError(
                f"key file {key_file} has mode {mode & 0o777:04o}",
                rule="The key that hashes users must not be readable by others.",
                remedy=f"chmod 600 {key_file}",
            )
        try:
            key = bytes.fromhex(content.decode("ascii").strip())
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            raise ConfigError(
                f"key file {key_file} does not hold a key",
                rule=f"A key is {_KEY_BYTES * 2} hex digits.",
                remedy="Restore it from a backup. With a new key, old and new rows of one user "
                "can no longer be told to be the same person's.",
            )
        return cls(key)

    def subject(self, user: str) -> str:
        """Keyed hash of a user, 32 hex digits."""
        return self.mac("subject", user.encode())

    def session(self, session: str) -> str:
        """Keyed hash of a session, 32 hex digits."""
        return self.mac("session", session.encode())

    def mac(self, kind: str, data: bytes) -> str:
        """HMAC-SHA-256 over the kind and the data, cut to 32 hex digits."""
        digest = hmac.new(self._key, kind.encode() + b"\0" + data, hashlib.sha256)
        return digest.hexdigest()[:32]


def _create(key_file: Path) -> None:
    """Make a key file; of two processes that try at once, the first one's key holds."""
    key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = key_file.with_name(f".{key_file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "w") as handle:
            handle.write(secrets.token_hex(_KEY_BYTES) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        os.link(temporary, key_file)
    except FileExistsError:
        pass  # another process was first: its key is the one to use
    finally:
        temporary.unlink()
