"""The way from a server to the disk, in real processes: nothing accepted is lost, nothing waits.

Every test starts the writer as the server does. What they wait for is something that happens,
with a limit after which the test fails.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from conftest import MakeSettings
from writers import LIMIT, channel_to, ended, feedback, ids, read_rows, ready, record, until

from flywheel.server import losses
from ledger.keys.vault import Vault
from ledger.records import Interaction
from ledger.settings import Settings
from ledger.store import Store
from ledger.writing.channel import Channel, WriterUnavailable


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(ledger={"lock_seconds": 0.3, "flush_ms": 20})


@pytest.fixture
def rows(settings: Settings) -> Callable[[], list[Interaction]]:
    return partial(read_rows, settings)


async def works(channel: Channel) -> None:
    await until(lambda: channel.failing is None, "the ledger is still failing")


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
        reasons = [given.reason for _, given in store.feedback()]
    assert [None if reason is None else reason[:11] for reason in reasons] == [
        "I am [EMAIL",
        "I am [EMAIL",
        None,
    ]
    data = b"".join(p.read_bytes() for p in (tmp_path / "var").glob("ledger.db*"))
    assert b"example.com" not in data


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
    assert row.metadata is not None
    assert row.metadata["n"] in (str(10**30), "[NUMBER_1]")  # a text, and so perhaps redacted


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
            with pytest.raises(WriterUnavailable, match="0644"):
                await feedback(channel, "early")
            key.chmod(0o600)
            await works(channel)
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
                await until(lambda: channel.failing is not None, "nobody told the server")
                started = time.monotonic()
                with pytest.raises(WriterUnavailable, match="locked"):
                    await feedback(channel, "r1")
                assert time.monotonic() - started < 0.1  # known to be failing: told at once
                other.rollback()
            await works(channel)
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
            await until(lambda: channel.failing is not None, "nobody told the server")
            room(pid, unlimited)
            await works(channel)
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


def test_what_was_lost_is_counted_across_writers_and_put_in_words(config: Path) -> None:
    async def scenario() -> None:
        async with channel_to(config) as channel:
            for life in range(2):
                channel.send(["row", record(f"r{life}")])
                channel.send(["row", record("bad", prompt_tokens=-1)])
                assert (await feedback(channel, f"r{life}"))[0] == 200
                await until(lambda: channel.backlog_records == 0, "not acknowledged")
                assert channel.writer_pid is not None
                os.kill(channel.writer_pid, signal.SIGKILL)
                await until(lambda: channel.restarts > life, "its death was not noticed")  # noqa: B023
            await until(lambda: channel.numbers.ready, "no new writer")
            assert (channel.numbers.rows, channel.numbers.malformed) == (2, 2)

    asyncio.run(scenario())
    numbers = {"malformed_records": 2.0, "dropped_records": 0.0, "writer_up": 1.0}
    assert losses(numbers) == ["2 record(s) left out by the log's writer"]
    failing = {"ledger_failing_seconds": 3.2, "backlog_records": 7.0, "writer_up": 1.0}
    assert losses(failing) == ["the log cannot be written for 3 s; 7 record(s) wait"]
    assert losses({"writer_up": 0.0}) == ["the log's writer is not up"]


# -- what goes wrong with the server -----------------------------------------------------


SERVER = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from writers import record, until
from ledger.writing.channel import Channel

async def main():
    channel = Channel(Path(sys.argv[1]), 1 << 26)
    channel.start(asyncio.get_running_loop())
    for number in range(3000):
        assert channel.send(["row", record(f"r{number}")])
        if number % 100 == 0:
            await asyncio.sleep(0)
    await until(lambda: not channel._backlog.waiting, "not all was taken")
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
