"""The way from a server to the disk, in real processes: nothing accepted is lost, nothing waits.

Every test starts the writer as the server does. What they wait for is something that happens,
with a limit after which the test fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeSettings
from tiny import write_config

from ledger import writer
from ledger.channel import Channel, Frames, WriterUnavailable, frame
from ledger.errors import LedgerLocked
from ledger.records import Interaction
from ledger.settings import Settings
from ledger.store import Store
from ledger.vault import Vault
from ledger.writer import Writer

LIMIT = 30.0  # seconds


def record(request_id: str, **fields: Any) -> dict[str, Any]:
    """An answer as `serve.capture` hands it over."""
    return {
        "request_id": request_id,
        "choice": 0,
        "prompt_index": 0,
        "ts": 1.0,
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


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(ledger={"lock_seconds": 0.3, "flush_ms": 20})


@pytest.fixture
def config(settings: Settings, tmp_path: Path) -> Path:
    return write_config(settings, tmp_path / "config.yaml")


@pytest.fixture
def rows(settings: Settings, tmp_path: Path) -> Callable[[], list[Interaction]]:
    """Reads what is on the disk, as another process would."""

    def read() -> list[Interaction]:
        store = Store.open(settings)
        with closing(store):
            return list(store.interactions())

    return read


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


@asynccontextmanager
async def channel_to(config: Path, max_bytes: int = 1 << 25) -> AsyncIterator[Channel]:
    channel = Channel(config, max_bytes)
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


# -- rows and feedback -------------------------------------------------------------------


def test_rows_and_feedback_arrive(
    config: Path, rows: Callable[[], list[Interaction]], settings: Settings, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with channel_to(config) as channel:
            assert channel.send(["row", record("r1")])
            assert channel.send(["row", record("r2", choice=1, user=None, session="s")])
            status, said = await feedback(channel, "r1", user="bob", reason="I am bob@example.com")
            # Acknowledged means committed: another process can read it now.
            store = Store.open(settings)
            with closing(store):
                assert [f.feedback_id for _, f in store.feedback()] == [said["id"]]
            assert (status, said["row"], said["duplicate"]) == (200, "r1", False)
            again = await feedback(channel, "r1", user="bob", reason="I am bob@example.com")
            assert again == (200, {**said, "duplicate": True})
            other = await feedback(channel, "r1", user="eve", reason="I am bob@example.com")
            assert other[1]["duplicate"] is False
            assert (await feedback(channel, "r2", choice=1))[1]["row"] == "r2#1"
            assert (await feedback(channel, "r2"))[0] == 404
            assert (channel.handed_over, channel.dropped, channel.restarts) == (7, 0, 0)

    asyncio.run(scenario())
    first, second = rows()
    vault = Vault.open(settings.privacy.key_file)
    assert (first.subject, first.session) == (vault.subject("ada@example.com"), None)
    assert (second.subject, second.session) == (None, vault.session("s"))
    assert first.messages == [{"role": "user", "content": "Where is it?"}]
    assert (first.sampling, first.response) == ({"temperature": 0.5}, "billing")
    store = Store.open(settings)
    with closing(store):
        assert len(store.feedback()) == 3
    data = b"".join(p.read_bytes() for p in (tmp_path / "var").glob("ledger.db*"))
    assert b"example.com" not in data
    assert b"I am [EMAIL]" in data


def test_feedback_may_overtake_its_row_and_an_unknown_id_is_told_after_a_second(
    config: Path,
) -> None:
    async def scenario() -> None:
        async with channel_to(config) as channel:
            await ready(channel)
            early = asyncio.create_task(feedback(channel, "late"))
            await asyncio.sleep(0.1)
            assert not early.done()
            channel.send(["row", record("late")])
            assert (await early)[0] == 200
            started = time.monotonic()
            assert await feedback(channel, "nobody") == (404, {"id": "nobody"})
            assert 0.9 < time.monotonic() - started < 5

    asyncio.run(scenario())


def test_what_json_can_say_and_messagepack_cannot_arrives(
    config: Path, rows: Callable[[], list[Interaction]]
) -> None:
    body = {"messages": [{"role": "user", "content": "half \ud800"}], "metadata": {"n": 10**30}}

    async def scenario() -> None:
        async with channel_to(config) as channel:
            assert channel.send(["row", record("r1", body=body)])

    asyncio.run(scenario())
    (row,) = rows()
    assert row.messages == [{"role": "user", "content": "half ?"}]
    assert row.metadata == {"n": str(10**30)}


# -- what goes wrong with the writer -----------------------------------------------------


def test_a_killed_writer_is_started_again_and_what_waited_arrives(
    config: Path, rows: Callable[[], list[Interaction]]
) -> None:
    async def scenario() -> None:
        async with channel_to(config) as channel:
            channel.send(["row", record("before")])
            assert (await feedback(channel, "before"))[0] == 200
            killed = channel.writer_pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            await until(lambda: channel.restarts == 1, "its death was not noticed")
            for number in range(50):
                assert channel.send(["row", record(f"after-{number}")])
            assert (await feedback(channel, "after-49"))[0] == 200
            assert channel.writer_pid != killed

    asyncio.run(scenario())
    assert ids(rows()) == ["before", *(f"after-{number}" for number in range(50))]


def test_a_server_that_ends_while_its_writer_is_dead_loses_nothing(
    config: Path, rows: Callable[[], list[Interaction]]
) -> None:
    async def scenario() -> None:
        async with channel_to(config) as channel:
            await ready(channel)
            assert channel.writer_pid is not None
            os.kill(channel.writer_pid, signal.SIGKILL)
            await until(lambda: channel.restarts == 1, "its death was not noticed")
            channel.send(["row", record("last words")])

    asyncio.run(scenario())
    assert ids(rows()) == ["last words"]


def test_a_writer_that_cannot_open_the_ledger_waits_with_what_was_sent(
    config: Path, rows: Callable[[], list[Interaction]], settings: Settings
) -> None:
    key = settings.privacy.key_file
    Vault.open(key)
    key.chmod(0o644)

    async def scenario() -> None:
        async with channel_to(config) as channel:
            channel.send(["row", record("early")])
            with pytest.raises(WriterUnavailable, match="did not answer within"):
                await channel.request("feedback", {"id": "early", "rating": "up"}, seconds=1.5)
            key.chmod(0o600)
            assert (await feedback(channel, "early"))[0] == 200
            assert channel.restarts == 0

    asyncio.run(scenario())
    assert ids(rows()) == ["early"]


def test_a_locked_ledger_refuses_feedback_and_keeps_rows(
    config: Path, rows: Callable[[], list[Interaction]], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with channel_to(config) as channel:
            await ready(channel)
            with closing(sqlite3.connect(tmp_path / "var/ledger.db")) as other:
                other.execute("BEGIN IMMEDIATE")
                channel.send(["row", record("r1")])
                status, said = await feedback(channel, "r1")
                assert status == 503
                assert "locked" in said["reason"]
                channel.send(["row", record("r2")])
                other.rollback()
            assert (await feedback(channel, "r2"))[0] == 200
            assert (await feedback(channel, "r1"))[1]["duplicate"] is False  # it was not stored

    asyncio.run(scenario())
    assert ids(rows()) == ["r1", "r2"]


def test_a_full_disk_loses_nothing_that_was_acknowledged(
    config: Path, rows: Callable[[], list[Interaction]]
) -> None:
    def room(pid: int, limit: int) -> None:
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, hard))

    async def scenario() -> None:
        async with channel_to(config) as channel:
            channel.send(["row", record("before")])
            assert (await feedback(channel, "before"))[0] == 200
            pid = channel.writer_pid
            assert pid is not None
            unlimited, _ = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            room(pid, 4096)  # no file may grow beyond it: writing fails as on a full disk
            channel.send(["row", record("during", response="x" * 50_000)])
            assert (await feedback(channel, "during"))[0] == 503
            for number in range(20):
                assert channel.send(["row", record(f"during-{number}", response="x" * 50_000)])
            assert "before" in ids(rows())
            room(pid, unlimited)
            assert (await feedback(channel, "during-19"))[0] == 200
            assert channel.writer_pid == pid

    asyncio.run(scenario())
    assert ids(rows()) == ["before", "during", *(f"during-{number}" for number in range(20))]


def test_a_full_buffer_drops_and_counts_and_never_waits(
    config: Path, rows: Callable[[], list[Interaction]]
) -> None:
    took: list[float] = []

    async def scenario() -> tuple[int, int]:
        async with channel_to(config, max_bytes=2 << 20) as channel:
            await ready(channel)
            assert channel.writer_pid is not None
            os.kill(channel.writer_pid, signal.SIGSTOP)
            try:
                for number in range(1000):
                    started = time.monotonic()
                    channel.send(["row", record(f"r{number}", response="x" * 10_000)])
                    took.append(time.monotonic() - started)
                with pytest.raises(WriterUnavailable, match="full"):
                    await channel.request(
                        "feedback", {"id": "r0", "reason": "y" * 20_000}, seconds=1
                    )
            finally:
                os.kill(channel.writer_pid, signal.SIGCONT)
            return channel.handed_over - 1, channel.dropped - 1  # less the feedback

    handed_over, dropped = asyncio.run(scenario())
    # One that waited for the writer would wait for ever; the machine may stop us for a moment.
    assert sorted(took)[-5] < 0.05
    assert handed_over + dropped == 1000
    assert dropped > 100
    found = rows()
    assert len(found) == handed_over
    assert found[0].row_id == "r0"


# -- what goes wrong with the server -----------------------------------------------------


def ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"  # nobody has asked for its exit status yet


SERVER = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_writer import record, until
from ledger.channel import Channel

async def main():
    channel = Channel(Path(sys.argv[1]), 1 << 26)
    channel.start(asyncio.get_running_loop())
    for number in range(3000):
        assert channel.send(["row", record(f"r{number}")])
        if number % 100 == 0:
            await asyncio.sleep(0)
    await until(lambda: not channel._waiting, "not all was taken")
    print(channel.writer_pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_a_killed_server_s_writer_commits_what_it_was_sent_and_ends(
    config: Path, rows: Callable[[], list[Interaction]]
) -> None:
    command = [sys.executable, "-c", SERVER, str(config), str(Path(__file__).parent)]
    server = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60)
    assert server.returncode == -signal.SIGKILL
    pid = int(server.stdout)
    deadline = time.monotonic() + LIMIT
    while not ended(pid):
        assert time.monotonic() < deadline, "the writer goes on"
        time.sleep(0.02)
    assert ids(rows()) == [f"r{number}" for number in range(3000)]


class Raw:
    """A writer at the end of a plain socket."""

    def __init__(self, config: Path) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(LIMIT)
        with theirs:
            command = [sys.executable, "-m", "ledger.writer", "--config", str(config)]
            self.process = subprocess.Popen(
                [*command, "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
                text=True,
            )
        self.frames = Frames()

    def answer(self) -> tuple[int, int, Any]:
        while True:
            data = self.socket.recv(1 << 16)
            assert data, "the writer ended"
            for found in self.frames.feed(data):
                number, status, body = found
                return number, status, body

    def end(self) -> tuple[int, str]:
        """Close our end; returns its exit status and what it said."""
        self.socket.shutdown(socket.SHUT_WR)
        _, said = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, said


@pytest.fixture
def raw(config: Path) -> Iterator[Raw]:
    started = Raw(config)
    yield started
    started.socket.close()
    if started.process.poll() is None:
        started.process.kill()
    started.process.communicate()


def test_malformed_frames_are_left_out_and_the_others_kept(
    raw: Raw, rows: Callable[[], list[Interaction]]
) -> None:
    secret = "what somebody typed"
    junk = [
        b"\x00\x00\x00\x03\xc1\xc1\xc1",
        b"\x00\x00\x00\x00",
        *map(
            frame,
            [
                7,
                [],
                {"row": 1},
                None,
                ["row"],
                ["row", None],
                ["row", {}],
                ["row", record("a", body=None, api="telepathy")],
                ["row", record("b", surprise=secret)],
                ["row", record("c", prompt_tokens=-1)],
                ["row", record("d", user={"a": secret})],
                ["nonsense", secret],
                ["feedback", 1, {"id": ""}],
                ["feedback"],
            ],
        ),
    ]
    for data in [frame(["row", record("first")]), *junk, frame(["row", record("last")])]:
        raw.socket.sendall(data)
    raw.socket.sendall(frame(["feedback", 5, {"id": "last", "rating": "up"}]))
    assert raw.answer()[:2] == (5, 200)
    status, said = raw.end()
    assert status == 0
    assert f"{len(junk) - 1} records were left out" in said  # a word that it does not know is none
    assert secret not in said
    assert "Traceback" not in said
    assert ids(rows()) == ["first", "last"]


def test_a_row_that_cannot_be_stored_does_not_take_the_others_with_it(
    raw: Raw, rows: Callable[[], list[Interaction]]
) -> None:
    batch = [
        record("r1"),
        record("no time", ts=math.nan),
        record("r2"),
        record("too many", prompt_tokens=2**63),
        record("r3"),
    ]
    raw.socket.sendall(b"".join(frame(["row", fields]) for fields in batch))
    raw.socket.sendall(frame(["feedback", 1, {"id": "r3", "rating": "up"}]))
    raw.socket.sendall(frame(["feedback", 2, {"id": "too many", "rating": "up"}]))
    assert raw.answer()[:2] == (1, 200)
    assert raw.answer()[:2] == (2, 404)
    status, said = raw.end()
    assert status == 0
    assert "2 records were left out" in said
    assert ids(rows()) == ["r1", "r2", "r3"]


def test_signals_do_not_cut_the_log_short(raw: Raw, rows: Callable[[], list[Interaction]]) -> None:
    raw.socket.sendall(frame(["row", record("r1")]))
    raw.socket.sendall(frame(["feedback", 1, {"id": "r1", "rating": "up"}]))
    assert raw.answer()[:2] == (1, 200)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        raw.process.send_signal(name)
    raw.socket.sendall(frame(["row", record("r2")]))
    assert raw.end() == (0, "")
    assert ids(rows()) == ["r1", "r2"]


@pytest.mark.parametrize("reason", ["locked", "no key"])
def test_a_writer_without_a_server_gives_up_in_the_end(
    config: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reason: str
) -> None:
    monkeypatch.setattr(writer, "_GIVE_UP_SECONDS", 0.5)
    Store.open(settings).close()
    ours, theirs = socket.socketpair()
    ours.sendall(frame(["row", record("r1")]))
    ours.close()
    with closing(sqlite3.connect(tmp_path / "var/ledger.db")) as other, theirs:
        if reason == "locked":
            other.execute("BEGIN IMMEDIATE")
        else:
            settings.privacy.key_file.parent.mkdir()
            settings.privacy.key_file.write_text("")
        assert writer.run(config, theirs) == 1


def test_frames_come_out_however_the_stream_is_cut() -> None:
    messages = [["row", {"n": n, "text": "ü" * n}] for n in range(40)]
    stream = b"".join(map(frame, messages))
    for step in (1, 3, 7, 64, len(stream)):
        frames = Frames()
        found = []
        for start in range(0, len(stream), step):
            found += frames.feed(stream[start : start + step])
        assert found == messages
        assert frames.malformed == 0


# -- one batch, step by step -------------------------------------------------------------


class LockedAt(Store):
    """A ledger that another process holds at some of our transactions."""

    locked_at: tuple[int, ...] = ()
    transactions = 0

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        self.transactions += 1
        if self.transactions in self.locked_at:
            raise LedgerLocked("locked for this once")
        with super().transaction() as connection:
            yield connection


def test_a_lock_while_rows_are_stored_one_by_one_loses_none(settings: Settings) -> None:
    store = LockedAt.open(settings)
    answers: list[tuple[int, int]] = []
    one = Writer(
        settings,
        store,
        Vault.open(settings.privacy.key_file),
        lambda number, status, body: answers.append((number, status)),
    )
    with closing(store):
        for name in ("r1", "r2", "r3"):
            one.take(["row", record(name)])
        one.take(["row", record("bad", ts=math.nan)])
        for number, name in enumerate(("r1", "unknown", "r3")):
            one.take(["feedback", number, {"id": name, "rating": "up"}])
        # All at once fails for the bad one; then r1, and the ledger is locked at r2.
        store.locked_at = (3, 7)
        assert not one.commit()
        assert answers == []
        assert ids(list(store.interactions())) == ["r1"]
        # Once more: all at once, r2, r3, locked at the bad one.
        assert not one.commit()
        assert one.commit()
        assert ids(list(store.interactions())) == ["r1", "r2", "r3"]
        assert one.malformed == 1
        assert one.failing_since is None
        assert answers == [(0, 200), (2, 200)]
        assert one.pending  # the unknown one may still come
