"""What was spent: on models that were asked for help, on training, on gates.

Tokens are paid for by a price table (`prices`, `curate.teacher`), seconds of the box by
`prices.gpu_hour`. What no price is known for has a cost of None, never 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import sqlalchemy as sa

from ledger.clock import now
from ledger.database import tables
from ledger.store.base import Base

_spending = tables.spending


class Spent(NamedTuple):
    """A sum.

    Attributes:
        cost: in the currency of the price table; None where a part had no price.
        gpu_seconds: that a GPU, or on a CPU the box, was busy with it.
    """

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    gpu_seconds: float = 0.0


class SpentOn(NamedTuple):
    """What a sum was spent on. `what`: teacher, judge, training, gate or shadow.

    Attributes:
        version: pinned name; None where it was spent on no version in particular.
    """

    what: str
    model: str
    version: str | None


class Spending(Base):
    """The table `spending`."""

    def add_spending(
        self,
        alias: str,
        what: str,
        model: str,
        spent: Spent,
        connection: sa.Connection | None = None,
        *,
        version: str | None = None,
    ) -> None:
        """Append what was spent.

        Args:
            what, version: see `SpentOn`.
            model: the one that was asked or trained.
        """
        if connection is None:
            with self.transaction() as own:
                return self.add_spending(alias, what, model, spent, own, version=version)
        values = {"ts": now(), "alias": alias, "what": what, "model": model, "version": version}
        connection.execute(sa.insert(_spending).values(values | spent._asdict()))
        return None

    def spending(
        self, alias: str | None = None, *, since: float = 0.0
    ) -> dict[tuple[str, str], Spent]:
        """Sums by (what, model), in the order of their names.

        Args:
            since: seconds since the epoch.
        """
        table = _spending
        rows = self._sums([table.c.what, table.c.model], alias, since)
        return {(what, model): spent for (what, model), spent in rows}

    def spending_by_version(
        self, alias: str | None = None, *, since: float = 0.0, until: float = math.inf
    ) -> dict[SpentOn, Spent]:
        """Sums by what, model and version, in the order of their names."""
        table = _spending
        rows = self._sums([table.c.what, table.c.model, table.c.version], alias, since, until)
        return {SpentOn(*key): spent for key, spent in rows}

    def _sums(
        self,
        by: list[sa.Column[str]],
        alias: str | None,
        since: float,
        until: float = math.inf,
    ) -> list[tuple[list[str], Spent]]:
        table = _spending
        sums = [
            sa.func.sum(table.c.calls),
            sa.func.sum(table.c.prompt_tokens),
            sa.func.sum(table.c.completion_tokens),
            sa.func.sum(table.c.cost),
            sa.func.sum(table.c.gpu_seconds),
            sa.func.sum(sa.case((table.c.cost.is_(None), 1), else_=0)),
        ]
        query = (
            sa.select(*by, *sums)
            .where(table.c.ts >= since)
            .group_by(*by)
            .order_by(*(sa.func.coalesce(one, "") for one in by))
        )
        if alias is not None:
            query = query.where(table.c.alias == alias)
        if until < math.inf:
            query = query.where(table.c.ts < until)
        found = []
        with self.reading() as connection:
            for row in connection.execute(query):
                key, (calls, asked, said, cost, seconds, unpriced) = row[: len(by)], row[len(by) :]
                paid = None if unpriced else float(cost)
                found.append(
                    (list(key), Spent(int(calls), int(asked), int(said), paid, float(seconds)))
                )
        return found
