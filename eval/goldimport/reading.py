"""Files with a question a line or an element, whichever tool wrote them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ledger.errors import GoldError


def rows_of(path: Path) -> Iterator[tuple[str, Any]]:
    """Each value of a JSONL, JSON or CSV file, with where it stands.

    Raises:
        GoldError: the file cannot be read.
    """
    text = text_of(path)
    if path.suffix == ".csv":
        reader = csv.DictReader(text.splitlines(keepends=True))
        yield from ((f"line {number}", row) for number, row in enumerate(reader, 2))
        return
    if path.suffix == ".json" and (found := _json(path, text)) is not None:
        listed = found if isinstance(found, list) else [found]
        yield from ((f"element {number}", one) for number, one in enumerate(listed, 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except ValueError as error:
            raise GoldError(f"{path}:{number}: not JSON: {error}") from error


def text_of(path: Path) -> str:
    """What a file says.

    Raises:
        GoldError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise GoldError(f"{path} cannot be read: {error}") from error


def _json(path: Path, text: str) -> Any:
    """The value of a JSON file; None where it is lines of JSON under another name."""
    try:
        return json.loads(text)
    except ValueError as error:
        if text.lstrip()[:1] == "[":
            raise GoldError(f"{path} is not JSON: {error}") from error
        return None
