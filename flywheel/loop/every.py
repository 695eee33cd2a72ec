"""A tick again and again, until somebody stops it; and what must not wait for a long one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flywheel.loop.tick import Tick
from ledger.errors import FlywheelError


def every(
    span: float,
    turn: Callable[[], Tick],
    *,
    meanwhile: Callable[[], Tick] | None = None,
    stop: threading.Event,
    say: Callable[[str], None] = print,
) -> int:
    """Turn every `span` seconds, the first time at once; how many ticks there were.

    A tick that fails is said, and tried again when the next one is due: a server that is down
    or a ledger that is locked now is neither a reason to end nor to hurry.

    Args:
        meanwhile: done every `span` seconds in a thread of its own while a turn takes longer than
            that: one alias's training must not keep another's canary from going back.
    """
    turns = 0
    while not stop.is_set():
        with _beside(span, meanwhile, say):
            _safely(turn, say)
        turns += 1
        stop.wait(span)
    return turns


def _safely(turn: Callable[[], Tick], say: Callable[[str], None]) -> None:
    try:
        turn()
    except FlywheelError as error:
        say(f"tick failed: {error}")


@contextmanager
def _beside(
    span: float, meanwhile: Callable[[], Tick] | None, say: Callable[[str], None]
) -> Iterator[None]:
    """Do something every `span` seconds while the block takes longer."""
    if meanwhile is None:
        yield
        return
    over = threading.Event()

    def again() -> None:
        while not over.wait(span):
            _safely(meanwhile, say)

    thread = threading.Thread(target=again, name="meanwhile")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
