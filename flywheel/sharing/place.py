"""Places that hold versions: what both kinds can do.

What is written last appears last, so that a manifest means complete. Nothing is locked: two
pushes of different versions under one name at the same moment are told apart on the hub, whose
commits name the commit before, and not in a bucket.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ledger.errors import FlywheelError


class PlaceError(FlywheelError):
    """A place cannot be reached, read or written."""


class Place(Protocol):
    """Somewhere that versions are shared. Paths are relative, with `/`."""

    url: str

    def card_path(self, alias: str) -> str:
        """Where the card of an alias is that people see first."""

    def read(self, path: str) -> bytes | None:
        """A small file; None where there is none."""

    def files(self, folder: str) -> list[str]:
        """Paths of all files in a folder and below."""

    def upload(self, files: dict[str, Path | bytes], message: str) -> None:
        """Write files; the last one of them appears when all others are there."""

    def download(self, path: str, target: Path) -> None:
        """Fetch a file."""
