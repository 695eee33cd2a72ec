"""What continuous watches remember between two looks: one JSON object each, changed in place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from ledger.database import tables
from ledger.store.base import Base, insert_new

_watches = tables.watches


class Watches(Base):
    """The table `watches`; a name is an alias, a slash, and what is watched."""

    def watches(
        self, alias: str, connection: sa.Connection | None = None
    ) -> dict[str, dict[str, Any]]:
        """What is remembered of an alias, by what is watched."""
        if connection is None:
            with self.reading() as own:
                return self.watches(alias, own)
        prefix = f"{alias}/"
        query = sa.select(_watches.c.name, _watches.c.state).where(
            _watches.c.name.startswith(prefix, autoescape=True)
        )
        return {
            name.removeprefix(prefix): json.loads(state)
            for name, state in connection.execute(query)
            if name.startswith(prefix)  # SQLite's LIKE does not mind the case
        }

    def watch(
        self, alias: str, what: str, connection: sa.Connection | None = None
    ) -> dict[str, Any] | None:
        """What is remembered of one thing; None where nothing is."""
        if connection is None:
            with self.reading() as own:
                return self.watch(alias, what, own)
        query = sa.select(_watches.c.state).where(_watches.c.name == f"{alias}/{what}")
        state = connection.scalar(query)
        return None if state is None else json.loads(state)

    def save_watches(
        self, alias: str, states: Mapping[str, Mapping[str, Any]], connection: sa.Connection,
        *, at: float,
    ) -> None:  # fmt: skip
        """Remember what is watched from now on; what is not named stays as it was.

        Args:
            at: seconds since the epoch.
        """
        for what, state in states.items():
            name = f"{alias}/{what}"
            values = {"ts": at, "state": json.dumps(state)}
            if not insert_new(connection, _watches, {"name": name, **values}):
                connection.execute(
                    sa.update(_watches).where(_watches.c.name == name).values(values)
                )

    def drop_watches(self, alias: str, what: list[str], connection: sa.Connection) -> None:
        """Forget what is remembered, so that a watch begins anew."""
        names = [f"{alias}/{one}" for one in what]
        connection.execute(sa.delete(_watches).where(_watches.c.name.in_(names)))
