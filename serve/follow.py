"""Following the deployments: what the ledger says is what the server does, within a moment.

A thread asks the ledger for its last deployment event a few times a second, away from the
event loop; on news it hands the new states to a coroutine on the loop, which loads what is
missing and then switches. A ledger that cannot be read changes nothing: the server goes on
with what it has.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from ledger.deployments import Deployment, Deployments
from ledger.errors import LedgerError

logger = logging.getLogger("flywheel.follow")

States = dict[str, Deployment]


class Follower:
    """Polls the ledger in a daemon thread.

    Args:
        apply: a coroutine function that makes the server follow new states.
        seconds: time between two looks.
    """

    def __init__(
        self,
        deployments: Deployments,
        aliases: Sequence[str],
        apply: Callable[[States], Coroutine[Any, Any, None]],
        *,
        seconds: float,
    ) -> None:
        self._deployments, self._aliases = deployments, aliases
        self._apply, self._seconds = apply, seconds
        self._seen = -1

    def look(self) -> States | None:
        """The states of all aliases if anything happened since the last look, else None."""
        last = self._deployments.last_seq()
        if last == self._seen:
            return None
        states = self._deployments.states(self._aliases)
        self._seen = last
        return states

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look from now on, applying news on `loop`."""
        thread = threading.Thread(
            target=self._run, args=(loop,), name="flywheel-follow", daemon=True
        )
        thread.start()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        failing = False
        while True:
            time.sleep(self._seconds)
            try:
                states = self.look()
            except LedgerError as error:
                if not failing:
                    logger.error("deployments cannot be read, nothing changes: %s", error)
                failing = True
                continue
            failing = False
            if states is None or loop.is_closed():
                continue
            try:
                asyncio.run_coroutine_threadsafe(self._apply(states), loop).result()
            except Exception:  # whatever happens here must not end the following
                logger.exception("a deployment could not be followed")
