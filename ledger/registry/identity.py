"""Whether two machines see the same registry: a name that a registry gives itself once."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ledger.errors import RegistryError

_FILE = ".identity"


def registry_id(root: Path) -> str:
    """The name of the registry in a folder, made on first use.

    Raises:
        RegistryError: the folder cannot be read or written.
    """
    file = root / _FILE
    try:
        if not file.exists():
            root.mkdir(parents=True, exist_ok=True)
            # Linked when it is filled: of two processes at once one gives the name.
            new = root / f"{_FILE}-{secrets.token_hex(8)}"
            new.write_text(secrets.token_hex(16), encoding="ascii")
            try:
                os.link(new, file)
            except FileExistsError:
                pass
            finally:
                new.unlink()
        return file.read_text(encoding="ascii")
    except OSError as error:
        raise RegistryError(
            f"the registry {root} cannot be read or written: {error}",
            remedy="Mend the folder, or name another with shared_registry.",
        ) from error
