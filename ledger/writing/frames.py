"""What goes over the socket between a server and its writer: frames, and what they say.

A frame is a 4-byte length and a MessagePack array.

    to the writer     ["row", fields]
                      ["feedback", number, fields]
    from the writer   ["ack", up_to, numbers]            numbers: see `Numbers`
                      ["answer", number, status, body]   to a piece of feedback, as HTTP has it

Frames to the writer bear no number: both ends count them on each connection, from 1, a
malformed one too, and `up_to` means that so many need not be sent again.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

_LENGTH = struct.Struct(">I")


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """How the writer is doing. Counts are since its own start.

    Attributes:
        ready: whether the ledger is open and frames are read.
        rows: answers stored for the first time.
        malformed: records left out, because they make no sense or no table takes them.
        redaction_failures: rows and feedback whose text was not kept, because redaction
            failed or took too long.
        backlog: records read and not committed yet.
        failing: why the ledger cannot be written now, or None where it can.
        failing_since: seconds since the epoch, or None.
    """

    ready: bool = False
    rows: int = 0
    malformed: int = 0
    redaction_failures: int = 0
    backlog: int = 0
    failing: str | None = None
    failing_since: float | None = None


def numbers_from(value: Any) -> Numbers:
    """Read what `["ack", …]` brought."""
    return msgspec.convert(value, Numbers)


def frame(message: Any) -> bytes:
    """One message as bytes on the wire."""
    try:
        data = msgspec.msgpack.encode(message)
    except (UnicodeEncodeError, OverflowError):  # JSON says more than MessagePack can
        data = msgspec.msgpack.encode(_sayable(message))
    return _LENGTH.pack(len(data)) + data


def message_of(data: bytes) -> Any:
    """The message of one whole frame that `frame` made."""
    return msgspec.msgpack.decode(data[_LENGTH.size :])


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
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Add bytes; return the messages that are complete now, None for a malformed frame."""
        self._buffer += data
        found: list[Any] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            try:
                found.append(msgspec.msgpack.decode(self._buffer[start + _LENGTH.size : end]))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                found.append(None)
            start = end
        del self._buffer[:start]
        return found
