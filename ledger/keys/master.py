"""The master key: wraps the keys of users, and comes from outside the ledger.

From the variable `FLYWHEEL_MASTER_KEY`, else from a command (a KMS's client), else from a file
of mode 0600 that is made on first use. Each may give several keys, one a line or separated by
commas: while a key is being replaced both are needed. Which one is in use stands in the ledger.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shlex
import subprocess

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ledger.errors import ConfigError, LedgerError
from ledger.files import write_atomic
from ledger.keys.keyfile import KEY_BYTES, parse_keys, read_keys
from ledger.settings import MASTER_VARIABLE, Privacy

_NONCE = 12
_COMMAND_SECONDS = 60
_LOST = "Without it the text in the ledger cannot be read; nobody can make it again."


class MasterKeys:
    """The master keys that this process knows, by their id (16 hex digits of their SHA-256).

    Args:
        keys: oldest first.
        source: where they came from, for errors.
    """

    def __init__(self, keys: list[bytes], source: str) -> None:
        self.source = source
        self._keys = {key_id(key): key for key in keys}
        self.newest = key_id(keys[-1])

    @classmethod
    def open(cls, privacy: Privacy, *, create: bool) -> MasterKeys:
        """Read the keys.

        Args:
            create: make the key file where there is none.

        Raises:
            ConfigError: there is no key, it is malformed, its file is readable by others, or
                the command fails.
        """
        given = os.environ.get(MASTER_VARIABLE)
        if given:
            return cls(_parse(given, f"the variable {MASTER_VARIABLE}"), MASTER_VARIABLE)
        if privacy.master_key_command:
            shown = f"privacy.master_key_command ({privacy.master_key_command.split()[0]})"
            return cls(_parse(_run(privacy.master_key_command, shown), shown), shown)
        file = privacy.master_file
        keys = read_keys(file, "privacy.master_key_file", lost=_LOST, create=create)
        return cls(keys, str(file))

    def __contains__(self, master: str) -> bool:
        return master in self._keys

    def wrap(self, master: str, key: bytes, bound_to: str) -> bytes:
        """Encrypt a key with a master key (AES-256-GCM); `bound_to` is authenticated."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + AESGCM(self._keys[master]).encrypt(nonce, key, bound_to.encode())

    def unwrap(self, master: str, wrapped: bytes, bound_to: str) -> bytes:
        """The inverse of `wrap`.

        Raises:
            ConfigError: this process does not know the master key.
            LedgerError: the wrapped key is damaged.
        """
        if master not in self._keys:
            raise ConfigError(
                f"the ledger's text is sealed under master key {master}, and {self.source} "
                f"holds {', '.join(self._keys)}",
                remedy=f"Give the right key. {_LOST}",
            )
        try:
            return AESGCM(self._keys[master]).decrypt(
                wrapped[:_NONCE], wrapped[_NONCE:], bound_to.encode()
            )
        except InvalidTag:
            raise LedgerError(f"the key of {bound_to} is damaged") from None


def key_id(key: bytes) -> str:
    """The name under which a master key is known in the ledger."""
    return hashlib.sha256(b"flywheel master key\0" + key).hexdigest()[:16]


def add_to_file(privacy: Privacy) -> str:
    """Add a new random key to the key file; returns its id.

    Raises:
        ConfigError: the file cannot be read.
    """
    keys = read_keys(privacy.master_file, "privacy.master_key_file", lost=_LOST, create=False)
    new = secrets.token_bytes(KEY_BYTES)
    _write(privacy, [*keys, new])
    return key_id(new)


def keep_in_file(privacy: Privacy, master: str) -> int:
    """Remove all keys but one from the key file; returns how many went."""
    keys = read_keys(privacy.master_file, "privacy.master_key_file", lost=_LOST, create=False)
    kept = [key for key in keys if key_id(key) == master]
    _write(privacy, kept)
    return len(keys) - len(kept)


def _write(privacy: Privacy, keys: list[bytes]) -> None:
    data = "".join(key.hex() + "\n" for key in keys).encode()
    write_atomic(privacy.master_file, data, mode=0o600)


def _run(command: str, shown: str) -> str:
    try:
        done = subprocess.run(
            shlex.split(command), capture_output=True, text=True, timeout=_COMMAND_SECONDS
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        # Only what kind of error: the command may hold a secret.
        raise ConfigError(f"{shown} cannot be run ({type(error).__name__})") from None
    if done.returncode:
        last = " ".join(done.stderr.strip().splitlines()[-1:])
        raise ConfigError(f"{shown} failed with status {done.returncode}: {last}")
    return done.stdout


def _parse(text: str, shown: str) -> list[bytes]:
    parts = text.replace(",", "\n").split("\n")
    found = parse_keys(part.encode("ascii", errors="replace") for part in parts)
    if found is None:
        raise ConfigError(
            f"{shown} does not give a master key",
            rule=f"A key is {KEY_BYTES * 2} hex digits; several are separated by commas.",
            remedy="Make one: python -c 'import secrets; print(secrets.token_hex(32))'",
        )
    return found
