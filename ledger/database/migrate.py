"""Bringing the schema of a ledger up to date.

Processes that open a ledger at once take turns. All that is missing is applied in one
transaction: a process that is killed meanwhile leaves the old schema whole.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from ledger.database.migrations import HEAD
from ledger.errors import LedgerError

# Names our locks among all advisory locks of a PostgreSQL database: "FLYW".
LOCKS = 0x464C5957

_VERSION_TABLE = sa.table("alembic_version", sa.column("version_num"))
_MIGRATION_LOCK = (LOCKS, 2)


def migrate(engine: sa.Engine, file: Path | None) -> None:
    """Apply what is missing.

    Args:
        file: of an SQLite ledger; None for a server.

    Raises:
        LedgerError: the ledger is of a newer Flywheel, or the server's database cannot hold
            every text.
    """
    with engine.connect() as connection:
        if _revision(connection) == HEAD:
            return
    with _turn(engine, file) as connection:
        found = _revision(connection)
        if found == HEAD:
            return
        if file is None:
            _takes_every_text(connection)
        from alembic import command  # 0.2 s to import, and needed once in a ledger's life
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if found is not None and found not in known:
            raise LedgerError(
                f"the ledger has schema {found}, this program knows up to {HEAD}",
                remedy="It was written by a newer Flywheel: upgrade this one.",
            )
        logging.getLogger("alembic").setLevel(logging.WARNING)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(_VERSION_TABLE.name):
        return None
    return connection.scalar(sa.select(_VERSION_TABLE.c.version_num))


@contextmanager
def _turn(engine: sa.Engine, file: Path | None) -> Iterator[sa.Connection]:
    """The one transaction that changes the schema; others wait until it is over."""
    if file is None:
        with engine.begin() as connection:
            # However long another one's migration takes; but for a table that is in use no
            # longer than for any other lock, since all others would wait behind us.
            patience = connection.exec_driver_sql("SHOW lock_timeout").scalar()
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(*_MIGRATION_LOCK)))
            connection.execute(sa.select(sa.func.set_config("lock_timeout", patience, True)))
            yield connection
        return
    with open(f"{file}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with engine.begin() as connection:
            # Else the driver would commit each CREATE TABLE by itself.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection


def _takes_every_text(connection: sa.Connection) -> None:
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar()
    if encoding != "UTF8":
        raise LedgerError(
            f"the database of the ledger has the encoding {encoding}",
            rule="Text of every language has to fit: the encoding must be UTF8.",
            remedy="Make it with: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0.",
        )
