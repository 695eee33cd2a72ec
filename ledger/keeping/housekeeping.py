"""What the writer does between batches: deciding on held rows, then retention, step by step.

A step is one small read or one small transaction. Nothing is remembered that the ledger does not
know: a pass that ends half way, with the process or with an error, is taken up by the next one.
Where several servers share a ledger each may do this; they take turns at the write lock, and what
one did the other finds done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from ledger.clock import now
from ledger.keeping.retention import retention
from ledger.keeping.settle import Settle
from ledger.settings import Settings
from ledger.store import Store

_SETTLE_SECONDS = 60.0
_RETENTION_SECONDS = 3600.0


class Housekeeping:
    """The chores of a ledger.

    Args:
        clock: seconds since the epoch, UTC.

    Attributes:
        settle: the pass over held rows.
    """

    def __init__(self, store: Store, settings: Settings, clock: Callable[[], float] = now) -> None:
        self.settle = Settle(store, settings, clock)
        self._chores: list[_Chore] = [
            _Chore(self.settle.steps, _SETTLE_SECONDS),
            _Chore(lambda: retention(store, settings, clock), _RETENTION_SECONDS),
        ]

    def due(self) -> float:
        """Seconds until the next step; 0 or less means now."""
        return min(chore.due() for chore in self._chores)

    def step(self) -> None:
        """Do one small piece of what is due, if anything is.

        Raises:
            LedgerError, LedgerLocked: the ledger cannot be read or written; the pass is begun
                anew at its next time.
        """
        chore = min(self._chores, key=_Chore.due)
        if chore.due() <= 0:
            chore.step()


class _Chore:
    """A pass that is made again and again."""

    def __init__(self, begin: Callable[[], Iterator[None]], every: float) -> None:
        self._begin, self._every = begin, every
        self._next = time.monotonic()
        self._pass: Iterator[None] | None = None

    def due(self) -> float:
        """Seconds until the next step."""
        return self._next - time.monotonic()

    def step(self) -> None:
        """One piece; the next pass waits where this one is at its end."""
        self._next = time.monotonic()  # others that are due have their turn before the next one
        going, self._pass = self._pass or self._begin(), None
        for _ in going:  # an error ends the pass
            self._pass = going
            return
        self._next = time.monotonic() + self._every
