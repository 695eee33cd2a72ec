"""What a server has accepted for its log and does not know to be committed: a bounded queue.

Two parts in the order of arrival: frames that were sent and are not acknowledged, and frames
that are not sent yet. A lost connection makes all of them unsent. Knows sockets only as
something to write to; `ledger.writing.channel` owns them.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import NamedTuple

# One turn of the event loop copies no more than this to the kernel: about 0.1 ms.
_TURN_BYTES = 128 << 10


class Entry(NamedTuple):
    """A frame, and the number of the request that waits for its answer (0: nobody)."""

    data: bytes
    number: int


class Backlog:
    """The queue.

    Args:
        max_bytes: most bytes of frames in memory, sent or not.
        keep: keep frames until they are acknowledged; otherwise they are forgotten once sent.
    """

    def __init__(self, max_bytes: int, *, keep: bool) -> None:
        self._max_bytes, self._keep = max_bytes, keep
        self._sent: deque[Entry] = deque()
        self._waiting: deque[Entry] = deque()
        self._sent_of_first = 0  # bytes
        self._on_the_way = 0  # frames sent on this connection that are not acknowledged
        self._acknowledged_here = 0  # on this connection
        self.bytes = 0

    @property
    def waiting(self) -> int:
        """Frames that are not sent yet."""
        return len(self._waiting)

    @property
    def records(self) -> int:
        """Frames that are not known to be committed."""
        return len(self._waiting) + self._on_the_way

    @property
    def kept(self) -> int:
        """Frames in memory."""
        return len(self._waiting) + len(self._sent)

    def put(self, data: bytes, number: int) -> bool:
        """Add a frame; False where there is no room."""
        if self.bytes + len(data) > self._max_bytes:
            return False
        self._waiting.append(Entry(data, number))
        self.bytes += len(data)
        return True

    def send(self, sock: socket.socket) -> bool:
        """Write what a non-blocking socket takes, up to one turn's worth; whether all is sent.

        Raises:
            OSError: the connection is gone.
        """
        turn = 0
        try:
            while self._waiting and turn < _TURN_BYTES:
                first = self._waiting[0]
                rest = memoryview(first.data)[self._sent_of_first :][:_TURN_BYTES]
                sent = sock.send(rest)
                turn += sent
                self._sent_of_first += sent
                if self._sent_of_first == len(first.data):
                    self._whole_first_is_sent()
        except (BlockingIOError, InterruptedError):
            pass
        return not self._waiting

    def _whole_first_is_sent(self) -> None:
        entry = self._waiting.popleft()
        self._sent_of_first = 0
        self._on_the_way += 1
        if self._keep:
            self._sent.append(entry)
        else:
            self.bytes -= len(entry.data)

    def acknowledge(self, up_to: int) -> int:
        """Forget the frames up to the number `up_to` of this connection; returns how many."""
        done = min(up_to - self._acknowledged_here, self._on_the_way)
        if done <= 0:
            return 0
        self._acknowledged_here += done
        self._on_the_way -= done
        if self._keep:
            for _ in range(done):
                self.bytes -= len(self._sent.popleft().data)
        return done

    def disconnected(self) -> tuple[int, int]:
        """All that is kept has to be sent again.

        Returns:
            How many frames were sent and not acknowledged: those that are kept, those that
            are not.
        """
        kept = len(self._sent)
        forgotten = self._on_the_way - kept
        self._sent.extend(self._waiting)
        self._waiting, self._sent = self._sent, deque()
        self._sent_of_first = self._on_the_way = self._acknowledged_here = 0
        return kept, forgotten

    def drop_first(self) -> Entry:
        """Give up the first frame; only while disconnected."""
        entry = self._waiting.popleft()
        self.bytes -= len(entry.data)
        return entry

    def numbers(self) -> set[int]:
        """The requests whose frames are still here."""
        return {entry.number for part in (self._sent, self._waiting) for entry in part} - {0}
