"""Gate packs as they were taken up, changed and let go, and which of them an alias is held to.

A pack that gated a version which then went live is binding: it gates every later version, until
somebody loosens or removes it and says why. Nothing marks a pack as binding; it follows from what
is appended anyway: the gate's evaluations name their packs, and deployments say what went live.
"""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from ledger.clock import now
from ledger.database import tables
from ledger.store.base import Base, chunks

Action = Literal["added", "tightened", "loosened", "removed"]

_packs = tables.packs


class PackEvent(NamedTuple):
    """What happened to a pack of an alias.

    Attributes:
        content: the pack with its questions (`ledger.packs.LoadedPack.content`).
        who, why: why is "" where none was needed.
    """

    ts: float
    name: str
    pack_hash: str
    action: Action
    content: dict[str, Any]
    who: str
    why: str


class Packs(Base):
    """The table `packs`."""

    def add_pack(
        self,
        alias: str,
        name: str,
        pack_hash: str,
        content: dict[str, Any],
        action: Action,
        *,
        who: str,
        why: str = "",
    ) -> None:
        """Append what happened to a pack."""
        values = {"alias": alias, "ts": now(), "name": name, "pack_hash": pack_hash}
        values |= {"action": action, "who": who, "why": why}
        values["content"] = json.dumps(content, ensure_ascii=False)
        with self.transaction() as connection:
            connection.execute(sa.insert(_packs).values(values))

    def pack_events(self, alias: str) -> list[PackEvent]:
        """All that happened to the packs of an alias, oldest first."""
        query = sa.select(_packs).where(_packs.c.alias == alias).order_by(_packs.c.seq)
        with self.reading() as connection:
            return [
                PackEvent(
                    row.ts,
                    row.name,
                    row.pack_hash,
                    row.action,
                    json.loads(row.content),
                    row.who,
                    row.why,
                )
                for row in connection.execute(query)
            ]

    def binding_packs(self, alias: str) -> dict[str, PackEvent]:
        """The packs that an alias is held to, by name: the event that has their content.

        The last thing that happened to a name counts: a gate with it whose version went live,
        by the time of the gate, or that somebody loosened or removed it.
        """
        events = self.pack_events(alias)
        known = {event.pack_hash: event for event in events}
        happened: list[tuple[float, str, PackEvent | None]] = [
            (event.ts, event.name, event if event.action == "loosened" else None)
            for event in events
            if event.action in ("loosened", "removed")
        ]
        for ts, packs in self._went_live(alias):
            happened += [(ts, name, known[one]) for name, one in packs.items() if one in known]
        found: dict[str, PackEvent] = {}
        for _, name, event in sorted(happened, key=lambda one: one[0]):
            if event is None:
                found.pop(name, None)
            else:
                found[name] = event
        return dict(sorted(found.items()))

    def conversations(self, row_ids: list[str]) -> dict[str, str]:
        """Which conversation rows belong to, as far as a dataset was ever built with them."""
        table, found = tables.candidates, {}
        with self.reading() as connection:
            for page in chunks(row_ids):
                query = sa.select(table.c.row_id, table.c.conversation)
                for row in connection.execute(query.where(table.c.row_id.in_(page))):
                    found[row.row_id] = row.conversation
        return found

    def _went_live(self, alias: str) -> list[tuple[float, dict[str, str]]]:
        """Time and packs of the gates whose version got all the traffic afterwards."""
        gates, events = tables.evaluations, tables.deployments
        judged = sa.select(gates.c.ts, gates.c.candidate, gates.c.report)
        judged = judged.where(gates.c.alias == alias).order_by(gates.c.seq)
        promoted = sa.select(events.c.ts, events.c.version)
        promoted = promoted.where(events.c.alias == alias, events.c.kind == "promote")
        with self.reading() as connection:
            verdicts = connection.execute(judged).all()
            live = connection.execute(promoted).all()
        found = []
        for event in live:
            name = f"{alias}@v{event.version}"
            before = [one for one in verdicts if one.candidate == name and one.ts <= event.ts]
            if before:
                found.append((before[-1].ts, json.loads(before[-1].report).get("packs") or {}))
        return found
