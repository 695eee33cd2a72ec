"""Warnings about windows of time: what was noticed, and what was over again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from ledger.database import tables
from ledger.store.base import Base

_alerts = tables.alerts


class Alert(NamedTuple):
    """A warning. Times are seconds since the epoch.

    Attributes:
        ts: when it was noticed.
        kind: `drift:<signal>`, `recovered:<signal>`, or what curation reports (`new_cluster`).
        since, until: the window that it is about.
        report: numbers and words, none of a user's.
    """

    seq: int
    alias: str
    ts: float
    kind: str
    since: float
    until: float
    report: dict[str, Any]

    @property
    def said(self) -> str:
        """In one sentence."""
        return str(self.report.get("said") or self.kind)


DRIFT, RECOVERED = "drift:", "recovered:"


class Alerts(Base):
    """The table `alerts`."""

    def open_drifts(self, alias: str) -> list[Alert]:
        """Drifts that are not over, the oldest first."""
        newest: dict[str, Alert] = {}
        for one in reversed(self.alerts(alias)):
            for kind in (DRIFT, RECOVERED):
                if one.kind.startswith(kind):
                    newest[one.kind.removeprefix(kind)] = one
        found = [one for one in newest.values() if one.kind.startswith(DRIFT)]
        return sorted(found, key=lambda one: one.seq)

    def add_alert(
        self,
        alias: str,
        kind: str,
        report: Mapping[str, Any],
        connection: sa.Connection,
        *,
        at: float,
        since: float,
        until: float,
    ) -> Alert:
        """Append a warning; see `Alert`."""
        values: dict[str, Any] = {"alias": alias, "ts": at, "kind": kind}
        values |= {"since": since, "until": until}
        text = json.dumps(report, ensure_ascii=False)
        added = connection.execute(sa.insert(_alerts).values(**values, report=text))
        key = added.inserted_primary_key
        assert key is not None
        return Alert(seq=int(key[0]), report=dict(report), **values)

    def alerts(
        self,
        alias: str,
        *,
        kind: str = "",
        since: float = 0.0,
        limit: int | None = None,
        connection: sa.Connection | None = None,
    ) -> list[Alert]:
        """Warnings of an alias, the newest first.

        Args:
            kind: what their kind begins with.
            since: only those noticed then or later, seconds since the epoch.
        """
        if connection is None:
            with self.reading() as own:
                return self.alerts(alias, kind=kind, since=since, limit=limit, connection=own)
        query = (
            sa.select(_alerts)
            .where(
                _alerts.c.alias == alias,
                _alerts.c.ts >= since,
                _alerts.c.kind.startswith(kind, autoescape=True),
            )
            .order_by(_alerts.c.ts.desc(), _alerts.c.seq.desc())
            .limit(limit)
        )
        return [
            Alert(**{**row, "report": _report(row["report"])})
            for row in connection.execute(query).mappings()
        ]


def _report(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:  # a bit of the file has flipped; the warning still stands
        return {"said": "its report is damaged"}
    return found if isinstance(found, dict) else {"said": text}
