"""Leases: who does something now that only one may do, on any machine that sees the ledger.

    with store.lease("retrain/support", what="retrain of support") as lease:
        …
        lease.still_mine()   # before what cannot be taken back

A thread renews the lease while the block runs. One that is not renewed ends by itself; where its
holder was a process of this machine that is gone, at once. Each taking has a token of its own,
and every change asks for it in one transaction: of two that take at once one wins, and who lost
a lease while it slept learns that before it does harm.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from ledger.clock import wall
from ledger.database import tables
from ledger.errors import LeaseLost, LedgerError, UsageError
from ledger.place import Place, here
from ledger.store.base import Base

logger = logging.getLogger(__name__)

#: How long a lease holds without being renewed, seconds. Longer than a machine stands still
#: under load, and short enough to wait for after a power failure.
SECONDS = 60.0
# Renewals in that time: two may fail.
_RENEWALS = 3

_leases = tables.leases


class Held(NamedTuple):
    """A lease as it stands in the ledger. `since` and `until` in seconds since the epoch."""

    name: str
    holder: str
    token: str
    since: float
    until: float
    what: str

    @property
    def who(self) -> str:
        """The holder, for people."""
        return str(Place.from_text(self.holder) or self.holder)

    @property
    def over(self) -> bool:
        """Whether it may be taken: it was not renewed, or its holder is seen to be gone."""
        place = Place.from_text(self.holder)
        return self.until <= wall() or (place is not None and place.is_gone())


class Lease:
    """A lease that this process took; made by `Store.lease`.

    Attributes:
        lost: set once somebody else was seen to have it.
    """

    def __init__(self, store: Leases, name: str, token: str, seconds: float) -> None:
        self.name, self.token, self.seconds = name, token, seconds
        self.lost = threading.Event()
        self._store = store
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"lease {name}", daemon=True)

    def still_mine(self) -> None:
        """Renew it, or find that it is somebody else's. Call it before what cannot be undone.

        A lease that has run out (the machine slept, the clock jumped) and that nobody took is
        renewed.

        Raises:
            LeaseLost: somebody else has, or had, it.
            LedgerError: the ledger cannot be asked.
        """
        if self.lost.is_set() or not self._store.renew_lease(self.name, self.token, self.seconds):
            self.lost.set()
            holder = self._store.lease_held(self.name)
            raise LeaseLost(
                f"the lease {self.name} is not ours any more: "
                + (f"{holder.who} has it" if holder else "somebody had it meanwhile"),
                rule=f"It was not renewed for more than {self.seconds:g} s, so another process "
                "took over.",
                remedy="Nothing was changed after that. Look at what the other one does; then "
                "run the same command again.",
            )

    def _beat(self) -> None:
        failing = False
        while not self._ended.wait(self.seconds / _RENEWALS):
            try:
                if not self._store.renew_lease(self.name, self.token, self.seconds):
                    self.lost.set()
                    logger.error("the lease %s was taken over by somebody else", self.name)
                    return
                failing = False
            except LedgerError as error:
                if not failing:
                    logger.error("the lease %s cannot be renewed: %s", self.name, error.problem)
                failing = True

    def _start(self) -> None:
        self._heart.start()

    def _end(self) -> None:
        self._ended.set()
        self._heart.join()
        try:
            self._store.end_lease(self.name, self.token)
        except LedgerError as error:  # it ends by itself; what was done is done
            logger.error("the lease %s cannot be given back: %s", self.name, error.problem)


class Leases(Base):
    """The table `leases`."""

    @contextmanager
    def lease(
        self, name: str, *, what: str, holder: str | None = None, seconds: float = SECONDS
    ) -> Iterator[Lease]:
        """Hold a lease while the block runs.

        Args:
            name: of what only one may do: `retrain/support`, `tick`.
            what: said to whoever comes second: `retrain of support`.
            holder: who, where that is not this process. Such a holder is never seen to be gone:
                its lease ends when it is not renewed.
            seconds: how long it holds without being renewed.

        Raises:
            UsageError: somebody has it; says who, since when, and what to do.
        """
        lease = Lease(self, name, self.take_lease(name, what, holder, seconds), seconds)
        lease._start()
        try:
            yield lease
        finally:
            lease._end()

    def take_lease(
        self, name: str, what: str, holder: str | None = None, seconds: float = SECONDS
    ) -> str:
        """Take a lease that is free or over; its token. `lease` does this and keeps it.

        Raises:
            UsageError: somebody has it.
        """
        token = secrets.token_hex(16)
        with self.transaction() as connection:
            moment = wall()
            found = _read(name, connection)
            if found is not None and not found.over:
                raise _taken(found)
            if found is not None:
                logger.warning("took over the lease %s from %s", name, found.who)
                connection.execute(sa.delete(_leases).where(_leases.c.name == name))
            values = Held(
                name, holder or here().to_text(), token, moment, moment + seconds, what
            )._asdict()
            connection.execute(sa.insert(_leases).values(values))
        return token

    def renew_lease(self, name: str, token: str, seconds: float) -> bool:
        """Have it hold for `seconds` from now; False where the token is not its own any more."""
        mine = sa.update(_leases).where(_leases.c.name == name, _leases.c.token == token)
        with self.transaction() as connection:
            return connection.execute(mine.values(until=wall() + seconds)).rowcount == 1

    def end_lease(self, name: str, token: str) -> bool:
        """Give it back; False where the token is not its own any more."""
        mine = sa.delete(_leases).where(_leases.c.name == name, _leases.c.token == token)
        with self.transaction() as connection:
            return connection.execute(mine).rowcount == 1

    def lease_held(self, name: str) -> Held | None:
        """Who has a lease now; None where it is free or over."""
        with self.reading() as connection:
            found = _read(name, connection)
        return None if found is None or found.over else found

    def leases_held(self) -> list[Held]:
        """All leases that somebody has now, by name."""
        with self.reading() as connection:
            rows = connection.execute(sa.select(_leases).order_by(_leases.c.name))
            return [held for row in rows if not (held := Held(*row)).over]


def _read(name: str, connection: sa.Connection) -> Held | None:
    row = connection.execute(sa.select(_leases).where(_leases.c.name == name)).first()
    return None if row is None else Held(*row)


def _taken(held: Held) -> UsageError:
    since = datetime.fromtimestamp(held.since, UTC)
    left = max(1.0, held.until - wall())
    return UsageError(
        f"another {held.what} is running: {held.who}, since {since:%F %T} UTC",
        rule="One at a time.",
        remedy="Wait until it is done, or end it there. If that machine is gone, its lease "
        f"ends by itself in {left:.0f} s: run the same command then.",
    )
