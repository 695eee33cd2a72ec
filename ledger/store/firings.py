"""What the triggers decided, and what came of it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import sqlalchemy as sa

from ledger.clock import now
from ledger.database import tables
from ledger.store.base import Base

_firings, _outcomes = tables.firings, tables.outcomes


class Outcome(NamedTuple):
    """Something that came of a firing: `run`, `verdict`, `canary`, `live`, `rolled_back`, …"""

    ts: float
    kind: str
    report: dict[str, Any]


class Firing(NamedTuple):
    """A decision to retrain, or to collect more first, with what came of it, oldest first."""

    seq: int
    alias: str
    ts: float
    triggers: tuple[str, ...]
    decision: str
    report: dict[str, Any]
    outcomes: tuple[Outcome, ...] = ()

    def outcome(self, kind: str) -> Outcome | None:
        """The last outcome of a kind."""
        return next((one for one in reversed(self.outcomes) if one.kind == kind), None)


class Firings(Base):
    """The tables `firings` and `outcomes`."""

    def add_firing(
        self, alias: str, triggers: tuple[str, ...], decision: str, report: dict[str, Any]
    ) -> int:
        """Append a decision; returns its number.

        Args:
            decision: `retrain` or `collect`.
        """
        values = {
            "alias": alias,
            "ts": now(),
            "triggers": json.dumps(triggers),
            "decision": decision,
            "report": json.dumps(report, ensure_ascii=False),
        }
        with self.transaction() as connection:
            made = connection.execute(sa.insert(_firings).values(values)).inserted_primary_key
            assert made is not None
            return int(made[0])

    def add_outcome(self, firing: int, kind: str, report: dict[str, Any]) -> bool:
        """Append what came of a firing, unless it was appended before; whether it was new."""
        text = json.dumps(report, ensure_ascii=False, sort_keys=True)
        known = sa.select(_outcomes.c.seq).where(
            _outcomes.c.firing == firing, _outcomes.c.kind == kind, _outcomes.c.report == text
        )
        values = {"firing": firing, "ts": now(), "kind": kind, "report": text}
        with self.transaction() as connection:
            if connection.scalar(known) is not None:
                return False
            connection.execute(sa.insert(_outcomes).values(values))
            return True

    def firings(self, alias: str, *, limit: int | None = None) -> list[Firing]:
        """Decisions of an alias with their outcomes, oldest first.

        Args:
            limit: only the newest so many.
        """
        query = sa.select(_firings).where(_firings.c.alias == alias)
        query = query.order_by(_firings.c.seq.desc())
        if limit is not None:
            query = query.limit(limit)
        with self.reading() as connection:
            rows = connection.execute(query).mappings().all()
            came: dict[int, list[Outcome]] = {row["seq"]: [] for row in rows}
            if rows:
                said = sa.select(_outcomes).where(_outcomes.c.firing >= rows[-1]["seq"])
                for row in connection.execute(said.order_by(_outcomes.c.seq)).mappings():
                    if row["firing"] in came:
                        one = Outcome(row["ts"], row["kind"], json.loads(row["report"]))
                        came[row["firing"]].append(one)
        return [
            Firing(
                row["seq"],
                row["alias"],
                row["ts"],
                tuple(json.loads(row["triggers"])),
                row["decision"],
                json.loads(row["report"]),
                tuple(came[row["seq"]]),
            )
            for row in reversed(rows)
        ]
