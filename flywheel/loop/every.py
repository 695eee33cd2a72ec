"""A tick again and again, until somebody stops it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from flywheel.loop.tick import Tick
from ledger.errors import FlywheelError


def every(
    span: float,
    turn: Callable[[], Tick],
    *,
    stop: threading.Event,
    say: Callable[[str], None] = print,
) -> int:
    """Turn every `span` seconds, the first time at once; how many ticks there were.

    A tick that fails is said, and tried again when the next one is due: a server that is down
    or a ledger that is locked now is neither a reason to end nor to hurry.
    """
    turns = 0
    while not stop.is_set():
        try:
            turn()
        except FlywheelError as error:
            say(f"tick failed: {error}")
        turns += 1
        stop.wait(span)
    return turns
