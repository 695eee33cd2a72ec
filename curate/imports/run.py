"""One file into the ledger: guess its format, read it, write it, say what was left out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from curate.imports import langfuse, openai_chat, table, tensorzero
from curate.imports.items import About, Item, Skip, Unreadable
from curate.imports.read import Record, records
from curate.imports.write import BATCH, Counts, Mode, Placed, Writer
from ledger.errors import UsageError
from ledger.settings import Settings
from ledger.store import Store

FORMATS: dict[str, ModuleType] = {
    "openai": openai_chat,
    "langfuse": langfuse,
    "tensorzero": tensorzero,
    "csv": table,
}
#: Records that are named when they cannot be read; the others are only counted.
NAMED = 100
_LOOKED_AT = 20
_PROGRESS = 5000


class Left(NamedTuple):
    """A record that was left out: where it stands and why."""

    where: str
    why: str


class Summary(NamedTuple):
    """What became of a file. Numbers are records, except `counts`.

    Attributes:
        counts: what was written, see `write.Counts`; in a dry run what would be.
        unreadable: the first of the records that could not be read.
        reasons: all of them, by reason.
        skipped: records that are not ours to import, by reason.
    """

    file: str
    format: str
    alias: str
    dry_run: bool
    records: int
    counts: Counts
    unreadable: list[Left]
    reasons: dict[str, int]
    skipped: dict[str, int]

    @property
    def empty(self) -> bool:
        """Whether nothing could be imported, now or before."""
        counts = self.counts
        return not (counts.rows or counts.known or counts.feedback or counts.known_feedback)

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        return {
            **self._asdict(),
            "counts": self.counts.as_json(),
            "unreadable": [one._asdict() for one in self.unreadable],
        }

    def text(self) -> str:
        """For a person."""
        counts, would = self.counts, "would be " if self.dry_run else ""
        lines = [
            f"{self.file}: {self.records} records in the format {self.format}",
            f"  {would}imported {counts.rows:>8} rows of {self.alias}",
        ]
        lines += [f"  {name:<9}{n:>8}  {what}" for name, n, what in counts.lines() if n]
        lines += [f"  skipped  {n:>8}  {why}" for why, n in sorted(self.skipped.items())]
        lines += [f"  unread   {n:>8}  {why}" for why, n in sorted(self.reasons.items())]
        if self.unreadable:
            lines.append("what could not be read:")
            lines += [f"  {where}: {why}" for where, why in self.unreadable]
        more = sum(self.reasons.values()) - len(self.unreadable)
        return "\n".join([*lines, *([f"  … and {more} more"] if more else [])])


def imported(
    settings: Settings,
    store: Store,
    file: Path,
    alias: str,
    *,
    format: str | None = None,
    mode: Mode = None,
    dry_run: bool = False,
    say: Callable[[str], None] | None = None,
) -> Summary:
    """Import a file. Doing it again adds nothing.

    Args:
        format: one of `FORMATS`; guessed from the first records unless given.
        mode: `pairs`: what the file holds as answers is right, and becomes training pairs;
            `answers`: it is what was said; None: what the format means (see `write`).
        say: told now and then how far it is.

    Raises:
        UsageError: the file cannot be opened, or its format cannot be told.
        ConfigError: there is no such alias, or the acceptance policy is wrong.
        LedgerError, LedgerLocked: the ledger cannot be written; what was written stays, and
            importing the file again goes on behind it.
    """
    settings.alias(alias)
    found = records(file)
    first = list(itertools.islice(found, _LOOKED_AT))
    name = format or _guessed(file, first)
    reader = FORMATS[name].read
    writer = Writer(settings, store, file, name, alias, mode=mode, dry_run=dry_run)
    left: list[Left] = []
    reasons: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    seen = 0

    def leave_out(where: str, why: str) -> None:
        reasons[why.partition(":")[0]] += 1
        if len(left) < NAMED:
            left.append(Left(where, why))

    batch: list[Placed] = []
    for record in itertools.chain(first, found):
        seen += 1
        item = _item(reader, record)
        if isinstance(item, Unreadable):
            leave_out(record.where, str(item))
        elif isinstance(item, Skip):
            skipped[item.why] += 1
        else:
            batch.append(Placed(record.where, item))
        if len(batch) == BATCH:
            for one in writer.write(batch):
                leave_out(*one)
            batch = []
        if say is not None and seen % _PROGRESS == 0:
            say(f"{seen} records read, {writer.counts.rows} rows imported")
    for one in [*writer.write(batch), *writer.finish()]:
        leave_out(*one)
    return Summary(
        file=file.name,
        format=name,
        alias=alias,
        dry_run=dry_run,
        records=seen,
        counts=writer.counts,
        unreadable=left,
        reasons=dict(reasons),
        skipped=dict(skipped),
    )


def _item(
    reader: Callable[[dict[str, Any]], Item | About | Skip], record: Record
) -> Item | About | Skip | Unreadable:
    if isinstance(record.value, Unreadable):
        return record.value
    try:
        return reader(record.value)
    except Unreadable as error:
        return error
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return Unreadable("a field of it has another shape than the format says")


def _guessed(file: Path, first: list[Record]) -> str:
    """The format of a file by its first records."""
    values = list(_objects(first))
    for name, module in FORMATS.items():
        if any(module.fits(value) for value in values):
            return name
    if not first:
        raise UsageError(f"{file} is empty", remedy="Export it again.")
    told = [f"  {r.where}: {r.value}" for r in first if isinstance(r.value, Unreadable)]
    raise UsageError(
        f"the format of {file} cannot be told from its first records",
        rule="\n".join(told[:5]),
        remedy=f"Name it: --format {'|'.join(FORMATS)}.",
    )


def _objects(found: list[Record]) -> Iterator[dict[str, Any]]:
    for record in found:
        if isinstance(record.value, dict):
            yield record.value
