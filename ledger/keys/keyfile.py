"""Files that hold keys: mode 0600, hex, one key a line, made on first use."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from ledger.errors import ConfigError

KEY_BYTES = 32


def read_keys(path: Path, setting: str, *, lost: str, create: bool = True) -> list[bytes]:
    """The keys in a file, in its order.

    Args:
        setting: name of the setting that names the file, for errors.
        lost: what it means when the key is gone, for errors.
        create: make a file with one random key where there is none.

    Raises:
        ConfigError: the file cannot be read or made, is readable by others, or does not
            hold keys.
    """
    try:
        if create and not path.exists():
            _create(path)
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        if create:
            problem = f"{setting} {path} can be neither read nor made: {error.strerror}"
            remedy = f"Set {setting} to a file in a folder that this user can write."
        else:
            problem = f"{setting} {path} cannot be read: {error.strerror}"
            remedy = f"Restore it from a backup. {lost}"
        raise ConfigError(problem, remedy=remedy) from error
    if mode & 0o077:
        raise ConfigError(
            f"key file {path} has mode {mode & 0o777:04o}",
            rule="A key must not be readable by others.",
            remedy=f"chmod 600 {path}",
        )
    found = parse_keys(content.split(b"\n"))
    if found is None:
        raise ConfigError(
            f"key file {path} does not hold a key",
            rule=f"A key is {KEY_BYTES * 2} hex digits.",
            remedy=f"Restore it from a backup. {lost}",
        )
    return found


def parse_keys(texts: Iterable[bytes]) -> list[bytes] | None:
    """Keys from their hex digits, blanks left out; None where one is no key or there is none."""
    try:
        keys = [bytes.fromhex(text.decode("ascii").strip()) for text in texts if text.strip()]
    except ValueError:
        return None
    return keys if keys and all(len(key) == KEY_BYTES for key in keys) else None


def _create(path: Path) -> None:
    """Make a key file; of two processes that try at once, the first one's key holds."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "w") as handle:
            handle.write(secrets.token_hex(KEY_BYTES) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process was first: its key is the one to use
    finally:
        temporary.unlink()
