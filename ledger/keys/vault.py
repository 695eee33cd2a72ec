"""Who somebody is, without knowing: a keyed hash of users and sessions.

The key never leaves its file (mode 0600). Without the key nobody can test whether a given
person is in the ledger; with it, the same user always has the same subject, so that caps,
forgetting and sticky routing work. Text is encrypted with other keys: see `ledger.keys.keyring`.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from ledger.keys.keyfile import read_keys

_LOST = (
    "With a new key, old and new rows of one user can no longer be told to be the same person's."
)


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
        return cls(read_keys(key_file, "privacy.key_file", lost=_LOST)[0])

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
