"""The server's end of the way to the writer process: hands a record over and goes on.

Everything runs on the server's event loop, and nothing waits: a record is one non-blocking
write to a socket pair; what the kernel does not take at once waits in memory. At the levels
`process` and `disk` (see `writer`) a record stays in memory until the writer says that it is
committed. All of this memory has one bound, beyond which records are dropped and counted.

A writer that dies is started again, at once and then at growing intervals, and is sent again
what it did not acknowledge; the store keeps a repeated record once. A record with which the
writer dies three times in a row is dropped and named in the log. Feedback is answered: its
sender waits for the writer's word that it is committed, and is told at once where the ledger
is known to fail or the writer keeps dying.

The frames are in `ledger.writing.frames`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ledger.writing.backlog import Backlog
from ledger.writing.frames import Frames, Numbers, frame, message_of, numbers_from
from ledger.writing.spawn import WRITER, Spawner

logger = logging.getLogger("flywheel.channel")

_RESTART_SECONDS = 0.1  # after the first death, twice as long after each further one
_RESTART_SECONDS_AT_MOST = 30.0
_DEATHS = 3
_COMPLAIN_SECONDS = 10.0


class WriterUnavailable(Exception):
    """The writer did not acknowledge; the sender may try again."""


class Channel:
    """Hands records to a writer process that it starts and watches.

    Args:
        config: the configuration file that the writer opens the ledger by.
        max_bytes: most bytes in memory, waiting or unacknowledged.
        keep: keep each record until it is acknowledged (any durability but `fast`).
        program: the writer's command line.

    Attributes:
        handed_over: records accepted.
        dropped: records that were not accepted, or were given up.
        acknowledged: records, in the order of `send`, that need not be sent again.
        unconfirmed: records that a writer had when it died, where they are not kept: some of
            them may be lost.
        restarts: writers that died.
    """

    def __init__(
        self,
        config: Path,
        max_bytes: int,
        *,
        keep: bool = True,
        program: Sequence[str] = WRITER,
    ) -> None:
        self._backlog = Backlog(max_bytes, keep=keep)
        self._spawner = Spawner(config, program)
        self._socket: socket.socket | None = None
        self._frames = Frames()
        self._loop: asyncio.AbstractEventLoop
        self._answers: dict[int, asyncio.Future[tuple[int, Any]]] = {}
        self._next_number = 0
        self._complained = -_COMPLAIN_SECONDS
        self._closing = False
        self._deaths = 0  # in a row, with nothing acknowledged in between
        self._blamed = 0  # those of them where the writer was reading
        self._suspects = 0  # records that a dead writer had; one of them may have killed it
        self._before, self._now = Numbers(), Numbers()  # of the writers that are gone; of this one
        self.handed_over = 0
        self.dropped = 0
        self.acknowledged = 0
        self.unconfirmed = 0
        self.restarts = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the writer; call on the loop that will send."""
        self._loop = loop
        self._connect(lambda: self._spawner.start(0))

    @property
    def writer_pid(self) -> int | None:
        """Process id of the last writer that was started."""
        return self._spawner.pid

    @property
    def numbers(self) -> Numbers:
        """How the writer is doing; counts are since the server's start."""
        before, now = self._before, self._now
        return Numbers(
            ready=now.ready,
            rows=before.rows + now.rows,
            malformed=before.malformed + now.malformed,
            redaction_failures=before.redaction_failures + now.redaction_failures,
            backlog=now.backlog,
            failing=now.failing,
            failing_since=now.failing_since,
        )

    @property
    def failing(self) -> str | None:
        """Why nothing can be committed now, as far as it is known here; None where it can."""
        if self._now.failing is not None:
            return self._now.failing
        if self._deaths >= _DEATHS and not self._now.ready:
            return f"the log's writer ended {self._deaths} times in a row"
        return None

    @property
    def backlog_records(self) -> int:
        """Records accepted and not known to be committed."""
        return self._backlog.records

    @property
    def backlog_bytes(self) -> int:
        """Bytes of them in this process's memory."""
        return self._backlog.bytes

    # -- sending -------------------------------------------------------------------------

    def send(self, message: Any, *, number: int = 0) -> bool:
        """Hand a message over without waiting; False where it was dropped.

        Args:
            number: of the request that waits for an answer, 0 where nobody does.
        """
        was_idle = not self._backlog.waiting
        if not self._backlog.put(frame(message), number):
            self.dropped += 1
            self._complain("the writer cannot keep up")
            return False
        self.handed_over += 1
        if was_idle:
            self._flush()
        return True

    async def request(self, kind: str, fields: Any, *, seconds: float) -> tuple[int, Any]:
        """Send a message and wait for the writer's word.

        Returns:
            (status, body) as HTTP has them.

        Raises:
            WriterUnavailable: the ledger is failing, the message could not be handed over,
                the writer died, or no answer came in time. It may be committed nevertheless:
                sending it again is safe, since it is then kept once.
        """
        if (reason := self.failing) is not None:
            raise WriterUnavailable(reason)
        self._next_number += 1
        number = self._next_number
        answer: asyncio.Future[tuple[int, Any]] = self._loop.create_future()
        self._answers[number] = answer
        try:
            if not self.send([kind, number, fields], number=number):
                raise WriterUnavailable("the log is full")
            return await asyncio.wait_for(answer, seconds)
        except TimeoutError:
            raise WriterUnavailable(f"the log did not answer within {seconds:g} s") from None
        finally:
            del self._answers[number]

    def _flush(self) -> None:
        if self._socket is None:
            return
        self._loop.remove_writer(self._socket)
        # Where it is gone `_receive` hears its last words first, and then that.
        with contextlib.suppress(OSError):
            if not self._backlog.send(self._socket):
                self._loop.add_writer(self._socket, self._flush)

    # -- the writer's words --------------------------------------------------------------

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(1 << 16)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._heard(data)
        else:
            self._lost()

    def _heard(self, data: bytes) -> None:
        for word in self._frames.feed(data):
            if word[0] == "answer":
                _, number, status, body = word
                self._answer(number, (status, body))
            else:
                self._acknowledged(word[1], numbers_from(word[2]))

    def _answer(self, number: int, word: tuple[int, Any] | WriterUnavailable) -> None:
        answer = self._answers.get(number)
        if answer is None or answer.done() or self._loop.is_closed():
            return
        if isinstance(word, WriterUnavailable):
            answer.set_exception(word)
        else:
            answer.set_result(word)

    def _acknowledged(self, up_to: int, numbers: Numbers) -> None:
        done = self._backlog.acknowledge(up_to)
        if done:
            self.acknowledged += done
            self._suspects = max(0, self._suspects - done)
            self._deaths = self._blamed = 0
        if numbers.failing is not None and self._now.failing is None:
            logger.error("the log cannot be written, records wait in memory: %s", numbers.failing)
        elif numbers.failing is None and self._now.failing is not None:
            logger.warning("the log can be written again")
        self._now = numbers
        self._refuse_while_failing()

    def _refuse_while_failing(self) -> None:
        """Nobody shall wait for an acknowledgement that is not going to come soon."""
        if (reason := self.failing) is not None:
            for number in list(self._answers):
                self._answer(number, WriterUnavailable(reason))

    # -- the writer's life ---------------------------------------------------------------

    def _connect(self, start: Callable[[], socket.socket | None]) -> None:
        try:
            ours = start()
        except OSError as error:  # no process or file handle to be had: perhaps in a moment
            logger.error("the log's writer cannot be started: %s", error)
            self._deaths += 1
            self._start_later()
            return
        if ours is not None:
            self._socket, self._frames = ours, Frames()
            if not self._closing:
                self._loop.add_reader(ours, self._receive)
                self._flush()

    def _start_later(self) -> None:
        if not self._closing:
            doubled = _RESTART_SECONDS * 2 ** min(self._deaths - 1, 10)
            self._loop.call_later(min(doubled, _RESTART_SECONDS_AT_MOST), self._start_aside)

    def _start_aside(self) -> None:
        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: `close` takes it
                self._loop.call_soon_threadsafe(self._connect, self._spawner.take)

        if not self._closing:
            self._spawner.start_aside(self._suspects, tell)

    def _lost(self) -> None:
        """The writer is gone: what is kept here is for the next one."""
        assert self._socket is not None
        if not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._socket.close()
        self._socket = None
        was_reading = self._now.ready  # one that dies before dies of something else
        self._before, self._now = self.numbers, Numbers()
        self.restarts += 1
        self._deaths += 1
        logger.error("the log's writer ended; starting it again")
        kept, forgotten = self._backlog.disconnected()
        self.unconfirmed += forgotten
        if kept and was_reading:
            self._suspects = max(self._suspects, kept)
            self._blamed += 1
            if self._blamed >= _DEATHS:
                self._give_up_first()
        if self._answers:
            for number in self._answers.keys() - self._backlog.numbers():
                self._answer(number, WriterUnavailable("the log's writer ended"))
        self._refuse_while_failing()
        self._start_later()

    def _give_up_first(self) -> None:
        entry = self._backlog.drop_first()
        self.dropped += 1
        self._suspects -= 1
        self._deaths = self._blamed = 0
        kind, *_, fields = message_of(entry.data)
        name = fields.get("request_id" if kind == "row" else "id")
        logger.error("the %s of %r is dropped: the writer died %d times of it", kind, name, _DEATHS)

    # -- the end -------------------------------------------------------------------------

    def close(self, seconds: float = 30.0) -> None:
        """Write out what waits and let the writer finish; may block, so only at the end.

        Needs no running loop: it is called when the interpreter exits.
        """
        if self._closing:
            return
        self._closing = True
        deadline = time.monotonic() + seconds
        if self._socket is None:
            self._connect(self._spawner.take)  # one that was being started
        elif not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        while time.monotonic() < deadline:
            if self._socket is None:
                if not self._backlog.kept or self._deaths > _DEATHS:
                    break
                self._connect(lambda: self._spawner.start(self._suspects))
                if self._socket is None:
                    break
            self._last_words(deadline)
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        ended = self._spawner.wait(max(0.1, deadline - time.monotonic()))
        if self._backlog.kept or not ended:
            unknown = self._backlog.records
            logger.error("the log's writer did not finish; %d records may be missing", unknown)
        if self.dropped:
            logger.warning("%d records were dropped since the start", self.dropped)

    def _last_words(self, deadline: float) -> None:
        """Send the rest to a writer and hear it until it ends; it may die of it."""
        assert self._socket is not None
        said_all = False
        while (left := deadline - time.monotonic()) > 0:
            if not self._backlog.waiting and not said_all:
                said_all = True
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_WR)
            poll = select.poll()
            poll.register(self._socket, select.POLLIN | (0 if said_all else select.POLLOUT))
            for _, event in poll.poll(left * 1000):
                if event & select.POLLOUT:
                    with contextlib.suppress(OSError):
                        self._backlog.send(self._socket)
                if event & ~select.POLLOUT:
                    try:
                        data = self._socket.recv(1 << 16)
                    except OSError:
                        data = b""
                    if data:
                        self._heard(data)
                    elif self._backlog.kept:
                        self._lost()
                        return
                    else:
                        self._socket.close()
                        self._socket = None
                        return

    def _complain(self, message: str) -> None:
        if time.monotonic() - self._complained > _COMPLAIN_SECONDS:
            self._complained = time.monotonic()
            logger.warning("%s: %d records dropped since the start", message, self.dropped)
