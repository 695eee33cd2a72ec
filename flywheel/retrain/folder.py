"""The folder of a run: `var/runs/<when>-<alias>/`, and its note `run.json`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ledger.clock import now
from ledger.files import read_json, write_json
from ledger.settings import Settings

#: How a run is named, with the alias behind it: no detector takes it for a telephone number or a
#: secret, so that it can be read wherever it is quoted.
NAME = "%Y-%m-%d_%Hh%Mm%Ss"
NOTE = "run.json"


def unfinished(settings: Settings, alias: str) -> Path | None:
    """The last run of an alias, where it has no verdict yet."""
    found = [
        file.parent
        for file in sorted(settings.runs.glob(f"*/{NOTE}"))
        if (note := read_json(file))["alias"] == alias and "verdict" not in note
    ]
    return found[-1] if found else None


def begin(settings: Settings, alias: str) -> Path:
    """A new run's folder."""
    while True:
        folder = settings.runs / f"{time.strftime(NAME, time.gmtime(now()))}-{alias}"
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            if not (folder / NOTE).exists():
                break  # made by one that was killed before it wrote the note
            time.sleep(0.2)  # two runs within a second
    write_json(folder / NOTE, {"alias": alias, "started": now()})
    return folder


def finish(run: Path, version: str, verdict: str, seconds: dict[str, float]) -> None:
    """Note what a run came to."""
    _end(run, verdict, version=version, seconds=seconds)


def close(run: Path, why: str) -> None:
    """End a run that comes to nothing, so that it is not resumed."""
    _end(run, "closed", why=why)


def _end(run: Path, verdict: str, **said: Any) -> None:
    """A run with a verdict is over, see `unfinished`."""
    note = read_json(run / NOTE)
    write_json(run / NOTE, {**note, "finished": now(), "verdict": verdict, **said})
