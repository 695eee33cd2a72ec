"""PostgreSQL as the ledger: how it is set up, what it says, and several processes at once.

That the store itself works on it is shown by the tests of the store, which run on both.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from at_once import OPENING, at_once
from conftest import MakeSettings
from postgres import Postgres, start_or_skip

from ledger.database import migrations, tables
from ledger.database.engine import (
    Durability,
    open_engine,
    take_write_lock,
    translated,
    wipe_deleted,
)
from ledger.errors import LedgerError, LedgerLocked, RowRefused
from ledger.records import Interaction, Tag
from ledger.store import Store


def row(row_id: str, **fields: Any) -> Interaction:
    least = {"ts": 1.0, "api": "chat", "version": "base", "base_model": "base"}
    return Interaction(**{"row_id": row_id, "request_id": row_id, **least, **fields})


@contextmanager
def opened(url: str, lock_seconds: float = 10.0, durability: Durability = "process") -> Any:
    engine = open_engine(url, lock_seconds=lock_seconds, durability=durability)
    try:
        yield engine
    finally:
        engine.dispose()


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    """An empty ledger with its schema."""
    found = postgres.new_ledger()
    yield found
    postgres.drop(found)


@pytest.fixture
def empty(postgres: Postgres) -> Iterator[str]:
    """A database with nothing in it."""
    found = postgres.url(postgres.new_database())
    yield found
    postgres.drop(found)


@pytest.fixture
def own() -> Iterator[Postgres]:
    """A server that a test may stop and kill."""
    server = start_or_skip()
    yield server
    server.remove()


# -- connections -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("durability", "commit"), [("fast", "off"), ("process", "on"), ("disk", "on")]
)
def test_how_a_connection_is_set_up(url: str, durability: Durability, commit: str) -> None:
    with opened(url, 1.5, durability) as engine:
        for _ in range(2):  # and it stays so when a transaction is taken back
            with engine.connect() as connection:
                shown = {
                    name: connection.exec_driver_sql(f"SHOW {name}").scalar()
                    for name in ("synchronous_commit", "lock_timeout", "application_name")
                }
                connection.rollback()
            assert shown == {
                "synchronous_commit": commit,
                "lock_timeout": "1500ms",
                "application_name": "flywheel",
            }


@pytest.mark.parametrize(("durability", "synchronous"), [("fast", 1), ("process", 1), ("disk", 2)])
def test_how_a_file_is_set_up(tmp_path: Path, durability: Durability, synchronous: int) -> None:
    with opened(f"sqlite:///{tmp_path}/l.db", 1, durability) as engine:
        with engine.connect() as connection:
            shown = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("synchronous", "secure_delete", "journal_mode")
            ]
        assert shown == [synchronous, 1, "wal"]


def test_what_the_url_says_of_a_connection_holds(url: str) -> None:
    with opened(f"{url}?application_name=mine") as engine, engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW application_name").scalar() == "mine"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_the_ways_to_write_the_scheme(url: str, scheme: str) -> None:
    with opened(url.replace("postgresql+psycopg", scheme)) as engine:
        assert engine.url.drivername == "postgresql+psycopg"


# -- what goes wrong ---------------------------------------------------------------------


def refusal(url: str, secret: str) -> LedgerError:
    """Why a ledger cannot be opened; the password is nowhere in it, traceback included."""
    with pytest.raises(LedgerError) as caught:
        open_engine(url, lock_seconds=1)
    assert secret not in "".join(traceback.format_exception(caught.value))
    return caught.value


def test_a_password_that_is_wrong(postgres: Postgres) -> None:
    error = refusal(postgres.url("postgres", password="wrong-secret"), "wrong-secret")
    assert "refuses the password" in str(error)
    assert "ledger.url" in error.remedy
    refusal(postgres.url("postgres", user="nobody-here"), postgres.password)


def test_a_database_that_is_not_there(postgres: Postgres) -> None:
    error = refusal(postgres.url("nowhere"), postgres.password)
    assert "does not exist" in str(error)
    assert "createdb" in error.remedy


def test_a_server_that_is_not_there(postgres: Postgres) -> None:
    url = postgres.url("ledger").replace(str(postgres.port), "1")
    error = refusal(url, postgres.password)
    assert "connection refused" in str(error)
    error = refusal("postgresql+psycopg://a:hush-hush@nowhere.invalid/l", "hush-hush")
    assert "there is no such host" in str(error)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg://ada:hush@hush@host/l", "more than one '@'"),
        ("postgresql+psycopg://ada:hush-hush@host", "names no database"),
        ("postgresql+psycopg2://ada:hush-hush@host/l", "psycopg"),
        ("mysql://ada:hush-hush@host/l", "is not a database URL"),
        ("mysql://host/l?password=hush-hush", "is not a database URL"),
        ("postgresql://ada:hush-hush@host:port/l", "is not a database URL"),
    ],
)
def test_a_url_that_cannot_be_meant(url: str, said: str) -> None:
    assert said in str(refusal(url, "hush"))


def test_a_password_in_the_query_is_not_shown(url: str, postgres: Postgres) -> None:
    place, _, rest = url.partition(f":{postgres.password}@")
    with opened(f"{place}@{rest}?password={postgres.password}") as engine:
        store = Store(engine)
        assert postgres.password not in store.url
        assert store.add_interactions([row("a")]) == 1


def test_the_password_may_stand_in_a_file(
    url: str, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pgpass"
    file.write_text(f"127.0.0.1:{postgres.port}:*:flywheel:{postgres.password}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    with opened(url.replace(f":{postgres.password}@", "@")) as engine:
        assert Store(engine).add_interactions([row("a")]) == 1


def test_too_many_connections(postgres: Postgres) -> None:
    postgres.run("CREATE ROLE guest LOGIN PASSWORD 'guest-secret' CONNECTION LIMIT 0")
    url = postgres.url("postgres", user="guest", password="guest-secret")
    assert "takes no more connections" in str(refusal(url, "guest-secret"))
    postgres.run("DROP ROLE guest")


def test_a_user_who_may_not_make_tables(postgres: Postgres, empty: str) -> None:
    postgres.run("CREATE ROLE reader LOGIN PASSWORD 'reader-secret'")
    name = empty.rpartition("/")[2]
    error = refusal(postgres.url(name, user="reader", password="reader-secret"), "reader-secret")
    assert "OWNER TO" in error.remedy
    postgres.run("DROP ROLE reader")


def test_a_database_that_cannot_hold_every_text(postgres: Postgres) -> None:
    postgres.run("CREATE DATABASE narrow ENCODING 'SQL_ASCII' TEMPLATE template0")
    error = refusal(postgres.url("narrow"), postgres.password)
    assert "SQL_ASCII" in str(error)
    assert "UTF8" in error.remedy
    postgres.run("DROP DATABASE narrow")


def test_a_standby_says_that_it_is_read_only(postgres: Postgres, url: str) -> None:
    postgres.run(f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    with opened(url) as engine:
        store = Store(engine)
        assert list(store.interactions()) == []
        with pytest.raises(LedgerError, match="is read-only"):
            store.add_interactions([row("a")])


@pytest.mark.parametrize(
    ("state", "said"), [("53100", "disk is full"), ("53200", "out of memory"), ("P0001", "raised")]
)
def test_what_the_server_says(url: str, state: str, said: str) -> None:
    raising = f"DO $$ BEGIN RAISE EXCEPTION 'raised here' USING ERRCODE = '{state}'; END $$"
    with (
        opened(url) as engine,
        pytest.raises(LedgerError, match=said),
        translated("x"),
        engine.begin() as connection,
    ):
        connection.exec_driver_sql(raising)


def test_a_refused_row_is_not_quoted(url: str) -> None:
    """PostgreSQL's detail holds the whole row."""
    bad = row("a", alias="a-private-thing").model_copy(update={"base_model": None})
    with opened(url) as engine, pytest.raises(RowRefused) as caught:
        Store(engine).add_interactions([bad])
    assert "base_model" in str(caught.value)
    assert "private" not in str(caught.value)


def test_a_lock_that_is_held_too_long(url: str) -> None:
    with opened(url) as engine, opened(url, 0.2) as other:
        store = Store(other)
        with engine.begin() as connection:
            take_write_lock(connection)
            with pytest.raises(LedgerLocked, match="locked by another process"):
                store.add_interactions([row("a")])
            assert list(store.interactions()) == []  # readers are not stopped
        assert store.add_interactions([row("a")]) == 1


def test_a_writer_that_stands_still_does_not_stop_the_others(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.database.engine._STANDS_STILL_SECONDS", 0.2)
    with opened(url) as engine, opened(url) as other:
        store = Store(engine)

        def stand_still() -> None:
            with store.transaction() as connection:
                store.add_interactions([row("mine")], connection)
                assert Store(other).add_interactions([row("theirs")]) == 1

        with pytest.raises(LedgerError, match=r"stood still|went away"):
            stand_still()
        assert [r.row_id for r in store.interactions()] == ["theirs"]
        assert store.add_interactions([row("mine")]) == 1


def terminate(postgres: Postgres, url: str) -> None:
    name = url.rpartition("/")[2]
    postgres.run(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        f"WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    )


def test_connections_that_died_in_the_pool_are_made_anew(postgres: Postgres, url: str) -> None:
    with opened(url) as engine:
        store = Store(engine)
        assert store.add_interactions([row("a")]) == 1
        terminate(postgres, url)
        assert store.add_interactions([row("b")]) == 1

        def interrupted() -> None:
            with store.transaction() as connection:
                store.add_interactions([row("c")], connection)
                terminate(postgres, url)
                store.add_interactions([row("d")], connection)

        with pytest.raises(LedgerError, match="went away") as caught:
            interrupted()
        assert not isinstance(caught.value, LedgerLocked | RowRefused)
        assert store.add_interactions([row("c")]) == 1
        assert [r.row_id for r in store.interactions()] == ["a", "b", "c"]


def test_what_was_committed_survives_a_server_that_is_killed(own: Postgres) -> None:
    with opened(own.new_ledger()) as engine:
        store = Store(engine)
        for number in range(5):
            assert store.add_interactions([row(f"r{number}")]) == 1
        own.kill()
        with pytest.raises(LedgerError, match=r"cannot be reached|went away|not ready"):
            store.add_interactions([row("while it is down")])
        own.start()
        assert store.add_interactions([row("after")]) == 1
        assert [r.row_id for r in store.interactions()] == [f"r{n}" for n in range(5)] + ["after"]


# -- migrations --------------------------------------------------------------------------


def test_the_migrations_end_in_the_tables(empty: str) -> None:
    with opened(empty) as engine, engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
        assert context.get_current_revision() == migrations.HEAD


def test_numbers_have_64_bits(url: str) -> None:
    with opened(url) as engine, engine.begin() as connection:
        for table in tables.metadata.sorted_tables:
            if "seq" not in table.columns:
                continue
            sequence = f"{table.name}_seq_seq"
            kind = connection.exec_driver_sql(
                f"SELECT data_type FROM pg_sequences WHERE sequencename = '{sequence}'"
            ).scalar()
            assert kind == "bigint", sequence


def test_processes_that_open_a_new_ledger_at_once_take_turns(empty: str) -> None:
    at_once(OPENING, empty)
    with opened(empty) as engine, engine.connect() as connection:
        assert MigrationContext.configure(connection).get_current_heads() == (migrations.HEAD,)


KILLED_AT = """
import os, signal, sys
import sqlalchemy as sa
from ledger.database.engine import open_engine

left = int(sys.argv[2])

@sa.event.listens_for(sa.Engine, "before_cursor_execute")
def count(connection, cursor, statement, *rest):
    global left
    if statement.lstrip().upper().startswith(("CREATE", "ALTER", "UPDATE", "INSERT", "DROP")):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

open_engine(sys.argv[1], lock_seconds=10).dispose()
"""


def names(engine: sa.Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names())


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize("step", [1, 5, 12])
def test_a_migration_that_is_killed_leaves_the_old_schema(
    database: str, step: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/l.db"
    if database == "postgresql":
        url = request.getfixturevalue("empty")
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    before = names(engine)
    arguments = [sys.executable, "-c", KILLED_AT, url, str(step)]
    done = subprocess.run(arguments, timeout=60, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert names(engine) == before
    columns = {column["name"] for column in sa.inspect(engine).get_columns("interactions")}
    assert "sample_key" not in columns
    with engine.connect() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == "0001"
    engine.dispose()
    with opened(url) as whole:
        assert names(whole) == {"alembic_version", *tables.metadata.tables}


# -- several writers ---------------------------------------------------------------------

WRITING = """
import sys
from ledger.database.engine import open_engine
from ledger.records import Interaction
from ledger.store import Store

url, who = sys.argv[1:]
store = Store(open_engine(url, lock_seconds=30))
print("ready", flush=True)
sys.stdin.readline()
for batch in range(30):
    store.add_interactions([
        Interaction(row_id=f"{who}-{batch}-{n}", request_id=who, ts=1.0, api="chat",
                    version="base", base_model="base")
        for n in range(4)
    ])
"""


def test_who_reads_by_number_skips_no_row_of_several_writers(
    store: Store, make_settings: MakeSettings
) -> None:
    url = make_settings().ledger.url
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITING, url, who],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for who in ("one", "two")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    table, last, seen = tables.interactions, 0, []
    while True:
        over = all(writer.poll() is not None for writer in writers)
        query = sa.select(table.c.seq, table.c.row_id).where(table.c.seq > last)
        with store.engine.connect() as connection:
            for seq, row_id in connection.execute(query.order_by(table.c.seq)):
                last = seq
                seen.append(row_id)
        if over:
            break
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert len(seen) == len(set(seen)) == 2 * 30 * 4


def test_a_row_with_a_number_is_visible_before_the_next_one_gets_one(
    store: Store, make_settings: MakeSettings
) -> None:
    impatient = Store.open(make_settings(ledger={"lock_seconds": 0.2}))
    with store.transaction() as connection:
        store.add_interactions([row("first")], connection)
        with pytest.raises(LedgerLocked):
            impatient.add_interactions([row("second")])
    assert impatient.add_interactions([row("second")]) == 1
    assert [r.row_id for r in store.interactions()] == ["first", "second"]
    impatient.close()


def test_threads_of_one_process_share_a_store(store: Store) -> None:
    errors: list[BaseException] = []

    def run(who: int) -> None:
        try:
            for number in range(10):
                store.add_interactions([row(f"{who}-{number}")])
                list(store.interactions(limit=3))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(list(store.interactions())) == 40


# -- values that only one of the databases takes -----------------------------------------


def test_no_number_is_nothing_on_both(store: Store) -> None:
    nan = math.nan
    store.add_interactions([row("a").model_copy(update={"mean_logprob": nan})])
    assert store.interaction("a").mean_logprob is None
    with pytest.raises(RowRefused):
        store.add_interactions([row("b").model_copy(update={"ts": nan})])


def test_a_nul_in_a_column_is_refused_by_postgresql_alone(store: Store) -> None:
    tag = Tag(row_id="a\x00b", tag="t", who="w", ts=1.0)
    if store.engine.dialect.name == "sqlite":
        assert store.add_tags([tag]) == 1
    else:
        with pytest.raises(RowRefused, match="NUL"):
            store.add_tags([tag])
        with pytest.raises(RowRefused, match="NUL"):
            store.interaction("a\x00b")


def test_an_id_that_is_too_long_for_an_index_is_refused_for_good(store: Store) -> None:
    """A client chooses it. What cannot be stored must not be tried again for ever."""
    given = row(os.urandom(50_000).hex())
    if store.engine.dialect.name == "sqlite":
        assert store.add_interactions([given]) == 1
    else:
        with pytest.raises(RowRefused, match="index row"):
            store.add_interactions([given])


# -- what is deleted ---------------------------------------------------------------------


def files_with(data: bytes, folder: Path) -> list[Path]:
    return [f for f in folder.rglob("*") if f.is_file() and data in f.read_bytes()]


def test_the_bytes_of_deleted_rows_leave_the_servers_tables(own: Postgres) -> None:
    secret = os.urandom(32)
    with opened(own.new_ledger()) as engine:
        values = {"key_id": "k", "owner": "o", "wrapped": secret, "master": "m", "ts": 1.0}
        with engine.begin() as connection:
            connection.execute(sa.insert(tables.subjects).values(values))
            connection.execute(sa.insert(tables.subjects).values({**values, "key_id": "other"}))
        with engine.begin() as connection:
            kept = tables.subjects.c.key_id == "other"
            connection.execute(sa.update(tables.subjects).where(kept).values(wrapped=b"kept"))
            connection.execute(sa.delete(tables.subjects).where(~kept))
        own.run("CHECKPOINT")
        assert files_with(secret, own.home / "data/base")
        wipe_deleted(engine, tables.subjects)
        own.run("CHECKPOINT")
        assert not files_with(secret, own.home / "data/base")
        with engine.connect() as connection:
            assert connection.scalar(sa.select(tables.subjects.c.wrapped)) == b"kept"


def test_the_bytes_of_deleted_rows_leave_the_file(tmp_path: Path) -> None:
    secret = os.urandom(32)
    with opened(f"sqlite:///{tmp_path}/l.db") as engine:
        values = {"key_id": "k", "owner": "o", "wrapped": secret, "master": "m", "ts": 1.0}
        with engine.begin() as connection:
            connection.execute(sa.insert(tables.subjects).values(values))
        assert files_with(secret, tmp_path)
        with engine.begin() as connection:
            connection.execute(sa.delete(tables.subjects))
        wipe_deleted(engine, tables.subjects)
        assert not files_with(secret, tmp_path)
