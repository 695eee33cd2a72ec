"""The server's end of the way to the writer process: hands a record over and forgets it.

Everything runs on the server's event loop, and nothing waits: a record is one non-blocking
write to a socket pair; what the kernel does not take at once waits in memory up to a bound;
beyond the bound records are dropped and counted. A writer that dies is started again. Only
feedback is answered: its sender waits for the writer's word that it is committed.

Frames are a 4-byte length and a MessagePack array. To the writer `["row", fields]` and
`["feedback", number, fields]`; from the writer `[number, status, body]`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

logger = logging.getLogger("flywheel.channel")

_LENGTH = struct.Struct(">I")
_KERNEL_BUFFER = 4 << 20  # bytes asked for; the kernel may grant less
_RESTART_SECONDS = 1.0
_COMPLAIN_SECONDS = 10.0


def frame(message: Any) -> bytes:
    """One message as bytes on the wire."""
    try:
        data = msgspec.msgpack.encode(message)
    except (UnicodeEncodeError, OverflowError):  # JSON says more than MessagePack can
        data = msgspec.msgpack.encode(_sayable(message))
    return _LENGTH.pack(len(data)) + data


def _sayable(value: Any) -> Any:
    """A JSON value without half surrogate pairs (a `?` each) and numbers beyond 64 bits (text)."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    if isinstance(value, dict):
        return {_sayable(key): _sayable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(item) for item in value]
    return value


class Frames:
    """Cuts a stream of bytes into messages.

    Attributes:
        malformed: frames that held no message; they are skipped.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.malformed = 0

    def feed(self, data: bytes) -> list[Any]:
        """Add bytes; return the messages that are complete now."""
        self._buffer += data
        found, start = [], 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            try:
                found.append(msgspec.msgpack.decode(self._buffer[start + _LENGTH.size : end]))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self.malformed += 1
            start = end
        del self._buffer[:start]
        return found


class WriterUnavailable(Exception):
    """The writer did not answer in time; the sender may try again."""


class Channel:
    """Hands records to a writer process that it starts and watches.

    Args:
        config: the configuration file that the writer opens the ledger by.
        max_bytes: most bytes that wait in memory.

    Attributes:
        handed_over: records accepted, and `dropped`: records that were not.
    """

    def __init__(self, config: Path, max_bytes: int) -> None:
        self._config = config
        self._max_bytes = max_bytes
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._sent_of_first = 0
        self._answers: dict[int, asyncio.Future[tuple[int, Any]]] = {}
        self._next_number = 0
        self._complained = 0.0
        self._closing = False
        self._loop: asyncio.AbstractEventLoop
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.handed_over = 0
        self.dropped = 0
        self.restarts = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the writer; call on the loop that will send."""
        self._loop = loop
        self._spawn()

    @property
    def writer_pid(self) -> int | None:
        """Process id of the last writer that was started."""
        return None if self._process is None else self._process.pid

    # -- sending -------------------------------------------------------------------------

    def send(self, message: Any) -> bool:
        """Hand a message over without waiting; False where it was dropped."""
        data = frame(message)
        if self._waiting_bytes + len(data) > self._max_bytes:
            self.dropped += 1
            self._complain(f"the writer cannot keep up: {self.dropped} records dropped so far")
            return False
        self.handed_over += 1
        was_idle = not self._waiting
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if was_idle:
            self._flush()
        return True

    async def request(self, kind: str, fields: Any, *, seconds: float) -> tuple[int, Any]:
        """Send a message and wait for the writer's word.

        Returns:
            (status, body) as HTTP has them.

        Raises:
            WriterUnavailable: it could not be handed over, or no answer came in time.
        """
        self._next_number += 1
        number = self._next_number
        answer: asyncio.Future[tuple[int, Any]] = self._loop.create_future()
        self._answers[number] = answer
        try:
            if not self.send([kind, number, fields]):
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
        try:
            while self._waiting:
                first = self._waiting[0]
                sent = self._socket.send(memoryview(first)[self._sent_of_first :])
                self._sent_of_first += sent
                if self._sent_of_first == len(first):
                    self._waiting.popleft()
                    self._waiting_bytes -= len(first)
                    self._sent_of_first = 0
        except (BlockingIOError, InterruptedError):
            self._loop.add_writer(self._socket, self._flush)
        except OSError as error:
            self._lost(error)

    # -- the writer's life ---------------------------------------------------------------

    def _spawn(self) -> None:
        if self._closing:
            return
        try:
            ours = self._start_writer()
        except OSError as error:  # no process or file handle to be had: perhaps in a moment
            logger.error("the log's writer cannot be started: %s", error)
            self._loop.call_later(_RESTART_SECONDS, self._spawn)
            return
        ours.setblocking(False)
        self._socket, self._sent_of_first = ours, 0
        self._frames = Frames()
        self._loop.add_reader(ours, self._receive)
        self._flush()

    def _start_writer(self) -> socket.socket:
        """A new writer process; returns our end of the way to it."""
        if self._process is not None:
            self._process.poll()  # takes the dead one's exit status, so that no zombie stays
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as on_failure, theirs:
            on_failure.callback(ours.close)
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BUFFER)
            command = [sys.executable, "-m", "ledger.writer"]
            command += ["--config", str(self._config), "--fd", str(theirs.fileno())]
            # A session of its own: Ctrl-C in the server's terminal must not end the writer
            # before it has written what the server accepted.
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            on_failure.pop_all()
        return ours

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(1 << 16)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error)
            return
        if not data:
            self._lost(None)
            return
        for number, status, body in self._frames.feed(data):
            answer = self._answers.get(number)
            if answer is not None and not answer.done():
                answer.set_result((status, body))

    def _lost(self, error: OSError | None) -> None:
        """The writer is gone: what waits here is kept for the next one."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None
        if self._closing:
            return
        logger.error("the log's writer ended (%s); starting it again", error or "end of stream")
        self.restarts += 1
        self._loop.call_later(_RESTART_SECONDS, self._spawn)

    def close(self, seconds: float = 30.0) -> None:
        """Write out what waits and let the writer finish; may block, so only at the end.

        Needs no running loop: it is called when the interpreter exits.
        """
        self._closing = True
        if self._socket is None and self._waiting and self._process is not None:
            # The writer died a moment ago, and the next one was not started yet.
            self._socket, self._sent_of_first = self._start_writer(), 0
        if self._socket is not None:
            deadline = time.monotonic() + seconds
            try:
                self._socket.setblocking(True)
                self._socket.settimeout(seconds)
                while self._waiting:
                    self._socket.sendall(memoryview(self._waiting[0])[self._sent_of_first :])
                    self._sent_of_first = 0
                    self._waiting.popleft()
                self._socket.shutdown(socket.SHUT_WR)
                if self._process is not None:
                    self._process.wait(max(0.1, deadline - time.monotonic()))
            except (OSError, subprocess.TimeoutExpired) as error:
                logger.error("the log's writer did not finish: %s", error)
            finally:
                self._socket.close()
                self._socket = None
        if self._waiting:
            logger.error("%d records could not be handed to the log", len(self._waiting))

    def _complain(self, message: str) -> None:
        if time.monotonic() - self._complained > _COMPLAIN_SECONDS:
            self._complained = time.monotonic()
            logger.warning(message)
