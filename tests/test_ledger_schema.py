"""Opening a ledger: migrations, several processes at once, and files that are none."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from at_once import OPENING, at_once
from conftest import MakeSettings

from ledger.database import migrations, tables
from ledger.database.engine import open_engine
from ledger.errors import LedgerError, LedgerLocked
from ledger.records import Interaction
from ledger.settings import Settings
from ledger.store import Store


@contextmanager
def opened(url: str, lock_seconds: float = 5.0) -> Iterator[sa.Engine]:
    engine = open_engine(url, lock_seconds=lock_seconds)
    try:
        yield engine
    finally:
        engine.dispose()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "ledger.db"


@pytest.fixture
def url(file: Path) -> str:
    return f"sqlite:///{file}"


def scripts() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return config


def table_names(file: Path) -> set[str]:
    with closing(sqlite3.connect(file)) as connection:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        return {name for (name,) in connection.execute(query)}


def test_the_migrations_end_in_the_tables(url: str) -> None:
    with opened(url) as engine, engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
        assert context.get_current_revision() == migrations.HEAD


def test_head_is_the_last_script() -> None:
    directory = ScriptDirectory.from_config(scripts())
    assert directory.get_heads() == [migrations.HEAD]
    assert [s.down_revision for s in directory.walk_revisions()][-1] is None


def test_each_migration_can_be_taken_back_and_done_again(url: str, file: Path) -> None:
    with opened(url) as engine:
        for step, expected in ((command.downgrade, set()), (command.upgrade, None)):
            config = scripts()
            with engine.begin() as connection:
                config.attributes["connection"] = connection
                step(config, "base" if expected is not None else "head")
            if expected is not None:
                assert table_names(file) == {"alembic_version"}
        assert table_names(file) == {"alembic_version", *tables.metadata.tables}


def test_the_file_is_in_wal_mode_and_opening_it_again_changes_nothing(url: str, file: Path) -> None:
    with opened(url) as engine, engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    with closing(sqlite3.connect(file)) as connection:
        before = connection.execute("PRAGMA schema_version").fetchone()
    with opened(url):
        pass
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA schema_version").fetchone() == before


def test_a_migration_that_fails_leaves_nothing_half_done(url: str, file: Path) -> None:
    file.parent.mkdir(parents=True)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE tags (mine TEXT)")
    with pytest.raises(LedgerError, match="table tags already exists"):
        open_engine(url, lock_seconds=1)
    assert table_names(file) == {"tags"}
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("DROP TABLE tags")
    with opened(url):
        assert table_names(file) == {"alembic_version", *tables.metadata.tables}


def test_processes_that_open_a_new_ledger_at_once_take_turns(url: str) -> None:
    at_once(OPENING, url)
    with opened(url) as engine, engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_heads() == (migrations.HEAD,)


def test_a_ledger_of_a_newer_program_is_refused(url: str, file: Path) -> None:
    with opened(url):
        pass
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(LedgerError, match="schema 9999") as caught:
        open_engine(url, lock_seconds=1)
    assert "upgrade" in caught.value.remedy
    assert table_names(file) == {"alembic_version", *tables.metadata.tables}


def test_a_file_that_is_no_database(url: str, file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.write_bytes(b"these are not the bytes of a database " * 100)
    with pytest.raises(LedgerError, match="not a database"):
        open_engine(url, lock_seconds=1)
    assert file.read_bytes().startswith(b"these are not")


def test_a_folder_that_cannot_be_made_is_no_lock(tmp_path: Path) -> None:
    # Its name must not be taken for what the database says.
    (tmp_path / "locked, busy and full").write_text("a file where the folder should be")
    url = f"sqlite:///{tmp_path}/locked, busy and full/ledger.db"
    with pytest.raises(LedgerError, match="cannot be opened") as caught:
        open_engine(url, lock_seconds=1)
    assert not isinstance(caught.value, LedgerLocked)
    assert "disk" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "keeps nothing"),
        ("sqlite:///:memory:", "keeps nothing"),
        ("not a url", "is not a database URL"),
        ("nosuch://x/y", "is not a database URL"),
    ],
)
def test_a_url_that_leads_nowhere(url: str, said: str) -> None:
    with pytest.raises(LedgerError, match=said):
        open_engine(url, lock_seconds=1)


def test_a_password_is_not_said() -> None:
    with pytest.raises(LedgerError) as caught:
        open_engine("postgresql+nosuchdriver://ada:secret@host/db", lock_seconds=1)
    assert "secret" not in str(caught.value)


def test_a_locked_ledger_says_so(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings: Settings = make_settings(ledger={"lock_seconds": 0.2})
    store = Store.open(settings)
    with closing(sqlite3.connect(tmp_path / "var/ledger.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        row = Interaction(
            row_id="r", request_id="r", ts=1.0, api="chat", version="base", base_model="base"
        )
        with pytest.raises(LedgerLocked, match="locked by another process") as caught:
            store.add_interactions([row])
        assert "ledger.lock_seconds" in caught.value.remedy
        assert list(store.interactions()) == []  # readers are not stopped
        other.rollback()
    assert store.add_interactions([row]) == 1
    store.close()
