"""The writer process: takes records from one server, makes rows of them, commits in groups.

    python -m ledger.writing.writer --config FILE --fd N

Hashing of users, redaction, sealing and every touch of the disk happen here, away from the
server's event loop. A record waits at most `ledger.flush_ms` for others. What is kept when
something dies is `ledger.durability`:

`fast`      The server forgets a row once it is in the pipe. When the writer is killed (or both
            are) the rows of its last flush interval and those in the pipe are lost.
`process`   The server keeps a row until this process says that it is committed, and sends it
            again to the next writer where it did not say so. Killing the writer alone loses
            nothing. Killing the server alone loses nothing that it had written to the pipe:
            the writer reads it to its end. Killing both loses nothing that was acknowledged.
`disk`      As `process`, and a commit is on the disk itself (fsync) before it is acknowledged:
            what was acknowledged survives a power failure too.

Feedback is acknowledged when it is committed, at every level: at `fast` too it survives the
death of any process.

When the ledger cannot be written (locked, full or read-only disk, no key) the batch is kept
and tried again while the server's memory fills; feedback is refused, so that its sender tries
again. The process ends when the server's end of the socket closes and everything read is
committed, or a minute later where the ledger cannot be written.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

from ledger.errors import FlywheelError
from ledger.keeping.housekeeping import Housekeeping
from ledger.keys.vault import Vault
from ledger.settings import Settings, load
from ledger.store import Store
from ledger.writing.frames import Frames, Numbers, frame
from ledger.writing.intake import Intake

logger = logging.getLogger("flywheel.writer")

# On a small box answering comes first; the pipe holds what waits.
_NICE = 5
_RETRY_SECONDS = 0.5
_GIVE_UP_SECONDS = 60.0
# Housekeeping takes the moments in which nothing comes, and one step this often where none do:
# it has to keep up with what comes in, a thousand rows in about three steps.
_STEP_SECONDS = 0.1
_STEP_AFTER_ERROR_SECONDS = 60.0
# Where little comes, what comes is left for a moment: waking somebody who waits for each record
# costs the server's event loop ten times what the record itself does (40 of 44 µs).
_NAP_SECONDS = 0.005
_LITTLE = 1 << 16  # bytes


class Line:
    """The writer's end of the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._told: tuple[int, Numbers] | None = None
        self._poll = select.poll()
        self._poll.register(sock, select.POLLRDHUP)
        self._gone_since: float | None = None

    def answer(self, number: int, status: int, body: Any) -> None:
        """What became of a piece of feedback."""
        if not self._say(["answer", number, status, body]):
            logger.warning("the server went away before its feedback was acknowledged")

    def acknowledge(self, up_to: int, numbers: Numbers) -> None:
        """Say how far everything is committed, and how it goes, where that is news."""
        if (up_to, numbers) != self._told:
            self._told = up_to, numbers
            self._say(["ack", up_to, numbers])

    def _say(self, word: Any) -> bool:
        try:
            self.socket.sendall(frame(word))
        except OSError:
            return False
        return True

    def receive(self) -> bytes:
        """What the server sent; empty where it has closed its end."""
        try:
            return self.socket.recv(1 << 20)
        except ConnectionResetError:
            return b""

    def gone_too_long(self) -> bool:
        """Whether the server has been gone for so long that it is time to give up.

        Does not read what it has sent.
        """
        if self._gone_since is None and self._poll.poll(0):
            self._gone_since = time.monotonic()
        return (
            self._gone_since is not None and time.monotonic() - self._gone_since > _GIVE_UP_SECONDS
        )


class Chores:
    """Housekeeping, in the writer's idle moments; what goes wrong in it never stops the intake."""

    def __init__(self, housekeeping: Housekeeping) -> None:
        self._housekeeping = housekeeping
        self._last = self._not_before = time.monotonic()

    def due(self) -> float:
        """Seconds until there is something to do."""
        return max(self._housekeeping.due(), self._not_before - time.monotonic())

    def step(self, *, idle: bool) -> None:
        """Do one step if it is time."""
        now = time.monotonic()
        if (idle or now - self._last > _STEP_SECONDS) and self.due() <= 0:
            try:
                self._housekeeping.step()
            except Exception as error:
                # FlywheelErrors say what is wrong; of others the kind, not what they quote.
                known = isinstance(error, FlywheelError)
                logger.error("housekeeping failed: %s", error if known else type(error).__name__)
                self._not_before = time.monotonic() + _STEP_AFTER_ERROR_SECONDS
            self._last = time.monotonic()


def run(config: Path, sock: socket.socket, one_by_one: int = 0) -> int:
    """Read frames until the other end closes; returns the process's exit status.

    Args:
        one_by_one: how many of the first frames are committed and acknowledged each by itself.
    """
    line = Line(sock)
    opened = _open(config, line)
    if opened is None:
        return 1
    settings, store, vault = opened
    intake = Intake(settings, store, vault, line.answer)
    chores, frames = Chores(Housekeeping(store, settings)), Frames()
    open_end, little = True, False
    line.acknowledge(0, intake.numbers)
    while open_end or intake.pending:
        if intake.failing is not None:
            if line.gone_too_long():
                logger.error("giving up: the last rows could not be written")
                return 1
            time.sleep(_RETRY_SECONDS)
            _commit(intake, line)
            continue
        if little and intake.pending and intake.due() > _NAP_SECONDS:
            time.sleep(_NAP_SECONDS)
        wait = max(0.0, intake.due() if intake.pending else chores.due())
        came = bool(open_end and select.select([sock], [], [], wait)[0])
        if came:
            data = line.receive()
            open_end = bool(data)
            little = len(data) < _LITTLE
            for message in frames.feed(data):
                intake.take(message)
                if one_by_one > 0:
                    one_by_one -= 1
                    _commit_now(intake, line)
        elif not open_end:
            time.sleep(max(0.0, intake.due()))  # the feedback of an unknown row is left
        if not intake.pending or intake.due() <= 0 or not open_end:
            _commit(intake, line)
        chores.step(idle=not came and not intake.pending)
    if intake.malformed:
        logger.error("%d records were left out", intake.malformed)
    store.close()
    return 0


def _commit(intake: Intake, line: Line) -> bool:
    """Commit what is pending, or see whether it can be done again; say how far we are."""
    if intake.pending or intake.failing is not None:
        intake.commit()
    line.acknowledge(intake.done, intake.numbers)
    return intake.failing is None


def _commit_now(intake: Intake, line: Line) -> None:
    """Commit one record before the next one is looked at."""
    while not _commit(intake, line) and not line.gone_too_long():
        time.sleep(_RETRY_SECONDS)


class _Opened(NamedTuple):
    settings: Settings
    store: Store
    vault: Vault


def _open(config: Path, line: Line) -> _Opened | None:
    """Open everything, trying until it works: what the server sends waits in the socket."""
    since, said = time.time(), ""
    while not line.gone_too_long():
        try:
            settings = load(config)
            vault = Vault.open(settings.privacy.key_file)
            store = Store.open(settings)
            store.load_detectors()
            return _Opened(settings, store, vault)
        except FlywheelError as error:
            if str(error) != said:
                logger.error("the log cannot be opened: %s", error)
            said = str(error)
            line.acknowledge(0, Numbers(failing=error.problem, failing_since=since))
        time.sleep(_RETRY_SECONDS)
    logger.error("giving up: nothing that the server sent could be written")
    return None


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m ledger.writing.writer")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--fd", type=int, required=True, help="the server's end is its peer")
    parser.add_argument(
        "--one-by-one",
        type=int,
        default=0,
        help="so many of the first records are committed each by itself: one of them may have "
        "killed the last writer",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(name)s %(levelname)s %(message)s")
    # The server's end decides when to stop; a signal to its group must not cut the log short.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    os.nice(_NICE)
    return run(arguments.config, socket.socket(fileno=arguments.fd), arguments.one_by_one)


if __name__ == "__main__":
    raise SystemExit(main())
