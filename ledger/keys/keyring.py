"""The keys that text is sealed with: one random key for each user, kept wrapped in the ledger.

A row's text belongs to its user; where no user is known to the session, and where that is not
known either to the day. Forgetting somebody deletes their keys: what is sealed with them, here
and in every copy made after their key was, cannot be read by anybody again. Who comes back gets
a new key.

Other processes forget and rotate too. Each use starts with `refresh`, one query that says
whether what is remembered here still holds.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import UTC, datetime

import sqlalchemy as sa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ledger.clock import now
from ledger.database import tables
from ledger.errors import ConfigError, RowRefused
from ledger.keys.master import MasterKeys
from ledger.keys.pack import KEY_ID_BYTES
from ledger.settings import Privacy

#: In front of a hashed session, where it owns a key because no user is known.
SESSION = "session:"
_REMEMBERED = 20_000
_CHUNK = 500


def owner_of(subject: str | None, session: str | None, ts: float) -> str:
    """Whose key seals the text of a row."""
    if subject is not None:
        return subject
    if session is not None:
        return f"{SESSION}{session}"
    try:
        return f"day:{datetime.fromtimestamp(ts, UTC):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):
        raise RowRefused(f"{ts} is no time") from None


class Keyring:
    """Finds and makes keys. The master keys are read when the first key is needed."""

    def __init__(self, privacy: Privacy) -> None:
        self._privacy = privacy
        self._masters: MasterKeys | None = None
        self._current: str | None = None  # id of the master key in use
        self._state: tuple[int, int] = (-1, -1)
        self._sealing: dict[str, tuple[bytes, AESGCM]] = {}
        self._opening: dict[bytes, AESGCM | None] = {}
        self._forgotten: dict[str, float] = {}

    def refresh(self, connection: sa.Connection) -> None:
        """Learn what other processes changed."""
        forgotten, masters = tables.forgotten, tables.masters
        state = connection.execute(
            sa.select(
                sa.select(sa.func.coalesce(sa.func.max(forgotten.c.seq), 0)).scalar_subquery(),
                sa.select(sa.func.coalesce(sa.func.max(masters.c.seq), 0)).scalar_subquery(),
            )
        ).one()
        if tuple(state) == self._state:
            return
        self._sealing.clear()
        self._opening.clear()
        self._current = connection.scalar(
            sa.select(masters.c.master).order_by(masters.c.seq.desc()).limit(1)
        )
        last = sa.select(forgotten.c.subject, sa.func.max(forgotten.c.ts)).group_by(
            forgotten.c.subject
        )
        self._forgotten = {subject: ts for subject, ts in connection.execute(last)}
        self._state = (state[0], state[1])

    def reset(self) -> None:
        """Remember nothing: a transaction was taken back, and keys that it made with it."""
        self._state = (-1, -1)
        self._sealing.clear()

    def was_forgotten(self, owner: str, ts: float) -> bool:
        """Whether a text of that time belongs to somebody who was forgotten since."""
        since = self._forgotten.get(owner)
        return since is not None and ts <= since

    def sealing(self, owner: str, connection: sa.Connection) -> tuple[bytes, AESGCM]:
        """The key of an owner and its id, made where there is none. Call under the write lock.

        Raises:
            ConfigError: the master key is not the ledger's.
        """
        found = self._sealing.get(owner)
        if found is None:
            found = self._existing(owner, connection) or self._new(owner, connection)
            _bound(self._sealing)
            self._sealing[owner] = found
        return found

    def opening(
        self, ids: Collection[bytes], connection: sa.Connection
    ) -> dict[bytes, AESGCM | None]:
        """Keys by id; None where one was deleted.

        Raises:
            ConfigError: the master key is not the one that wraps them.
        """
        table = tables.subjects
        found = {one: self._opening[one] for one in ids if one in self._opening}
        missing = [one.hex() for one in ids if one not in found]
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            query = sa.select(table).where(table.c.key_id.in_(chunk))
            rows = {row.key_id: row for row in connection.execute(query)}
            for one in chunk:
                key = AESGCM(self._unwrapped(rows[one])) if one in rows else None
                found[bytes.fromhex(one)] = key
        _bound(self._opening)
        self._opening.update(found)
        return found

    def forget(self, owner: str, connection: sa.Connection, *, who: str, why: str) -> int:
        """Delete the keys of an owner and note that; returns the number of keys."""
        table = tables.subjects
        gone = connection.execute(sa.delete(table).where(table.c.owner == owner)).rowcount
        noted = {"subject": owner, "ts": now(), "who": who, "why": why}
        connection.execute(sa.insert(tables.forgotten).values(noted))
        return gone

    def rotate(self, master: str, connection: sa.Connection, *, who: str) -> int:
        """Wrap every key with another master key, which is in use from now on.

        Raises:
            ConfigError: this process does not know one of the master keys.
        """
        self._masters = MasterKeys.open(self._privacy, create=False)
        table, count = tables.subjects, 0
        rows = connection.execute(sa.select(table).where(table.c.master != master)).all()
        for row in rows:
            key = self._unwrapped(row)
            wrapped = self._masters.wrap(master, key, _bound_to(row.key_id, row.owner))
            connection.execute(
                sa.update(table)
                .where(table.c.key_id == row.key_id)
                .values(wrapped=wrapped, master=master)
            )
            count += 1
        self._use(master, connection, who=who)
        return count

    def current(self, connection: sa.Connection) -> str | None:
        """Id of the master key in use; None before the first."""
        self.refresh(connection)
        return self._current

    def _existing(self, owner: str, connection: sa.Connection) -> tuple[bytes, AESGCM] | None:
        table = tables.subjects
        query = sa.select(table).where(table.c.owner == owner).order_by(table.c.ts).limit(1)
        row = connection.execute(query).first()
        return None if row is None else (bytes.fromhex(row.key_id), AESGCM(self._unwrapped(row)))

    def _new(self, owner: str, connection: sa.Connection) -> tuple[bytes, AESGCM]:
        masters = self._known()
        if self._current is None:
            self._use(masters.newest, connection, who="first use")
        assert self._current is not None
        if self._current not in masters:
            # Another process rotated it: the file holds the new one by now.
            self._masters = masters = MasterKeys.open(self._privacy, create=False)
        if self._current not in masters:
            raise ConfigError(
                f"the ledger's master key is {self._current}; {masters.source} does not hold it",
                rule="Text is never sealed with a key that the other processes do not know.",
                remedy="Give this process the key that is in use (`flywheel keys show`).",
            )
        key, key_id = secrets.token_bytes(32), secrets.token_bytes(KEY_ID_BYTES)
        connection.execute(
            sa.insert(tables.subjects).values(
                key_id=key_id.hex(),
                owner=owner,
                wrapped=masters.wrap(self._current, key, _bound_to(key_id.hex(), owner)),
                master=self._current,
                ts=now(),
            )
        )
        return key_id, AESGCM(key)

    def _use(self, master: str, connection: sa.Connection, *, who: str) -> None:
        values = {"master": master, "ts": now(), "who": who}
        connection.execute(sa.insert(tables.masters).values(values))
        self._current = master

    def _known(self) -> MasterKeys:
        if self._masters is None:
            # A ledger that has text already has a key somewhere: a new one would not open it.
            self._masters = MasterKeys.open(self._privacy, create=self._current is None)
        return self._masters

    def _unwrapped(self, row: sa.Row) -> bytes:
        masters = self._known()
        if row.master not in masters:
            self._masters = masters = MasterKeys.open(self._privacy, create=False)
        return masters.unwrap(row.master, row.wrapped, _bound_to(row.key_id, row.owner))


def _bound_to(key_id: str, owner: str) -> str:
    return f"{key_id} {owner}"


def _bound(remembered: dict) -> None:
    """Forget what was remembered first, so that memory stays flat."""
    while len(remembered) >= _REMEMBERED:
        remembered.pop(next(iter(remembered)))
