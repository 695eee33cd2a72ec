"""Faults, made for real: processes killed, disks full or read-only, clocks turned back."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from conftest import MakeSettings
from tiny import write_config
from writers import (
    LIMIT,
    channel_to,
    ended,
    feedback,
    ids,
    read_rows,
    ready,
    record,
    until,
)

from ledger.settings import Settings
from ledger.store import Store
from ledger.writing.channel import WriterUnavailable

HERE = Path(__file__).parent
KILLS = 21


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(ledger={"lock_seconds": 5, "flush_ms": 20})


# -- killed processes --------------------------------------------------------------------


class Journal:
    """What a server's end has noted."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.touch()

    def of(self, word: str) -> list[str]:
        lines = self.file.read_text().split("\n")[:-1]  # the last one may be half written
        return [what for kind, _, what in (line.partition(" ") for line in lines) if kind == word]


def test_nothing_acknowledged_is_lost_however_often_server_and_writer_are_killed(
    settings: Settings, config: Path, tmp_path: Path
) -> None:
    choose, journal = random.Random(17), Journal(tmp_path / "journal")
    server: subprocess.Popen[bytes] | None = None
    writers: list[int] = []
    try:
        for kill in range(KILLS):
            if server is None:
                command = [sys.executable, HERE / "server_end.py", config, journal.file, str(kill)]
                server = subprocess.Popen(list(map(str, command)))
            # Some rows of this life are acknowledged, so no row is blamed for the killing.
            before, deadline = len(journal.of("row")), time.monotonic() + LIMIT
            while len(journal.of("row")) < before + 10:
                assert time.monotonic() < deadline, "nothing is acknowledged any more"
                assert server.poll() is None
                time.sleep(0.01)
            time.sleep(choose.uniform(0, 0.05))
            writers = [int(pid) for pid in journal.of("writer")]
            victim = ("writer", "server", "both")[kill % 3]
            if victim != "writer":
                server.kill()
            if victim != "server":
                with suppress(ProcessLookupError):
                    os.kill(writers[-1], signal.SIGKILL)
            if victim != "writer":
                server.wait(LIMIT)
                server = None
    finally:
        if server is not None:
            server.kill()
            server.wait(LIMIT)
    writers = [int(pid) for pid in journal.of("writer")]
    deadline = time.monotonic() + LIMIT
    while not all(map(ended, writers)):
        assert time.monotonic() < deadline, "a writer goes on"
        time.sleep(0.02)
    acknowledged, given = journal.of("row"), journal.of("feedback")
    assert len(acknowledged) > KILLS * 10
    assert len(given) > KILLS / 2
    stored = ids(read_rows(settings))
    assert len(stored) == len(set(stored))
    assert set(acknowledged) <= set(stored)
    store = Store.open(settings)
    with closing(store):
        found = [one.feedback_id for _, one in store.feedback()]
        assert store.damaged == 0
    assert set(given) <= set(found)
    assert len(found) == len(set(found))


def test_a_row_that_kills_every_writer_is_given_up_and_only_that_one(
    settings: Settings, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = [sys.executable, str(HERE / "deadly_writer.py")]
    names = [f"r{number}" for number in range(10)]

    async def scenario() -> None:
        async with channel_to(config, program=program) as channel:
            await ready(channel)
            for name in [*names[:5], "deadly", *names[5:]]:
                channel.send(["row", record(name)])
            await until(lambda: channel.dropped == 1, "it is tried for ever")
            await until(lambda: channel.backlog_records == 0, "the others are not stored")
            # Once in a batch, and three times alone.
            assert channel.restarts == 4
            assert (await feedback(channel, "r9"))[0] == 200

    asyncio.run(scenario())
    assert ids(read_rows(settings)) == names
    assert "'deadly' is dropped" in caplog.text


def test_a_writer_that_never_starts_is_told_and_blamed_on_no_row(config: Path) -> None:
    async def scenario() -> None:
        async with channel_to(config, program=["/bin/false"]) as channel:
            channel.send(["row", record("r1")])
            await until(lambda: channel.failing is not None, "nobody was told")
            with pytest.raises(WriterUnavailable, match="times in a row"):
                await feedback(channel, "r1")
            assert channel.dropped == 0
            assert channel.backlog_records == 1

    asyncio.run(scenario())


# -- disks -------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB of its own."""
    where = tmp_path / "disk"
    where.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", where], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no disk can be mounted here: {made.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


@pytest.fixture
def on_small_disk(
    small_disk: Path, make_settings: MakeSettings, tmp_path: Path
) -> tuple[Settings, Path]:
    ledger = {"url": f"sqlite:///{small_disk}/ledger.db", "lock_seconds": 0.3, "flush_ms": 20}
    settings = make_settings(ledger=ledger)
    return settings, write_config(settings, tmp_path / "config.yaml")


def test_a_disk_that_fills_up_loses_nothing_acknowledged_and_goes_on_with_room(
    on_small_disk: tuple[Settings, Path], small_disk: Path
) -> None:
    settings, config = on_small_disk
    choose, accepted = random.Random(17), []

    async def scenario() -> None:
        async with channel_to(config, 256 << 10) as channel:
            await ready(channel)
            ballast = small_disk / "ballast"
            room = os.statvfs(small_disk)
            ballast.write_bytes(bytes(room.f_bavail * room.f_bsize - (400 << 10)))
            number = 0
            while channel.dropped == 0:  # through the full disk to full memory
                number += 1
                assert number < 10_000
                name, text = f"r{number}", choose.randbytes(2_500).hex()
                if channel.send(["row", record(name, response=text)]):
                    accepted.append(name)
                if channel.failing is None:  # not faster than a disk that is not full
                    await until(lambda: channel.backlog_bytes < 1 << 16 or channel.failing, "stuck")
            with pytest.raises(WriterUnavailable, match=r"full"):
                await feedback(channel, "r0")
            stored = ids(read_rows(settings))
            assert stored == accepted[: len(stored)]
            assert len(stored) >= channel.acknowledged - 1  # less the feedback
            assert len(stored) < len(accepted)
            ballast.unlink()
            await until(lambda: channel.backlog_records == 0, "it does not go on")
            assert channel.failing is None

    asyncio.run(scenario())
    assert ids(read_rows(settings)) == accepted
    store = Store.open(settings)
    with closing(store), store.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def test_a_disk_that_becomes_read_only_and_writable_again_loses_nothing(
    on_small_disk: tuple[Settings, Path], small_disk: Path
) -> None:
    settings, config = on_small_disk

    def remount(mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode},size=4m", small_disk], check=True)

    async def scenario() -> None:
        async with channel_to(config) as channel:
            channel.send(["row", record("before")])
            assert (await feedback(channel, "before"))[0] == 200
            assert channel.writer_pid is not None
            os.kill(channel.writer_pid, signal.SIGKILL)  # an open file would keep its right
            await until(lambda: channel.restarts == 1, "its death was not noticed")
            remount("ro")
            for number in range(20):
                assert channel.send(["row", record(f"r{number}")])
            await until(lambda: channel.failing is not None, "nobody was told")
            assert channel.dropped == 0
            remount("rw")
            await until(lambda: channel.backlog_records == 0, "it does not go on")
            assert channel.failing is None

    asyncio.run(scenario())
    assert ids(read_rows(settings)) == ["before", *(f"r{number}" for number in range(20))]


# -- clocks ------------------------------------------------------------------------------


def test_a_clock_that_goes_backwards_keeps_the_order_and_loses_nothing(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    keep = {"text_days": 0.5, "row_days": 0.5}
    settings = make_settings(
        ledger={"flush_ms": 20}, sampling={"hold_hours": 1}, retention={"sampled": keep}
    )
    config = write_config(settings, tmp_path / "config.yaml")
    program = [sys.executable, str(HERE / "turned_writer.py")]
    names = [f"r{number}" for number in range(30)]
    start = time.time()

    async def scenario() -> None:
        async with channel_to(config, program=program) as channel:
            await ready(channel)
            for number, name in enumerate(names):
                assert channel.send(["row", record(name, ts=start - number * 60)])
                assert (await feedback(channel, name))[0] == 200

    asyncio.run(scenario())
    rows = read_rows(settings)
    assert ids(rows) == names
    assert all(one.stored_text for one in rows)
    store = Store.open(settings)
    with closing(store):
        said = [one for _, one in store.feedback()]
    assert [one.row_id for one in said] == names
    assert [one.ts for one in said] == sorted((one.ts for one in said), reverse=True)
