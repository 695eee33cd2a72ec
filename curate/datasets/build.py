"""The dataset of a run: accepted corrections of an alias and good answers, frozen.

    python -m curate.datasets.build --config C --alias A --run DIR

Takes over what is new (feedback, tags, clusters), chooses the pairs (`curate.datasets.select`) and
freezes `DIR/dataset` (`ledger.dataset`). The cost follows what is new: what was looked at before
is known (`curate.datasets.candidates`), and a pair that stood in the last dataset is taken over
with its seal. What is left out stands in the manifest and in the ledger, by reason.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from ledger import dataset
from ledger.database import tables
from ledger.dataset import Copy, DatasetManifest, Pair
from ledger.errors import DatasetError, FlywheelError
from ledger.records import DatasetRecord
from ledger.settings import Settings, load
from ledger.store import Store, now

_ATTEMPTS = 5  # builds that are begun again because somebody was forgotten meanwhile


class Pool(NamedTuple):
    """Pairs in the order of their rows' time, and the rows left out, by reason."""

    pairs: list[Pair]
    left_out: dict[str, list[str]]


def collect(settings: Settings, store: Store, alias: str) -> Pool:
    """All pairs that a dataset of the alias would have now, opened.

    Raises:
        ConfigError, GoldError: see `curate.datasets.plan.plan`.
    """
    from curate.datasets.pairs import pairs
    from curate.datasets.plan import plan

    made = plan(settings, store, alias)
    left_out = {reason: list(ids) for reason, ids in made.selection.left_out.items()}
    found = [pair for pair in pairs(settings, store, made, left_out) if isinstance(pair, Pair)]
    return Pool(found, left_out)


def build(settings: Settings, store: Store, alias: str, run_dir: Path) -> DatasetManifest:
    """Freeze the pairs of an alias in `run_dir/dataset`, and record it in the ledger.

    A dataset that is complete there is checked and kept as it is.

    Raises:
        ConfigError: there is no such alias.
        GoldError: a gold set of the alias cannot be read.
        DatasetError: there is no pair at all, or the dataset that is there was altered.
    """
    settings.alias(alias)
    folder = run_dir / "dataset"
    if (folder / dataset.MANIFEST).exists():
        manifest, pairs = dataset.load(folder, store)
        if manifest.alias != alias:
            raise DatasetError(
                f"{folder} holds pairs of {manifest.alias!r}, asked for {alias!r}",
                remedy="Name another run folder.",
            )
        row_ids = [pair.row_id for pair in pairs]
    else:
        manifest, row_ids = _freeze(settings, store, alias, folder)
    # Also for a folder that was complete: the last run may have died between the two.
    store.add_dataset(
        DatasetRecord(
            dataset_id=manifest.dataset_id,
            ts=manifest.created,
            alias=alias,
            path=str(folder),
            pairs=manifest.pairs,
            row_ids=row_ids,
            report=manifest.report,
        )
    )
    reasons_of = {row_id: why for why, ids in manifest.left_out.items() for row_id in ids}
    store.add_left_out(alias, manifest.dataset_id, reasons_of)
    return manifest


class _Again(Exception):
    """Somebody was forgotten while pairs were sealed: theirs may have got a new key."""


def _freeze(
    settings: Settings, store: Store, alias: str, folder: Path
) -> tuple[DatasetManifest, list[str]]:
    """Write the dataset; its manifest and the rows in it."""
    for _ in range(_ATTEMPTS):
        try:
            return _attempt(settings, store, alias, folder)
        except _Again:
            (folder / dataset.PAIRS).unlink()
    raise DatasetError(
        f"no dataset of {alias!r} was finished: somebody was forgotten each time",
        remedy="Run it again when `flywheel forget` is done.",
    )


def _attempt(
    settings: Settings, store: Store, alias: str, folder: Path
) -> tuple[DatasetManifest, list[str]]:
    from curate.datasets import card
    from curate.datasets.pairs import Lines, pairs
    from curate.datasets.plan import plan

    forgotten = _forgotten(store)
    made = plan(settings, store, alias)
    selection, parent = made.selection, made.parent
    left_out = {reason: list(ids) for reason, ids in selection.left_out.items()}
    if not selection.chosen:
        raise nothing_to_train_on(alias, left_out)
    lines = Lines(parent, sealed=settings.privacy.seal)
    row_ids: list[str] = []

    def taken() -> Iterator[Pair | Copy]:
        for one in pairs(settings, store, made, left_out, lines):
            row_ids.append(one.line["row_id"] if isinstance(one, Copy) else one.row_id)
            yield one

    def counted() -> dict[str, Any]:
        # All is sealed, and the manifest is not there yet.
        if _forgotten(store) != forgotten:
            raise _Again
        if not row_ids:
            raise nothing_to_train_on(alias, left_out)
        there = set(row_ids)
        chosen = [one for one in selection.chosen if one.candidate.row_id in there]
        return card.report(
            selection._replace(chosen=chosen, left_out=left_out),
            settings=settings,
            tags=made.tags,
            clusters=made.clusters,
            names=made.names,
            new=len(row_ids) - lines.copied,
        )

    manifest = dataset.freeze(
        folder,
        store=store,
        alias=alias,
        pairs=taken(),
        created=now(),
        left_out=left_out,
        parent=parent.dataset_id if parent else None,
        report=counted,
        card=card.text,
    )
    return manifest, row_ids


def nothing_to_train_on(alias: str, left_out: dict[str, list[str]]) -> DatasetError:
    """The error of an alias without pairs."""
    why = "; ".join(f"{reason}: {len(ids)}" for reason, ids in left_out.items())
    return DatasetError(
        f"no accepted correction of {alias!r} makes a training pair",
        rule=f"Left out: {why}." if why else "",
        remedy="Accept or write corrections with `flywheel review`, or send them by "
        "POST /v1/feedback; users' corrections count at once where curate.trusted_sources "
        "has `user`.",
    )


def summary(manifest: DatasetManifest) -> str:
    """What was frozen, in a few lines."""
    lines = [f"{manifest.pairs} pairs for {manifest.alias} · {manifest.dataset_id}"]
    lines += [f"  from {source:<10} {count:>6}" for source, count in manifest.sources.items()]
    if held := manifest.splits.get("heldout"):
        lines.append(f"  held out        {held:>6}")
    if good := manifest.kinds.get("replay"):
        lines.append(f"  good before     {good:>6}")
    lines += [f"  left out {len(ids):>6}  {why}" for why, ids in manifest.left_out.items()]
    return "\n".join(lines)


def _forgotten(store: Store) -> int:
    """Number of the last time that somebody was forgotten."""
    with store.reading() as connection:
        return connection.scalar(sa.select(sa.func.max(tables.forgotten.c.seq))) or 0


def prepare(settings: Settings, store: Store, alias: str) -> dict[str, float]:
    """Take over what is new before choosing: feedback, tags, clusters.

    Returns:
        The seconds that each part took.
    """
    from curate.clusters import update
    from curate.tagging.sweep import sweep

    seconds, started = {}, time.perf_counter()
    sweep(settings, store)
    seconds["sweep"] = time.perf_counter() - started
    started = time.perf_counter()
    update(settings, store, alias)
    seconds["clusters"] = time.perf_counter() - started
    return seconds


def main(words: list[str] | None = None) -> int:
    """The command. Takes over what is new first; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m curate.datasets.build", description=__doc__)
    parser.add_argument("--config", required=True, type=Path, help="configuration file")
    parser.add_argument("--alias", required=True, help="whose corrections")
    parser.add_argument("--run", required=True, type=Path, help="folder of the run")
    given = parser.parse_args(words)
    try:
        settings = load(given.config)
        store = Store.open(settings)
        try:
            seconds = prepare(settings, store, given.alias)
            started = time.perf_counter()
            manifest = build(settings, store, given.alias, given.run)
            seconds["dataset"] = time.perf_counter() - started
        finally:
            store.close()
    except FlywheelError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(summary(manifest))
    print("  " + ", ".join(f"{part} {taken:.1f} s" for part, taken in seconds.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
