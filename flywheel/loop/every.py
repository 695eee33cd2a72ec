"""A tick again and again, until somebody stops it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from flywheel.loop.tick import Tick
from ledger.errors import FlywheelError, UsageError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def seconds(text: str) -> float:
    """`30s`, `5m`, `1h` or `1d`, as seconds.

    Raises:
        UsageError: it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{text!r} is no span of time", remedy="Write 30s, 5m, 1h or 1d.")
    return float(match[1]) * _UNITS[match[2]]


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
