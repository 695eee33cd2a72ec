"""The writer's end: frames in, rows and acknowledgements out."""

from __future__ import annotations

import contextlib
import math
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeSettings
from writers import LIMIT, NOW, Raw, ids, read_rows, record

from ledger.errors import LedgerLocked
from ledger.keys.vault import Vault
from ledger.records import Interaction
from ledger.settings import Settings
from ledger.store import Store
from ledger.writing import writer
from ledger.writing.frames import Frames, frame
from ledger.writing.intake import Intake
from ledger.writing.writer import Chores


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(ledger={"lock_seconds": 0.3, "flush_ms": 20})


@pytest.fixture
def rows(settings: Settings) -> Callable[[], list[Interaction]]:
    return partial(read_rows, settings)


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
    assert f"{len(junk)} records were left out" in said
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


# -- housekeeping ------------------------------------------------------------------------


class Chore:
    """Housekeeping that is always due, and fails where it is told to."""

    def __init__(self) -> None:
        self.steps, self.error = 0, None

    def due(self) -> float:
        return 0.0

    def step(self) -> None:
        self.steps += 1
        if self.error is not None:
            raise self.error


def test_housekeeping_takes_idle_moments_and_some_of_busy_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(writer.time, "monotonic", lambda: now[0])
    chore = Chore()
    chores = Chores(chore)  # type: ignore[arg-type]
    chores.step(idle=False)
    assert chore.steps == 0
    chores.step(idle=True)
    chores.step(idle=True)
    assert chore.steps == 2
    for _ in range(60):  # 0.6 seconds, never idle
        now[0] += 0.01
        chores.step(idle=False)
    assert 6 <= chore.steps <= 8


def test_an_error_in_housekeeping_is_told_once_a_minute_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    monkeypatch.setattr(writer.time, "monotonic", lambda: now[0])
    chore = Chore()
    chores = Chores(chore)  # type: ignore[arg-type]
    for chore.error, said in (
        (LedgerLocked("locked by somebody"), "locked by somebody"),
        (ValueError("what somebody typed"), "ValueError"),
    ):
        before = chore.steps
        caplog.clear()
        for _ in range(590):
            chores.step(idle=True)
            now[0] += 0.1
        assert chore.steps == before + 1
        assert [one.getMessage() for one in caplog.records] == [f"housekeeping failed: {said}"]
        assert chores.due() > 0  # no busy waiting
        now[0] += 2


def test_the_writer_lets_go_of_old_rows_while_nothing_comes(
    raw: Raw, rows: Callable[[], list[Interaction]]
) -> None:
    for number in range(40):
        raw.socket.sendall(frame(["row", record(f"old-{number}", ts=NOW - 3 * 86_400)]))
    raw.socket.sendall(frame(["row", record("new")]))
    raw.acknowledged(41)
    deadline = time.monotonic() + LIMIT
    while len(found := rows()) > 10:
        assert time.monotonic() < deadline, "nothing is let go"
        time.sleep(0.02)
    assert "new" in ids(found)
    assert raw.end() == (0, "")


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
    one = Intake(
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
        assert one.failing is None
        assert answers == [(0, 200), (2, 200)]
        assert one.pending  # the unknown one may still come
