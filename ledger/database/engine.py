"""Opening the database of a ledger: SQLite in a file, or PostgreSQL for several servers.

What the two do differently is settled here: how a connection is set up for a level of
durability, who may write, and what deletes for good. Migrations are in `migrate`, the errors of the
drivers in `driver_errors`.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from ledger.database.driver_errors import translated
from ledger.database.migrate import LOCKS, migrate
from ledger.errors import LedgerError

__all__ = ["Durability", "open_engine", "take_write_lock", "translated", "wipe_deleted"]

Durability = Literal["fast", "process", "disk"]

_WRITE_LOCK = (LOCKS, 1)
# A writer that stands still for so long, or whose machine went away, loses its transaction and
# its lock. Longer than a batch whose redaction overruns its time on every row.
_STANDS_STILL_SECONDS = 300.0

_OPTIONS: dict[str, Any] = {
    # Parameters are what people typed: they stay out of messages and logs.
    "hide_parameters": True,
    # How many rows an INSERT … ON CONFLICT DO NOTHING made; SQLAlchemy forgets it otherwise.
    "execution_options": {"preserve_rowcount": True},
}

# In WAL mode NORMAL survives the death of a process, and FULL a power failure. OFF would save
# hardly anything more, and a power failure could then destroy the file.
_SQLITE_SYNCHRONOUS = {"fast": "NORMAL", "process": "NORMAL", "disk": "FULL"}
# Where the server's own configuration waits for standbys too, `on` keeps that.
_POSTGRESQL_COMMIT = {"fast": "off", "process": "on", "disk": "on"}


def open_engine(url: str, *, lock_seconds: float, durability: Durability = "process") -> sa.Engine:
    """Connect, make the folder of an SQLite file, and bring the schema up to date.

    Args:
        url: `sqlite:///file` or `postgresql+psycopg://user:password@host/database`.
        lock_seconds: longest wait for a lock of another process, and for a connection.
        durability: what a commit survives; see `ledger.durability` in the settings.

    Raises:
        LedgerError: the URL is malformed, its driver absent, the server away or unwilling, the
            file unreadable, damaged, or made by a newer Flywheel.
        LedgerLocked: another process holds it for longer than `lock_seconds`.
    """
    parsed, file = _parse(url)
    shown = parsed.render_as_string()
    if file is not None:
        engine = sa.create_engine(parsed, connect_args={"timeout": lock_seconds}, **_OPTIONS)
        sa.event.listen(engine, "connect", _sqlite_setup(durability))
    else:
        engine = _postgresql_engine(parsed, lock_seconds)
        sa.event.listen(engine, "connect", _postgresql_setup(durability, lock_seconds))
    try:
        with translated(shown):
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
            migrate(engine, file)
    except BaseException:
        engine.dispose()
        raise
    return engine


def take_write_lock(connection: sa.Connection) -> None:
    """Be the only one that writes until the transaction ends. Its first statement.

    One writer at a time is how SQLite works. On PostgreSQL it makes the numbers of rows grow in
    the order in which they become visible, so that who reads `seq > last` skips none.

    Raises:
        OperationalError: another process held it too long; `translated` makes it LedgerLocked.
    """
    if connection.dialect.name == "sqlite":
        # A transaction that is open wrote already, so it has the lock.
        if not connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
            connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        patience = f"{round(_STANDS_STILL_SECONDS * 1000)}ms"
        connection.execute(
            sa.select(
                sa.func.set_config("idle_in_transaction_session_timeout", patience, True),
                sa.func.pg_advisory_xact_lock(*_WRITE_LOCK),
            )
        )


def wipe_deleted(engine: sa.Engine, *tables: sa.Table) -> None:
    """Remove the bytes of deleted rows from the database's own files.

    SQLite overwrites what it deletes (`secure_delete`); left are pages in the write-ahead log,
    which this empties as far as readers allow. PostgreSQL leaves deleted rows where they were:
    this writes the tables anew, which locks them meanwhile, and takes along only what somebody
    who reads right now may still see. Its write-ahead log and the backups made of it keep
    deleted bytes until they are recycled.

    Args:
        tables: those with deleted rows; small ones, such as the keys of users.

    Raises:
        OperationalError: a table is in use for too long; see `translated`.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            return
        for table in tables:
            name = engine.dialect.identifier_preparer.format_table(table)
            connection.exec_driver_sql(f"VACUUM (FULL) {name}")


# -- addresses ---------------------------------------------------------------------------


def _parse(url: str) -> tuple[sa.URL, Path | None]:
    """The URL with no password outside of its place, and the file where it is SQLite's."""
    shown = re.sub(r"(password=)[^&]*", r"\1***", re.sub(r"//.*@", "//***@", url))
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (sa.exc.ArgumentError, ValueError):  # what they say may quote a part of the password
        raise LedgerError(
            f"ledger.url {shown!r} is not a database URL",
            remedy="Use sqlite:///var/ledger.db or postgresql+psycopg://….",
        ) from None
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise LedgerError(
                f"ledger.url {url!r} keeps nothing",
                rule="Several processes share the ledger, so it has to be a file or a server.",
                remedy="Use sqlite:///var/ledger.db or postgresql+psycopg://….",
            )
        return parsed, Path(parsed.database)
    if parsed.drivername not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise LedgerError(
            f"ledger.url {shown!r} is not a database URL that Flywheel takes",
            rule="The ledger is SQLite, or PostgreSQL with the driver psycopg.",
            remedy="Use sqlite:///var/ledger.db or postgresql+psycopg://….",
        )
    if "@" in (parsed.host or ""):
        raise LedgerError(
            f"ledger.url {shown!r} has more than one '@'",
            rule="In a URL's user and password '@', ':', '/' and '%' are written %40 %3A %2F %25.",
        )
    if not parsed.database:
        raise LedgerError(f"ledger.url {shown!r} names no database")
    parsed = parsed.set(drivername="postgresql+psycopg")
    password = parsed.query.get("password")
    if isinstance(password, str):
        parsed = parsed.difference_update_query(["password"]).set(password=password)
    return parsed, None


# -- SQLite ------------------------------------------------------------------------------


def _sqlite_setup(durability: Durability) -> Any:
    def setup(connection: Any, _record: Any) -> None:
        # WAL lets readers and one writer work at once.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={_SQLITE_SYNCHRONOUS[durability]}")
        connection.execute("PRAGMA foreign_keys=ON")
        # A key that was deleted must not be left in a free page.
        connection.execute("PRAGMA secure_delete=ON")

    return setup


# -- PostgreSQL --------------------------------------------------------------------------


def _postgresql_engine(url: sa.URL, lock_seconds: float) -> sa.Engine:
    given = dict(url.query)
    ours: dict[str, Any] = {
        "application_name": "flywheel",
        "client_encoding": "utf8",  # whatever the environment says
        "connect_timeout": max(2, math.ceil(lock_seconds)),
        # A server that vanished without a word is noticed within a minute.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    hidden = {}
    if "sslpassword" in given:  # where a URL is shown, only its main password is hidden
        hidden["sslpassword"] = given["sslpassword"]
        url = url.difference_update_query(["sslpassword"])
    arguments = {name: value for name, value in ours.items() if name not in given}
    try:
        return sa.create_engine(
            url,
            connect_args=arguments | hidden,
            # A server that was restarted meanwhile is connected to anew.
            pool_pre_ping=True,
            **_OPTIONS,
        )
    except ImportError as error:
        raise LedgerError(
            f"ledger.url {url.render_as_string()!r} needs a driver: {error}",
            remedy="pip install 'flywheel[postgresql]'",
        ) from None


def _postgresql_setup(durability: Durability, lock_seconds: float) -> Any:
    milliseconds = max(1, round(lock_seconds * 1000))
    text, binary = _float_dumpers()

    def setup(connection: Any, _record: Any) -> None:
        connection.adapters.register_dumper(float, text)
        connection.adapters.register_dumper(float, binary)
        connection.autocommit = True  # else a rollback would take the settings back
        connection.execute(f"SET synchronous_commit = {_POSTGRESQL_COMMIT[durability]}")
        connection.execute(f"SET lock_timeout = {milliseconds}")
        connection.autocommit = False

    return setup


def _float_dumpers() -> tuple[Any, Any]:
    """What no number is becomes NULL, as SQLite has it: a column that needs one refuses it."""
    from psycopg.types.numeric import FloatBinaryDumper, FloatDumper

    class Text(FloatDumper):
        def dump(self, obj: float) -> Any:
            return None if math.isnan(obj) else super().dump(obj)

    class Binary(FloatBinaryDumper):
        def dump(self, obj: float) -> Any:
            return None if math.isnan(obj) else super().dump(obj)

    return Text, Binary
