"""What became of versions as things: published, pulled, pushed, signed, pruned.

What is live is in `ledger.deployments`; the files are in `ledger.registry`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import sqlalchemy as sa

from ledger.clock import now
from ledger.database import tables
from ledger.store.base import Base

_versions = tables.versions

Kind = Literal["published", "pulled", "pushed", "signed", "pruned"]


class VersionNote(NamedTuple):
    """Something that happened to a version.

    Attributes:
        content_id: `ledger.registry.content_id` of it at that time.
        why: for `pushed` and `pulled` the place.
    """

    alias: str
    version: int
    ts: float
    kind: Kind
    content_id: str
    who: str
    why: str


class VersionNotes(Base):
    """The table `versions`."""

    def note_version(
        self, alias: str, version: int, kind: Kind, content_id: str, *, who: str, why: str = ""
    ) -> None:
        """Append what happened; `published` and `pulled` are written once for each version."""
        said, _ = self.redacted({"why": why})
        values = {
            "alias": alias,
            "version": version,
            "ts": now(),
            "kind": kind,
            "content_id": content_id,
            "who": who,
            "why": said.get("why", ""),
        }
        table, once = _versions, kind in ("published", "pulled")
        with self.transaction() as connection:
            known = sa.select(table.c.seq).where(
                table.c.alias == alias, table.c.version == version, table.c.kind == kind
            )
            if not (once and connection.scalar(known) is not None):
                connection.execute(sa.insert(table).values(values))

    def version_notes(self, alias: str) -> dict[int, list[VersionNote]]:
        """What happened to the versions of an alias, by number, oldest first."""
        table = _versions
        columns = [table.c[name] for name in VersionNote._fields]
        query = sa.select(*columns).where(table.c.alias == alias).order_by(table.c.seq)
        found: dict[int, list[VersionNote]] = {}
        with self.reading() as connection:
            for row in connection.execute(query):
                note = VersionNote(*row)
                found.setdefault(note.version, []).append(note)
        return found
