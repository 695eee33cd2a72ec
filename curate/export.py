"""Accepted corrections in the form of OpenAI's chat fine-tuning: one JSON object a line.

    {"messages": [{"role": "user", …}, {"role": "assistant", …}], "tools": […]}

`tools` is there where the request had some. The same rows are left out as from a dataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curate.build import Pool, collect, nothing_to_train_on
from ledger.errors import LedgerError, RegistryError, UsageError
from ledger.files import write_jsonl
from ledger.registry import TRAINING_DATA, Registry
from ledger.settings import Settings
from ledger.store import Store

FORMATS = ("sft",)


def rows(pool: Pool) -> Iterator[dict[str, Any]]:
    """The lines of a pool, as JSON values."""
    for pair in pool.pairs:
        yield {"messages": pair.messages} | ({"tools": pair.tools} if pair.tools else {})


def export(store: Store, settings: Settings, alias: str, format: str = "sft", *, out: Path) -> Pool:
    """Write the accepted corrections of an alias to `out`, whole or not at all.

    Returns:
        What was written, and what was left out by reason.

    Raises:
        UsageError: there is no such format.
        ConfigError: there is no such alias.
        GoldError: a gold set of the alias cannot be read.
        DatasetError: there is nothing to export; `out` is not touched.
    """
    if format not in FORMATS:
        raise UsageError(f"no export format {format!r}", rule=f"There is: {', '.join(FORMATS)}.")
    pool = collect(settings, store, alias)
    if not pool.pairs:
        raise nothing_to_train_on(alias, pool.left_out)
    write_jsonl(out, rows(pool))
    return pool


def export_version(store: Store, settings: Settings, alias: str, version: int, *, out: Path) -> int:
    """Write what a version was trained on, opened, in the same form; returns the lines.

    Lines of people who were forgotten are not there any more.

    Raises:
        RegistryError: there is no such version, or its training data is damaged.
    """
    found = Registry(settings.registry).get(alias, version)
    file = found.path / TRAINING_DATA
    try:
        text = file.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.split("\n") if line]
        opened = [line for line in store.opened_lines(lines, TRAINING_DATA) if line is not None]
    except (OSError, ValueError, LedgerError) as error:
        raise RegistryError(f"{file} cannot be read: {error}") from error
    kept = ("messages", "tools")
    write_jsonl(out, ({key: line[key] for key in kept if key in line} for line in opened))
    return len(opened)
