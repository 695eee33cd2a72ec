"""Opening the database: its pragmas, its migrations, and its errors in our words."""

from __future__ import annotations

import fcntl
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from ledger.errors import LedgerError, LedgerLocked, RowRefused
from ledger.migrations import HEAD

_VERSION_TABLE = sa.table("alembic_version", sa.column("version_num"))


def open_engine(url: str, *, lock_seconds: float) -> sa.Engine:
    """Connect, make the folder of an SQLite file, and bring the schema up to date.

    Raises:
        LedgerError: the URL is malformed, its driver absent, the file unreadable, damaged,
            or made by a newer Flywheel.
        LedgerLocked: another process holds it for longer than `lock_seconds`.
    """
    try:
        parsed = make_url(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and (not parsed.database or parsed.database == ":memory:"):
            raise LedgerError(
                f"ledger.url {url!r} keeps nothing",
                rule="Several processes share the ledger, so it has to be a file or a server.",
                remedy="Use sqlite:///var/ledger.db or postgresql+psycopg://….",
            )
        engine = sa.create_engine(
            parsed,
            connect_args={"timeout": lock_seconds} if sqlite else {},
            pool_pre_ping=not sqlite,
        )
    except sa.exc.ArgumentError as error:
        shown = re.sub(r":[^:@/]*@", ":***@", url)
        raise LedgerError(f"ledger.url {shown!r} is not a database URL: {error}") from error
    except ImportError as error:
        raise LedgerError(
            f"ledger.url {parsed.render_as_string()!r} needs a driver: {error}"
        ) from error
    with translated(parsed.render_as_string()):
        if sqlite:
            assert parsed.database is not None
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            sa.event.listen(engine, "connect", _sqlite_pragmas)
        _migrate(engine, Path(parsed.database) if sqlite and parsed.database else None)
    return engine


def _sqlite_pragmas(connection, _record) -> None:  # type: ignore[no-untyped-def]
    # WAL lets readers and one writer work at once; NORMAL survives the death of a process.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _revision(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table(_VERSION_TABLE.name):
            return None
        return connection.scalar(sa.select(_VERSION_TABLE.c.version_num))


def _migrate(engine: sa.Engine, file: Path | None) -> None:
    """Apply what is missing; processes that open a new file at once take turns."""
    if _revision(engine) == HEAD:
        return
    with _turn(file):
        found = _revision(engine)
        if found == HEAD:
            return
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
        with engine.begin() as connection:
            if file is not None:  # the driver would commit each CREATE TABLE by itself
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


@contextmanager
def _turn(file: Path | None) -> Iterator[None]:
    if file is None:  # a server runs the migration in one transaction
        yield
        return
    with open(f"{file}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn a driver's error into ours, with the remedy where we know one."""
    try:
        yield
    except (sa.exc.IntegrityError, sa.exc.DataError) as error:
        raise RowRefused(f"the ledger {what} does not take this: {error.orig}") from error
    except (OverflowError, UnicodeEncodeError) as error:  # from the driver, before it sends
        raise RowRefused(f"the ledger {what} cannot hold this: {error}") from error
    except OSError as error:
        raise LedgerError(
            f"the ledger {what} cannot be opened: {error.strerror} ({error.filename})"
        ) from error
    except sa.exc.DBAPIError as error:
        text = str(error.orig)
        if "locked" in text or "busy" in text:
            raise LedgerLocked(
                f"the ledger {what} is locked by another process",
                remedy="Wait until that process is done, or raise ledger.lock_seconds.",
            ) from error
        if "full" in text:
            raise LedgerError(
                f"the disk of the ledger {what} is full", remedy="Free space and try again."
            ) from error
        raise LedgerError(f"the ledger {what}: {text}") from error
