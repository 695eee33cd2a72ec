"""People: making what they typed unreadable, and knowing what was trained on it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from ledger.database import tables
from ledger.database.engine import translated, wipe_deleted
from ledger.errors import LedgerError
from ledger.keys.keyring import SESSION
from ledger.store.base import NO_TEXT, STREAM, Base, chunks, remove_text

logger = logging.getLogger(__name__)


class Forgotten(NamedTuple):
    """What a person had in the ledger.

    Attributes:
        row_ids: the answers that they got, and those of others that they corrected.
        keys: how many keys were deleted.
        datasets: frozen datasets with one of those rows.
        wiped: whether the bytes of the keys are gone from the database's files too.
    """

    row_ids: list[str]
    keys: int
    datasets: list[str]
    wiped: bool


class Subjects(Base):
    """The tables `subjects`, `masters` and `forgotten`."""

    def forget(self, subject: str, *, who: str, why: str) -> Forgotten:
        """Delete a person's keys and their text.

        Args:
            subject: the hashed user, or `session:` and a hashed session of nobody known.

        The keys are what counts: they also open the copies of the text that lie elsewhere, as
        in the write-ahead log and in free pages of the file. The text itself goes too, so that
        its bytes are not kept for nothing.

        Raises:
            LedgerError: privacy.seal is off, so there are no keys.
        """
        if self._keyring is None:
            raise LedgerError(
                "privacy.seal is off, so nobody's text can be made unreadable everywhere",
                remedy="Switch it on; text that was stored without it stays as it is.",
            )
        rows, feedback, corrections = tables.interactions, tables.feedback, tables.corrections
        spoke = ((feedback, feedback.c.subject), (corrections, corrections.c.author))
        with self.transaction() as connection:
            of_session = subject.removeprefix(SESSION)
            whose = (
                rows.c.subject == subject
                if of_session == subject
                else sa.and_(rows.c.subject.is_(None), rows.c.session == of_session)
            )
            own = list(connection.scalars(sa.select(rows.c.row_id).where(whose)))
            corrected = sa.select(corrections.c.row_id).where(corrections.c.author == subject)
            touched = sorted({*own, *connection.scalars(corrected)})
            keys = self._keyring.forget(subject, connection, who=who, why=why)
            for chunk in chunks(own):
                remove_text(chunk, connection, size=len(NO_TEXT))
            for table, column in spoke:
                connection.execute(sa.update(table).where(column == subject).values(text=NO_TEXT))
            for chunk in chunks(touched):  # what a build knows about corrections of others, too
                known = tables.candidates.c.row_id.in_(chunk)
                connection.execute(sa.delete(tables.candidates).where(known))
            datasets = self._datasets_with(touched, connection)
        return Forgotten(touched, keys, datasets, self._scrub())

    def _scrub(self) -> bool:
        """Take the deleted keys out of the database's files; False where somebody is in the way."""
        try:
            with translated(self.url):
                wipe_deleted(self.engine, tables.subjects)
        except LedgerError as error:
            logger.warning("deleted keys may still stand in free pages of the ledger: %s", error)
            return False
        return True

    def _datasets_with(self, row_ids: Sequence[str], connection: sa.Connection) -> list[str]:
        table = tables.dataset_rows
        found: set[str] = set()
        for chunk in chunks(row_ids):
            query = sa.select(table.c.dataset_id).where(table.c.row_id.in_(chunk)).distinct()
            found |= set(connection.scalars(query))
        return sorted(found)

    def datasets_with_forgotten(self) -> set[str]:
        """Ids of frozen datasets that hold, or held, rows of people who were forgotten since.

        Rows that they corrected count as theirs.
        """
        gone, links = tables.forgotten, tables.dataset_rows
        rows, corrections = tables.interactions, tables.corrections
        found: set[str] = set()
        with self.reading() as connection:
            for table, whose in (
                (rows, gone.c.subject == rows.c.subject),
                (
                    rows,
                    sa.and_(
                        rows.c.subject.is_(None),
                        gone.c.subject == sa.literal(SESSION) + rows.c.session,
                    ),
                ),
                (corrections, gone.c.subject == corrections.c.author),
            ):
                query = (
                    sa.select(links.c.dataset_id)
                    .distinct()
                    .join(table, table.c.row_id == links.c.row_id)
                    .join(gone, whose)
                    .where(table.c.ts <= gone.c.ts)
                )
                found |= set(connection.scalars(query))
        return found

    def rotate_master(self, master: str, *, who: str) -> int:
        """Wrap every key with another master key; returns how many.

        Raises:
            LedgerError: privacy.seal is off.
            ConfigError: this process does not know one of the master keys.
        """
        if self._keyring is None:
            raise LedgerError("privacy.seal is off, so there is no master key to change")
        with self.transaction() as connection:
            count = self._keyring.rotate(master, connection, who=who)
        self._scrub()
        return count

    def master(self) -> str | None:
        """Id of the master key in use; None where nothing was sealed yet."""
        if self._keyring is None:
            return None
        with self.reading() as connection:
            return self._keyring.current(connection)

    def unreadable(self) -> list[str]:
        """Ids of rows whose text is damaged: every text of the ledger is opened."""
        rows = tables.interactions
        query = sa.select(rows.c.row_id, rows.c.text).order_by(rows.c.seq)
        found = []
        with (
            self.reading() as connection,
            connection.execute(query, execution_options=STREAM) as result,
        ):
            for page in result.partitions():
                keys = self._keys((row.text for row in page), connection)
                for row in page:
                    name = f"interactions:{row.row_id}"
                    if self._text(row.text, name, keys, connection) is None:
                        found.append(row.row_id)
        return found
