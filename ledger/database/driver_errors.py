"""What the drivers of the databases complain about, in our words.

SQLite's errors are told apart by their code, PostgreSQL's by their SQLSTATE, and those of a
connection that was never made by libpq's text, since it gives no code for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from ledger.errors import LedgerError, LedgerLocked, RowRefused

_BUSY, _LOCKED, _READONLY, _CORRUPT, _FULL, _NOT_A_DATABASE = 5, 6, 8, 11, 13, 26

# SQLSTATE -> what is the matter, what to do about it.
_BY_STATE = {
    "25006": (
        "is read-only",
        "Name the primary server in ledger.url, not a standby.",
    ),
    "25P03": (
        "gave up on this process: it stood still in the middle of writing",
        "Nothing of that was kept; it is tried again.",
    ),
    "28000": ("refuses this user", "Check the user in ledger.url and the server's pg_hba.conf."),
    "28P01": ("refuses the password", "Check ledger.url, or the line in ~/.pgpass."),
    "3D000": (
        "does not exist on the server",
        "Make it: createdb --owner USER --encoding UTF8 NAME.",
    ),
    "42501": (
        "does not let this user do that",
        "Make the user the owner: ALTER DATABASE NAME OWNER TO USER.",
    ),
    "53100": ("has no room: the server's disk is full", "Free space and try again."),
    "53200": ("has no room: the server is out of memory", "Look at the server's log."),
    "53300": (
        "takes no more connections",
        "Raise max_connections of the server, or end programs that use it.",
    ),
    "57P01": ("went away: the server is shutting down", "It is tried again when it is back."),
    "57P02": ("went away: the server crashed", "Look at the server's log."),
    "57P03": ("is not ready yet: the server is starting or stopping", "Try again in a moment."),
}
_LOCKED_STATES = ("55P03", "40P01", "40001", "55006")
_TOO_LARGE = "54"  # a class: the value is longer than an index takes, and will be next time

# What libpq says when no connection comes about -> the state it stands for, or our own words.
_BY_TEXT: tuple[tuple[str, str | tuple[str, str]], ...] = (
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ("too many clients", "53300"),
    ("too many connections", "53300"),
    ("remaining connection slots", "53300"),
    ("permission denied", "42501"),
    ("the database system is", "57P03"),
    ('role "', "28000"),
    ('database "', "3D000"),
    (
        "Connection refused",
        ("cannot be reached: connection refused", "Start the server, or check host and port."),
    ),
    (
        "No such file or directory",
        ("cannot be reached: no server on this socket", "Start the server, or name its host."),
    ),
    (
        "failed to resolve host",
        ("cannot be reached: there is no such host", "Check the host in ledger.url."),
    ),
    (
        "could not translate host name",
        ("cannot be reached: there is no such host", "Check the host in ledger.url."),
    ),
    (
        "timeout",
        ("cannot be reached: no answer in time", "Check host, port and firewall."),
    ),
)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn a driver's error into ours, with the remedy where we know one.

    Args:
        what: names the ledger in messages: its URL without the password.

    Raises:
        RowRefused: a value breaks a rule of its table, or is one that no database stores.
        LedgerLocked: another process holds what is needed.
        LedgerError: anything else that the database says.
    """
    try:
        yield
    except (sa.exc.IntegrityError, sa.exc.DataError) as error:
        raise RowRefused(f"the ledger {what} does not take this: {_said(error)}") from error
    except (OverflowError, UnicodeEncodeError) as error:  # from the driver, before it sends
        raise RowRefused(f"the ledger {what} cannot hold this: {_reason(error)}") from error
    except UnicodeDecodeError as error:  # from SQLite's own tables
        raise _damaged(what, "it holds bytes that are no UTF-8") from error
    except OSError as error:
        raise LedgerError(
            f"the ledger {what} cannot be opened: {error.strerror} ({error.filename})"
        ) from error
    except sa.exc.DBAPIError as error:
        if str(getattr(error.orig, "sqlstate", None)).startswith(_TOO_LARGE):
            raise RowRefused(f"the ledger {what} cannot hold this: {_said(error)}") from error
        raise _ours(what, error) from error
    except sa.exc.TimeoutError as error:  # all pooled connections are in use by other threads
        raise LedgerLocked(
            f"the ledger {what}: every connection of this process is in use",
            remedy="Try again in a moment.",
        ) from error


def _ours(what: str, error: sa.exc.DBAPIError) -> LedgerError:
    if str(error.orig).startswith("Could not decode to UTF-8"):  # quotes what it read
        return _damaged(what, "it holds bytes that are no UTF-8")
    code = getattr(error.orig, "sqlite_errorcode", None)
    return _of_sqlite(what, error, code) if code is not None else _of_postgresql(what, error)


def _of_sqlite(what: str, error: sa.exc.DBAPIError, code: int) -> LedgerError:
    kind = code & 0xFF  # the rest says more precisely where
    if kind in (_BUSY, _LOCKED):
        return _locked(what)
    if kind == _FULL:
        return LedgerError(
            f"the disk of the ledger {what} is full", remedy="Free space and try again."
        )
    if kind == _READONLY:
        return LedgerError(
            f"the ledger {what} is read-only",
            remedy="Let this user write to the file and its folder.",
        )
    # Every table and column that we ask for is made by our migrations.
    if kind in (_CORRUPT, _NOT_A_DATABASE) or str(error.orig).startswith("no such "):
        return _damaged(what, _said(error))
    return LedgerError(f"the ledger {what}: {_said(error)}")


def _of_postgresql(what: str, error: sa.exc.DBAPIError) -> LedgerError:
    state = getattr(error.orig, "sqlstate", None)
    said = _said(error)
    if state in _LOCKED_STATES:
        return _locked(what)
    known: str | tuple[str, str] | None = state
    if state is None:
        known = next((means for text, means in _BY_TEXT if text in said), None)
    explained = _BY_STATE.get(known) if isinstance(known, str) else known
    if explained is not None:
        problem, remedy = explained
        return LedgerError(f"the ledger {what} {problem}", rule=said, remedy=remedy)
    if error.connection_invalidated:
        return LedgerError(
            f"the ledger {what} went away: the connection was lost",
            rule=said,
            remedy="It is tried again when it is back.",
        )
    return LedgerError(f"the ledger {what}: {said}")


def _damaged(what: str, how: str) -> LedgerError:
    return LedgerError(
        f"the ledger {what} is damaged: {how}",
        remedy="Restore it from a backup, or save what is readable with `sqlite3 … .recover`.",
    )


def _locked(what: str) -> LedgerLocked:
    return LedgerLocked(
        f"the ledger {what} is locked by another process",
        remedy="Wait until that process is done, or raise ledger.lock_seconds.",
    )


def _said(error: sa.exc.DBAPIError) -> str:
    """The driver's message on one line, without PostgreSQL's detail, which quotes the row."""
    diagnosis: Any = getattr(error.orig, "diag", None)
    primary = None if diagnosis is None else diagnosis.message_primary
    return " ".join(str(primary or error.orig).split())


def _reason(error: Exception) -> str:
    """What is wrong with a value, without the value."""
    return error.reason if isinstance(error, UnicodeEncodeError) else str(error)
