"""What all tables share: transactions, and the way of text into a column and back."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import sqlalchemy as sa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy.dialects import postgresql, sqlite

from ledger.database import tables
from ledger.database.engine import open_engine, take_write_lock, translated
from ledger.errors import LedgerError
from ledger.keeping.sampling import sample_key
from ledger.keys.keyring import Keyring
from ledger.keys.pack import key_of, pack, seal, unpack, unseal
from ledger.keys.vault import Vault
from ledger.settings import Privacy, Settings

if TYPE_CHECKING:
    from ledger.redact import Conversation, Redactor

logger = logging.getLogger(__name__)

NO_TEXT = pack({})
# Nobody's: the example IBAN of the norm, a number, and letters beyond ASCII.
_SAMPLE = "Grüße, DE89 3704 0044 0532 0130 00, 12345678901, +44 20 7946 0958"
PAGE = 500
#: Options of a query whose rows are fetched page by page, not all at once.
STREAM = {"yield_per": PAGE}


class Text(NamedTuple):
    """A text as it came back from its column.

    Attributes:
        fields: empty where there is none.
        gone: its key was deleted, so nobody can read it.
    """

    fields: dict[str, Any]
    gone: bool = False


class Secrets:
    """The keys of a configuration, each read when it is first needed.

    Reading deployments needs none of them, so a server can start where they are absent.
    """

    def __init__(self, privacy: Privacy) -> None:
        self._privacy = privacy
        self._vault: Vault | None = None
        self.keyring = Keyring(privacy) if privacy.seal else None

    @property
    def vault(self) -> Vault:
        """The key that hashes identities.

        Raises:
            ConfigError: see `Vault.open`.
        """
        if self._vault is None:
            self._vault = Vault.open(self._privacy.key_file)
        return self._vault

    def placeholder_mac(self, data: bytes) -> str:
        """Names a redacted value, so that it is known again in the same conversation."""
        return self.vault.mac("placeholder", data)[:16]


class Base:
    """An open ledger.

    Args:
        engine: an engine whose schema is up to date, from `ledger.database.engine.open_engine`.
        redactor: applied to every text field; None: what `privacy` says, made when the first
            text comes, since a detector of names takes seconds to load.
        secrets: keys; without them nothing is sealed and no row can be sampled.
        privacy: without it and without a redactor text is kept as it is.

    Attributes:
        redaction_failures: texts that were not kept because redaction failed.
        damaged: texts found that cannot be read, since this process began.
    """

    def __init__(
        self,
        engine: sa.Engine,
        redactor: Redactor | None = None,
        secrets: Secrets | None = None,
        privacy: Privacy | None = None,
    ) -> None:
        self.engine = engine
        self.url = engine.url.render_as_string()
        self.redaction_failures = 0
        self.damaged = 0
        self._privacy = privacy
        self._given_redactor = redactor
        self._secrets = secrets
        self._keyring = None if secrets is None else secrets.keyring

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Open the ledger of a configuration.

        Raises:
            LedgerError, LedgerLocked: see `ledger.database.engine.open_engine`.
        """
        engine = open_engine(
            settings.ledger.url,
            lock_seconds=settings.ledger.lock_seconds,
            durability=settings.ledger.durability,
        )
        return cls(engine, None, Secrets(settings.privacy), settings.privacy)

    def load_detectors(self) -> None:
        """Make the redactor now, and use each of its parts once: that imports what they need.

        Raises:
            ConfigError: the detector of names is not installed.
        """
        self.redacted({"text": _SAMPLE})

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """One transaction that writes: all of it is kept, or nothing.

        It holds the ledger's write lock from its start. So what is read in it holds until it
        ends, rows become visible in the order of their numbers, and nobody is forgotten while
        their text is being sealed.
        """
        try:
            with translated(self.url), self.engine.begin() as connection:
                take_write_lock(connection)
                if self._keyring is not None:
                    self._keyring.refresh(connection)
                yield connection
        except BaseException:
            if self._keyring is not None:
                self._keyring.reset()  # keys that were made here do not exist
            raise

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection to read from."""
        with translated(self.url), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """A connection whose queries see one state of the ledger."""
        with self.reading() as connection:
            on_sqlite = connection.dialect.name == "sqlite"
            connection.exec_driver_sql(
                "BEGIN" if on_sqlite else "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
            )
            yield connection

    # -- text in -------------------------------------------------------------------------

    @cached_property
    def _redactor(self) -> Redactor | None:
        if self._given_redactor is not None or self._privacy is None or self._secrets is None:
            return self._given_redactor
        from ledger.redact import Redactor  # 0.1 s to import, and needed by who brings text

        return Redactor.of(self._privacy, self._secrets.placeholder_mac)

    def _conversation(self, known: dict[str, str] | None = None) -> Conversation | None:
        return None if self._redactor is None else self._redactor.conversation(known)

    def redacted(
        self, fields: dict[str, Any], conversation: Conversation | None = None
    ) -> tuple[dict[str, Any], bool]:
        """Redact text fields; ({}, False) where that failed, and it is counted.

        Args:
            conversation: what the text belongs to; one of its own unless given.
        """
        if self._redactor is None:
            return fields, True
        try:
            conversation = conversation or self._redactor.conversation()
            return {key: conversation.redact(value) for key, value in fields.items()}, True
        except Exception as error:  # fail closed, whatever a detector does
            self.redaction_failures += 1
            # Only what kind of error: its message may quote the text.
            logger.error("redaction failed (%s); the text is not kept", type(error).__name__)
            return {}, False

    def _packed(
        self,
        fields: dict[str, Any],
        name: str,
        owners: Iterable[str],
        connection: sa.Connection,
    ) -> bytes:
        """Text fields as bytes; see `_sealed`."""
        return self._sealed(pack(fields), name, owners, connection)

    def _sealed(
        self, data: bytes, name: str, owners: Iterable[str], connection: sa.Connection
    ) -> bytes:
        """Packed text sealed with the key of each owner in turn; no text is not sealed.

        Args:
            name: of the record, which the text is bound to.
        """
        if self._keyring is None or data == NO_TEXT:
            return data
        for owner in dict.fromkeys(owners):
            key_id, key = self._keyring.sealing(owner, connection)
            data = seal(data, key_id, key, name)
        return data

    def was_forgotten(self, owner: str, ts: float) -> bool:
        """Whether a text of that time belongs to somebody who was forgotten since."""
        return self._keyring is not None and self._keyring.was_forgotten(owner, ts)

    def mac(self, kind: str, data: bytes) -> str:
        """A keyed hash, 32 hex digits, of what is derived from text: without the key a guessed
        text cannot be tried on it.

        Args:
            kind: what is hashed, so that the same bytes in another place look different.
        """
        if self._secrets is None:
            return hashlib.blake2b(data, digest_size=16, person=kind.encode()[:16]).hexdigest()
        return self._secrets.vault.mac(kind, data)[:32]

    def _sample_key(self, row_id: str) -> float:
        return 0.0 if self._secrets is None else sample_key(self._secrets.vault, row_id)

    # -- text out ------------------------------------------------------------------------

    def _keys(
        self, texts: Iterable[bytes], connection: sa.Connection
    ) -> dict[bytes, AESGCM | None]:
        """The keys of a page of texts, in one query."""
        if self._keyring is None:
            return {}
        self._keyring.refresh(connection)
        ids = {key_id for data in texts if (key_id := key_of(data)) is not None}
        return self._keyring.opening(ids, connection)

    def _text(
        self, data: bytes, name: str, keys: dict[bytes, AESGCM | None], connection: sa.Connection
    ) -> Text | None:
        """Unseal and unpack; None where it is damaged, which is counted and logged."""
        try:
            while (key_id := key_of(data)) is not None:
                if self._keyring is None:
                    raise LedgerError(f"the text of {name} is sealed, and privacy.seal is off")
                if key_id not in keys:  # sealed twice: this is the inner key
                    keys |= self._keyring.opening([key_id], connection)
                key = keys[key_id]
                if key is None:
                    return Text({}, gone=True)
                data = unseal(data, key, name)
            return Text(unpack(data))
        except LedgerError as error:
            self.damaged += 1
            logger.error("skipped %s: %s", name, error.problem)
            return None


def insert_new(connection: sa.Connection, table: sa.Table, values: dict[str, Any]) -> bool:
    """Insert a row unless it is there, also where two processes try at once; whether it was new."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return connection.execute(insert(table).values(values).on_conflict_do_nothing()).rowcount == 1


def remove_text(row_ids: Sequence[str], connection: sa.Connection, *, size: int) -> None:
    """Remove the text of rows and of the feedback and corrections about them.

    Args:
        row_ids: not more than fit into one query, see `chunks`.
        size: what the rows' `bytes` say from now on.
    """
    rows = tables.interactions
    gone = {"text": NO_TEXT, "bytes": size, "stored_text": False, "chat_template_kwargs": None}
    connection.execute(sa.update(rows).where(rows.c.row_id.in_(row_ids)).values(gone))
    for table in (tables.feedback, tables.corrections, tables.shadows):
        connection.execute(sa.update(table).where(table.c.row_id.in_(row_ids)).values(text=NO_TEXT))
    for table in (tables.drafts, tables.candidates, tables.gate_answers):
        connection.execute(sa.delete(table).where(table.c.row_id.in_(row_ids)))
    waiting = sa.update(tables.queue).where(tables.queue.c.row_id.in_(row_ids))
    connection.execute(waiting.values(waiting=False, who=None))


def chunks(items: Sequence[str], size: int = PAGE) -> Iterator[Sequence[str]]:
    """Pieces of a list that fit into one query."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
