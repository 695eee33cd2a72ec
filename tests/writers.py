"""What the tests of the way to the disk share: records, and real writer processes."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ledger.writing.channel import Channel
from ledger.writing.frames import Frames, Numbers, numbers_from
from ledger.writing.spawn import WRITER

if TYPE_CHECKING:  # a server's end that is started again and again has to be quick
    from ledger.records import Interaction
    from ledger.settings import Settings

LIMIT = 30.0  # seconds
NOW = time.time()  # of the rows: the writer lets go of old ones


def record(request_id: str, **fields: Any) -> dict[str, Any]:
    """An answer as `serve.capture` hands it over."""
    return {
        "request_id": request_id,
        "choice": 0,
        "prompt_index": 0,
        "ts": NOW,
        "api": "chat",
        "alias": "support",
        "version": "support@v1",
        "arm": "live",
        "deployment": 1,
        "base_model": "base",
        "template_hash": "fw1:template:1",
        "body": {"messages": [{"role": "user", "content": "Where is it?"}], "temperature": 0.5},
        "response": "billing",
        "stored_text": True,
        "finish_reason": "stop",
        "mean_logprob": -0.5,
        "min_logprob": -1.0,
        "prompt_tokens": 4,
        "completion_tokens": 2,
        "ttft_ms": None,
        "latency_ms": 3.0,
        "user": "ada@example.com",
        "session": None,
        **fields,
    }


def row(row_id: str, ts: float = NOW, text: str = "billing") -> Interaction:
    """An answer as it is stored."""
    from ledger.records import Interaction

    return Interaction(
        row_id=row_id,
        request_id=row_id,
        choice=0,
        ts=ts,
        api="chat",
        alias="support",
        version="support@v1",
        arm="live",
        deployment=1,
        base_model="base",
        template_hash="fw1:template:1",
        messages=[{"role": "user", "content": "Where is it?"}],
        response=text,
        stored_text=True,
        finish_reason="stop",
        prompt_tokens=4,
        completion_tokens=2,
    )


def read_rows(settings: Settings) -> list[Interaction]:
    """What is on the disk, as another process would see it."""
    from ledger.store import Store

    store = Store.open(settings)
    with closing(store):
        return list(store.interactions())


async def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


@asynccontextmanager
async def channel_to(
    config: Path,
    max_bytes: int = 1 << 25,
    *,
    keep: bool = True,
    program: Sequence[str] = WRITER,
) -> AsyncIterator[Channel]:
    channel = Channel(config, max_bytes, keep=keep, program=program)
    channel.start(asyncio.get_running_loop())
    try:
        yield channel
    finally:
        channel.close(LIMIT)


async def ready(channel: Channel) -> None:
    """Wait until the writer answers."""
    status, _ = await channel.request("feedback", {"id": "?", "rating": "up"}, seconds=LIMIT)
    assert status == 404


async def feedback(channel: Channel, row_id: str, **fields: Any) -> tuple[int, Any]:
    given = {"id": row_id, "rating": "up", **fields}
    return await channel.request("feedback", given, seconds=LIMIT)


def ids(found: list[Interaction]) -> list[str]:
    return [row.row_id for row in found]


def ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"  # nobody has asked for its exit status yet


class Raw:
    """A writer at the end of a plain socket."""

    def __init__(self, config: Path) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(LIMIT)
        with theirs:
            command = [sys.executable, "-m", "ledger.writing.writer", "--config", str(config)]
            self.process = subprocess.Popen(
                [*command, "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
                text=True,
            )
        self.frames = Frames()
        self.words: list[Any] = []
        self.numbers = Numbers()
        self.done = 0

    def word(self) -> Any:
        """Its next word; of an acknowledgement the numbers stay in `done` and `numbers`."""
        while not self.words:
            data = self.socket.recv(1 << 16)
            assert data, "the writer ended"
            self.words += self.frames.feed(data)
        word = self.words.pop(0)
        if word[0] == "ack":
            self.done, self.numbers = word[1], numbers_from(word[2])
        return word

    def answer(self) -> tuple[int, int, Any]:
        while (word := self.word())[0] != "answer":
            pass
        _, number, status, body = word
        return number, status, body

    def acknowledged(self, up_to: int) -> Numbers:
        while self.done < up_to:
            self.word()
        return self.numbers

    def end(self) -> tuple[int, str]:
        """Close our end; returns its exit status and what it said."""
        self.socket.shutdown(socket.SHUT_WR)
        _, said = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, said
