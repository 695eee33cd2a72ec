"""The pairs of an alias in the form that a trainer takes: one JSON object a line.

The same pairs as in a dataset that is built now; `curate.datasets.views` says what the forms are.
"""

from __future__ import annotations

import json
from pathlib import Path

from curate.datasets import reasons
from curate.datasets.build import Pool, collect, nothing_to_train_on
from curate.datasets.views import VIEWS
from ledger.errors import LedgerError, RegistryError, UsageError
from ledger.files import write_jsonl
from ledger.registry import TRAINING_DATA, Registry
from ledger.settings import Settings
from ledger.store import Store

FORMATS = tuple(VIEWS)


def export(
    store: Store,
    settings: Settings,
    alias: str,
    format: str = "sft",
    *,
    out: Path,
    split: str | None = None,
) -> Pool:
    """Write the pairs of an alias to `out`, whole or not at all.

    Args:
        split: only pairs that are trained on (`train`) or not (`heldout`); all unless given.

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
    pool, view = collect(settings, store, alias), VIEWS[format]
    pairs, left_out = [], dict(pool.left_out)
    for pair in pool.pairs:
        if split not in (None, pair.split):
            continue
        if next(view(pair), None) is None:
            voted = pair.kind == "disliked"
            why = reasons.DISLIKED if voted else reasons.NOT_REJECTED
            left_out.setdefault(why, []).append(pair.row_id)
        else:
            pairs.append(pair)
    if not pairs:
        raise nothing_to_train_on(alias, left_out)
    write_jsonl(out, (line for pair in pairs for line in view(pair)))
    return Pool(pairs, left_out)


def export_version(
    store: Store, settings: Settings, alias: str, version: int, format: str = "sft", *, out: Path
) -> int:
    """Write what a version was trained on, opened; returns the number of pairs.

    Lines of people who were forgotten are not there any more.

    Raises:
        UsageError: the format needs answers that were rejected; a version has none.
        RegistryError: there is no such version, or its training data is damaged.
    """
    if format != "sft":
        raise UsageError(
            f"a version keeps what it was trained on, which is no {format}",
            rule="Only `--format sft` goes with --version.",
        )
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
