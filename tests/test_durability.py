"""The three levels of `ledger.durability`, each as `ledger.writing.writer` puts it in words.

`disk` is judged by the system calls of the real writer, since no test can cut the power.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MakeSettings
from tiny import write_config
from writers import LIMIT, channel_to, feedback, ids, read_rows, ready, record, until

from ledger.settings import Settings
from ledger.writing.backlog import Backlog
from ledger.writing.channel import WriterUnavailable
from ledger.writing.frames import Frames, frame

MakeConfig = Callable[[str], tuple[Settings, Path]]


@pytest.fixture
def at(make_settings: MakeSettings, tmp_path: Path) -> MakeConfig:
    """Settings of a level, and their file."""

    def make(durability: str, flush_ms: float = 20) -> tuple[Settings, Path]:
        ledger = {"lock_seconds": 0.3, "flush_ms": flush_ms, "durability": durability}
        settings = make_settings(ledger=ledger)
        return settings, write_config(settings, tmp_path / "config.yaml")

    return make


# -- fast --------------------------------------------------------------------------------


def test_fast_loses_at_most_the_last_flush_and_the_pipe_when_the_writer_is_killed(
    at: MakeConfig,
) -> None:
    settings, config = at("fast")

    async def scenario() -> int:
        async with channel_to(config, keep=False) as channel:
            for number in range(100):
                channel.send(["row", record(f"flushed-{number}")])
            await until(lambda: channel.acknowledged == 100, "no flush")
            assert channel.backlog_bytes == 0  # nothing is kept here
            assert channel.writer_pid is not None
            os.kill(channel.writer_pid, signal.SIGSTOP)  # what comes now is in the pipe
            for number in range(10):
                channel.send(["row", record(f"piped-{number}")])
            os.kill(channel.writer_pid, signal.SIGKILL)
            await until(lambda: channel.restarts == 1, "its death was not noticed")
            assert channel.unconfirmed == 10  # told, not hidden
            channel.send(["row", record("after")])
            assert (await feedback(channel, "after"))[0] == 200
            return channel.dropped

    assert asyncio.run(scenario()) == 0
    assert ids(read_rows(settings)) == [*(f"flushed-{number}" for number in range(100)), "after"]


def test_fast_flushes_within_its_interval(at: MakeConfig) -> None:
    settings, config = at("fast", flush_ms=200)

    async def scenario() -> None:
        async with channel_to(config, keep=False) as channel:
            await ready(channel)
            before = channel.acknowledged
            started = time.monotonic()
            channel.send(["row", record("r1")])
            await until(lambda: channel.acknowledged > before, "no flush")
            assert 0.15 < time.monotonic() - started < 5
            assert ids(read_rows(settings)) == ["r1"]

    asyncio.run(scenario())


def test_fast_acknowledges_feedback_only_when_it_survives_a_kill(at: MakeConfig) -> None:
    settings, config = at("fast", flush_ms=10_000)

    async def scenario() -> None:
        async with channel_to(config, keep=False) as channel:
            channel.send(["row", record("r1")])
            assert (await feedback(channel, "r1"))[0] == 200
            assert channel.writer_pid is not None
            os.kill(channel.writer_pid, signal.SIGKILL)
            await until(lambda: channel.restarts == 1, "its death was not noticed")
            assert (await feedback(channel, "r1"))[1]["duplicate"] is True

    asyncio.run(scenario())
    assert ids(read_rows(settings)) == ["r1"]


def test_feedback_that_a_writer_died_with_is_refused_at_once(at: MakeConfig) -> None:
    _, config = at("fast")

    async def scenario() -> None:
        async with channel_to(config, keep=False) as channel:
            await ready(channel)
            assert channel.writer_pid is not None
            os.kill(channel.writer_pid, signal.SIGSTOP)
            asked = asyncio.create_task(feedback(channel, "r1"))
            await until(lambda: channel.backlog_records > 0, "it was not sent")
            os.kill(channel.writer_pid, signal.SIGKILL)
            with pytest.raises(WriterUnavailable, match="ended"):
                await asked

    asyncio.run(scenario())


# -- process -----------------------------------------------------------------------------


def test_process_loses_nothing_when_the_writer_is_killed(at: MakeConfig) -> None:
    settings, config = at("process", flush_ms=10_000)  # nothing is committed before the kill

    async def scenario() -> None:
        async with channel_to(config) as channel:
            await ready(channel)
            for number in range(100):
                channel.send(["row", record(f"r{number}")])
            await until(lambda: channel.backlog_records == 100, "they were not sent")
            assert channel.backlog_bytes > 0
            assert channel.writer_pid is not None
            os.kill(channel.writer_pid, signal.SIGKILL)
            await until(lambda: channel.acknowledged == 101, "they were not sent again")
            assert channel.backlog_bytes == 0
            assert (channel.dropped, channel.unconfirmed) == (0, 0)

    asyncio.run(scenario())
    assert ids(read_rows(settings)) == [f"r{number}" for number in range(100)]


def test_process_keeps_a_row_once_that_was_committed_and_not_acknowledged(at: MakeConfig) -> None:
    """The writer dies between its commit and its word."""
    settings, config = at("process")

    async def scenario() -> None:
        async with channel_to(config) as channel:
            await ready(channel)
            await until(lambda: channel.acknowledged == 1, "no acknowledgement")
            channel.send(["row", record("r1")])
            # Its word comes, and is lost: this loop does not read it.
            assert channel._socket is not None
            words, done = Frames(), 0
            while done < 2:
                assert select.select([channel._socket], [], [], LIMIT)[0], "no word"
                for word in words.feed(channel._socket.recv(1 << 16)):
                    done = word[1] if word[0] == "ack" else done
            assert ids(read_rows(settings)) == ["r1"]
            assert channel.acknowledged == 1
            assert channel.writer_pid is not None
            os.kill(channel.writer_pid, signal.SIGKILL)
            await until(lambda: channel.acknowledged == 2, "it was not sent again")

    asyncio.run(scenario())
    assert ids(read_rows(settings)) == ["r1"]


SERVER = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from writers import feedback, record, until
from ledger.writing.channel import Channel

async def main():
    channel = Channel(Path(sys.argv[1]), 1 << 26)
    channel.start(asyncio.get_running_loop())
    for number in range(500):
        assert channel.send(["row", record(f"r{number}")])
    await until(lambda: channel.acknowledged == 500, "not acknowledged")
    assert (await feedback(channel, "r499"))[0] == 200
    print(channel.writer_pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_what_was_acknowledged_survives_the_death_of_both(at: MakeConfig, durability: str) -> None:
    settings, config = at(durability)
    command = [sys.executable, "-c", SERVER, str(config), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        writer = int(server.stdout.readline())
        os.kill(writer, signal.SIGKILL)
        server.kill()
    assert ids(read_rows(settings)) == [f"r{number}" for number in range(500)]


# -- disk --------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace to see the system calls")
@pytest.mark.parametrize(("durability", "synced"), [("process", False), ("disk", True)])
def test_only_disk_syncs_a_commit_before_its_acknowledgement(
    at: MakeConfig, tmp_path: Path, durability: str, synced: bool
) -> None:
    settings, config = at(durability)
    read_rows(settings)  # makes the ledger: what that syncs is not looked at

    async def scenario() -> None:
        async with channel_to(config) as channel:
            await ready(channel)
            trace = tmp_path / "trace"
            command = ["strace", "-f", "-y", "-o", str(trace), "-p", str(channel.writer_pid)]
            command += ["-e", "trace=fsync,fdatasync,sendto,pwrite64"]
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
                assert tracer.stderr is not None
                if "attached" not in (said := tracer.stderr.readline()):
                    pytest.skip(f"no process may be traced here: {said}")
                channel.send(["row", record("r1")])
                await until(lambda: channel.acknowledged == 2, "no acknowledgement")
                tracer.send_signal(signal.SIGINT)
                tracer.wait(LIMIT)
            calls = re.findall(
                r"(pwrite64|fsync|fdatasync|sendto)\((\d+<[^>]*>)", trace.read_text()
            )
            wal = [name for name, where in calls if name == "sendto" or where.endswith("-wal>")]
            assert wal[-1] == "sendto"
            before = [name for name in wal if name != "sendto"]
            assert "pwrite64" in before
            assert (before[-1] in ("fsync", "fdatasync")) is synced

    asyncio.run(scenario())


# -- the queue itself --------------------------------------------------------------------


class Pipe:
    """A socket that takes so many bytes."""

    def __init__(self, room: int) -> None:
        self.room, self.got = room, b""

    def send(self, data: bytes | memoryview) -> int:
        taken = bytes(data[: self.room])
        if not taken:
            raise BlockingIOError
        self.room -= len(taken)
        self.got += taken
        return len(taken)


def test_a_lost_connection_sends_everything_unacknowledged_again_in_order() -> None:
    frames = [frame(["row", number]) for number in range(10)]
    backlog = Backlog(1 << 20, keep=True)
    for data in frames:
        assert backlog.put(data, 0)
    first = Pipe(len(frames[0]) * 6 + 2)  # the seventh is cut
    assert not backlog.send(first)  # type: ignore[arg-type]
    assert backlog.acknowledge(4) == 4
    assert backlog.acknowledge(4) == 0
    assert backlog.acknowledge(99) == 2  # no more than were sent
    assert backlog.disconnected() == (0, 0)
    second = Pipe(1 << 20)
    assert backlog.send(second)  # type: ignore[arg-type]
    assert second.got == b"".join(frames[6:])
    assert backlog.disconnected() == (4, 0)
    assert backlog.acknowledge(4) == 0  # of the connection before
    assert backlog.drop_first().data == frames[6]
    third = Pipe(1 << 20)
    assert backlog.send(third)  # type: ignore[arg-type]
    assert third.got == b"".join(frames[7:])
    assert backlog.acknowledge(3) == 3
    assert (backlog.bytes, backlog.records, backlog.kept) == (0, 0, 0)


def test_one_turn_of_the_loop_sends_no_more_than_a_bound() -> None:
    data = frame(["row", "x" * 1_000_000])
    backlog = Backlog(1 << 22, keep=False)
    assert backlog.put(data, 0)
    pipe = Pipe(1 << 22)
    turns = 1
    while not backlog.send(pipe):  # type: ignore[arg-type]
        assert len(pipe.got) <= turns << 17
        turns += 1
    assert pipe.got == data


def test_unacknowledged_bytes_count_against_the_bound() -> None:
    data = frame(["row", "x" * 1000])
    backlog = Backlog(3 * len(data), keep=True)
    for _ in range(3):
        assert backlog.put(data, 0)
    assert backlog.send(Pipe(1 << 20))  # type: ignore[arg-type]
    assert not backlog.put(data, 0)
    backlog.acknowledge(1)
    assert backlog.put(data, 0)
