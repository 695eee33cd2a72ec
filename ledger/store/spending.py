"""What was paid to models that were asked for help: calls, tokens, cost."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from ledger.clock import now
from ledger.database import tables
from ledger.store.base import Base

_spending = tables.spending


class Spent(NamedTuple):
    """A sum. `cost` is in the currency of the price table; None where a part had no price."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


class Spending(Base):
    """The table `spending`."""

    def add_spending(
        self,
        alias: str,
        what: str,
        model: str,
        spent: Spent,
        connection: sa.Connection | None = None,
    ) -> None:
        """Append what was spent.

        Args:
            what: on whom: `teacher` or `judge`.
        """
        if connection is None:
            with self.transaction() as own:
                return self.add_spending(alias, what, model, spent, own)
        values = {"ts": now(), "alias": alias, "what": what, "model": model}
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
        unpriced = sa.func.sum(sa.case((table.c.cost.is_(None), 1), else_=0))
        query = (
            sa.select(
                table.c.what,
                table.c.model,
                sa.func.sum(table.c.calls),
                sa.func.sum(table.c.prompt_tokens),
                sa.func.sum(table.c.completion_tokens),
                sa.func.sum(table.c.cost),
                unpriced,
            )
            .where(table.c.ts >= since)
            .group_by(table.c.what, table.c.model)
            .order_by(table.c.what, table.c.model)
        )
        if alias is not None:
            query = query.where(table.c.alias == alias)
        with self.reading() as connection:
            return {
                (what, model): Spent(
                    int(calls), int(asked), int(said), None if without else float(cost)
                )
                for what, model, calls, asked, said, cost, without in connection.execute(query)
            }
