"""Ledgers that are damaged: files cut and flipped, migrations and housekeeping killed half way.

A file that SQLite has open in this process is only ever copied by another one: closing a
second handle would drop SQLite's locks.
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory
from conftest import MakeSettings
from killed_half_way import at, housekeep
from test_ledger_schema import scripts as alembic_config
from tiny import write_config
from writers import ids, row

from ledger.database.engine import open_engine
from ledger.errors import LedgerError
from ledger.records import Feedback
from ledger.settings import Settings
from ledger.store import Store

HERE = Path(__file__).parent


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(ledger={"lock_seconds": 5, "flush_ms": 20})


# -- damaged files -----------------------------------------------------------------------


class Copies:
    """A ledger and its log, copied while open: `sizes[i]` is the log's size after commit i."""

    def __init__(self, settings: Settings, folder: Path, commits: int) -> None:
        file = Path(settings.ledger.url.removeprefix("sqlite:///"))
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file)) as first:  # small pages: fewer bytes a commit
            first.execute("PRAGMA page_size=512")
            first.execute("PRAGMA journal_mode=WAL")
            first.execute("VACUUM")
        store = Store.open(settings)
        self.sizes = []
        with closing(store):
            store.add_interactions([row("first")])
            with store.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            wal = Path(f"{file}-wal")
            for number in range(commits):
                store.add_interactions([row(f"r{number}")])
                self.sizes.append(wal.stat().st_size)
            subprocess.run(["cp", file, wal, folder], check=True)
        self.main = (folder / file.name).read_bytes()
        self.log = (folder / wal.name).read_bytes()

    def write(self, main: bytes, log: bytes, file: Path) -> None:
        for old in (file, Path(f"{file}-shm")):
            old.unlink(missing_ok=True)
        file.write_bytes(main)
        Path(f"{file}-wal").write_bytes(log)

    def rows_at(self, size: int) -> list[str]:
        return ["first", *(f"r{n}" for n, end in enumerate(self.sizes) if end <= size)]


@pytest.fixture
def elsewhere(make_settings: MakeSettings, tmp_path: Path) -> tuple[Settings, Path]:
    """Settings of a ledger that is put together by a test, and its file."""
    file = tmp_path / "put/ledger.db"
    file.parent.mkdir()
    return make_settings(ledger={"url": f"sqlite:///{file}", "lock_seconds": 1}), file


def test_a_log_cut_at_any_byte_has_every_commit_before_the_cut(
    settings: Settings, elsewhere: tuple[Settings, Path], tmp_path: Path
) -> None:
    (tmp_path / "copy").mkdir()
    copies = Copies(settings, tmp_path / "copy", commits=3)
    there, file = elsewhere
    start, end = copies.sizes[-2], copies.sizes[-1]
    for cut in range(start, end + 1):
        copies.write(copies.main, copies.log[:cut], file)
        with closing(sqlite3.connect(file)) as connection:
            found = [one for (one,) in connection.execute("SELECT row_id FROM interactions")]
        assert found == copies.rows_at(cut), cut
    for cut in (0, 1, 31, 32, 33, copies.sizes[0] - 1, copies.sizes[0], start + 1, end - 1):
        copies.write(copies.main, copies.log[:cut], file)
        store = Store.open(there)
        with closing(store):
            assert ids(list(store.interactions())) == copies.rows_at(cut), cut
            assert store.add_interactions([row("next")]) == 1  # and it goes on
            assert store.damaged == 0


def test_a_flipped_bit_in_the_log_ends_it_there(
    settings: Settings, elsewhere: tuple[Settings, Path], tmp_path: Path
) -> None:
    (tmp_path / "copy").mkdir()
    copies = Copies(settings, tmp_path / "copy", commits=4)
    there, file = elsewhere
    choose = random.Random(17)
    for _ in range(60):
        at, bit = choose.randrange(len(copies.log)), 1 << choose.randrange(8)
        log = bytearray(copies.log)
        log[at] ^= bit
        copies.write(copies.main, bytes(log), file)
        store = Store.open(there)
        with closing(store):
            found = ids(list(store.interactions()))
        # A whole number of commits, at least those before the flip.
        assert found == copies.rows_at(copies.sizes[-1])[: len(found)]
        assert len(found) >= len(copies.rows_at(at - 1))


def test_a_flipped_bit_in_a_file_is_told_and_never_read_as_text(
    settings: Settings, elsewhere: tuple[Settings, Path], tmp_path: Path
) -> None:
    texts = {f"r{number}": f"answer {number} " * 30 for number in range(30)}
    store = Store.open(settings)
    with closing(store):
        store.add_interactions([row(name, text=text) for name, text in texts.items()])
    whole = Path(settings.ledger.url.removeprefix("sqlite:///")).read_bytes()
    there, file = elsewhere
    choose, told = random.Random(17), 0
    for _ in range(150):
        data = bytearray(whole)
        data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
        for old in file.parent.glob("ledger.db*"):
            old.unlink()
        file.write_bytes(data)
        error = None
        try:
            store = Store.open(there)
            with closing(store):
                found = list(store.interactions())
                told += store.damaged
        except LedgerError as caught:
            error, found = caught, []
            told += 1
        assert error is None or (str(file) in error.problem and error.remedy)
        assert all(one.response in texts.values() or not one.stored_text for one in found)
    assert told > 0


def test_a_flipped_bit_in_a_sealed_text_costs_that_text_alone_and_is_named(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"r{number}" for number in range(5)]
    store = Store.open(settings)
    with closing(store):
        store.add_interactions([row(name, text="the answer " * 20) for name in names])
        given = Feedback(feedback_id="f1", row_id="r1", ts=1.0, rating="down", reason="too long")
        store.add_feedback(given)
        with closing(sqlite3.connect(settings.ledger.url.removeprefix("sqlite:///"))) as other:

            def put(table: str, key: str, name: str, text: bytes) -> None:
                with other:
                    other.execute(f"UPDATE {table} SET text = ? WHERE {key} = ?", (text, name))

            query = "SELECT text FROM interactions WHERE row_id = 'r2'"
            (text,) = other.execute(query).fetchone()
            for at in range(len(text)):
                flipped = bytearray(text)
                flipped[at] ^= 1 << at % 8
                put("interactions", "row_id", "r2", bytes(flipped))
                store.damaged = 0
                caplog.clear()
                found = list(store.interactions())
                by_name = {one.row_id: one for one in found}
                lost = by_name.pop("r2", None)
                # A key id that no key has is a key that was deleted: no text, and no damage.
                assert (lost is None) == (store.damaged == 1), at
                assert lost is None or not lost.stored_text
                assert ("r2" in caplog.text) == (store.damaged == 1)
                assert list(by_name) == ["r0", "r1", "r3", "r4"]
            (text,) = other.execute("SELECT text FROM feedback").fetchone()
            put("feedback", "feedback_id", "f1", text[:-1] + bytes([text[-1] ^ 1]))
            ((_, still),) = store.feedback()
            assert (still.rating, still.reason) == ("down", None)


# -- ended half way ----------------------------------------------------------------------


def kill_half_way(
    what: str, config: Path, folder: Path, *, now: float = 0.0, stride: int = 1
) -> list[Path]:
    """The ledgers after it, one for each `stride`-th statement; the last one is whole."""
    script = HERE / "killed_half_way.py"
    command = [sys.executable, script, what, config, folder, now, stride]
    subprocess.run(list(map(str, command)), check=True, timeout=120)
    copies = sorted((path for path in folder.iterdir()), key=lambda path: int(path.name))
    return [copy / "ledger.db" for copy in copies[1:]]


def schema(file: Path) -> list[tuple[str, str]]:
    """Every statement of a schema, and its revision."""
    with closing(sqlite3.connect(file)) as connection:
        query = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
        found = connection.execute(query).fetchall()
        if ("alembic_version",) in [(name,) for name, _ in found]:
            found += connection.execute("SELECT version_num, '' FROM alembic_version").fetchall()
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return found


def revisions() -> list[str | None]:
    """Every schema that a ledger may have before the last one; None: none at all."""
    script = ScriptDirectory.from_config(alembic_config())
    return [None, *reversed([one.revision for one in script.walk_revisions()][1:])]


def upgrade(file: Path, revision: str) -> None:
    engine = sa.create_engine(f"sqlite:///{file}")
    alembic = alembic_config()
    with engine.begin() as connection:
        alembic.attributes["connection"] = connection
        command.upgrade(alembic, revision)
    engine.dispose()


@pytest.mark.parametrize("revision", revisions())
def test_a_migration_killed_anywhere_leaves_the_old_schema_or_the_new_one(
    config: Path, tmp_path: Path, revision: str | None
) -> None:
    old = tmp_path / "copies/0/ledger.db"
    old.parent.mkdir(parents=True)
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    if revision is not None:
        upgrade(old, revision)
        with closing(sqlite3.connect(old)) as connection, connection:
            connection.execute("INSERT INTO cursors (name, position) VALUES ('mine', 7)")
    copies = kill_half_way("migrate", config, old.parent.parent)
    before, after = schema(old), schema(copies[-1])
    assert before != after
    assert len(copies) > 10
    seen = set()
    for copy in copies:
        found = schema(copy)
        assert found in (before, after)
        seen.add(found == after)
        engine = open_engine(f"sqlite:///{copy}", lock_seconds=5)
        if revision is not None:
            with engine.connect() as connection:
                query = "SELECT position FROM cursors WHERE name = 'mine'"
                assert connection.exec_driver_sql(query).scalar() == 7
        engine.dispose()
        assert schema(copy) == after
    assert seen == {True, False}


def test_housekeeping_killed_anywhere_counts_every_row_once_and_is_taken_up_again(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    keep = {"text_days": 1, "row_days": 2}
    settings = make_settings(
        sampling={"share": 0.5}, retention={"sampled": keep, "flagged": {"text_days": 1}}
    )
    config = write_config(settings, tmp_path / "config.yaml")
    begin = tmp_path / "copies/0/ledger.db"
    begin.parent.mkdir(parents=True)
    now = 20_000 * 86_400.0
    store = Store.open(at(settings, begin))
    with closing(store):
        for days in (1.5, 2.5):
            ages = [now - days * 86_400 + number for number in range(12)]
            store.add_interactions([row(f"{days}-{ts - now}", ts=ts) for ts in ages])
            flagged = f"{days}-{ages[3] - now}"
            given = Feedback(feedback_id=flagged, row_id=flagged, ts=now, rating="down", reason="x")
            store.add_feedback(given)

    def state(file: Path) -> tuple[int, dict[str, tuple[bool, bool]]]:
        """How many answers were counted, and each row's being held and having text."""
        store = Store.open(at(settings, file))
        with closing(store):
            rows = {one.row_id: (one.held, one.stored_text) for one in store.interactions()}
            assert store.damaged == 0
            return sum(store.counts().values()), rows

    copies = kill_half_way("housekeep", config, begin.parent.parent, now=now, stride=3)
    assert len(copies) > 50
    end = state(copies[-1])
    assert end[0] == 24
    assert len(end[1]) < 24
    assert {text for _, text in end[1].values()} == {False}
    for copy in copies:
        counted, rows = state(copy)
        assert counted == 24
        assert set(end[1]) <= set(rows)
    for copy in copies[:: max(1, len(copies) // 12)]:
        housekeep(at(settings, copy), now)
        assert state(copy) == end
