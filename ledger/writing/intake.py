"""From what a server sent to committed rows: one batch, one transaction.

Knows no socket: `ledger.writing.writer` feeds it messages and sends what it says.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from ledger.clock import now
from ledger.dialects import conversation
from ledger.errors import FlywheelError, RowRefused
from ledger.hashing import canonical_json
from ledger.keys.vault import Vault
from ledger.marks import by_user
from ledger.records import Feedback, FeedbackIn, Interaction, Tag
from ledger.settings import Settings
from ledger.store import Prepared, Store
from ledger.writing.frames import Numbers

logger = logging.getLogger("flywheel.writer")

# Feedback may overtake its row: from another server, or while an answer still streams.
UNKNOWN_ROW_SECONDS = 1.0
_LOOK_AGAIN_SECONDS = 0.05

Answer = Callable[[int, int, Any], None]


class _Row(NamedTuple):
    frame: int  # its number on the connection
    row: Prepared


class _Feedback(NamedTuple):
    number: int  # of the request that waits
    given: FeedbackIn
    deadline: float  # monotonic; until then its row may still come


class Intake:
    """The batch.

    Args:
        answer: called with (number, status, body) for each piece of feedback.

    Attributes:
        rows_written: answers stored for the first time.
        malformed: records left out.
        failing: why the ledger cannot be written now, and `failing_since`, seconds since the
            epoch; both None where it can.
    """

    def __init__(self, settings: Settings, store: Store, vault: Vault, answer: Answer) -> None:
        self._settings, self._store, self._vault = settings, store, vault
        self._answer = answer
        self._rows: list[_Row] = []
        self._feedback: list[_Feedback] = []
        self._taken = 0  # frames
        self._due = 0.0  # when the batch has to be committed, on the monotonic clock
        self.rows_written = 0
        self.malformed = 0
        self.failing: str | None = None
        self.failing_since: float | None = None

    @property
    def pending(self) -> bool:
        """Whether anything waits for a commit."""
        return bool(self._rows or self._feedback)

    @property
    def done(self) -> int:
        """How many frames need not be sent again, whatever happens to this process.

        Feedback counts once it was looked at: where its answer does not come, its sender is
        told so, and sends it again.
        """
        return self._rows[0].frame - 1 if self._rows else self._taken

    @property
    def numbers(self) -> Numbers:
        """How it goes."""
        return Numbers(
            ready=True,
            rows=self.rows_written,
            malformed=self.malformed,
            redaction_failures=self._store.redaction_failures,
            backlog=len(self._rows) + len(self._feedback),
            failing=self.failing,
            failing_since=self.failing_since,
        )

    def due(self) -> float:
        """Seconds until a commit is due; 0 or less means now."""
        return self._due - time.monotonic()

    # -- in ------------------------------------------------------------------------------

    def take(self, message: Any) -> None:
        """Add the message of one frame; one that makes no sense is counted and left out."""
        self._taken += 1
        now = time.monotonic()
        latest = now + self._settings.ledger.flush_ms / 1000
        self._due = min(self._due, latest) if self.pending else latest
        try:
            kind = message[0]
            if kind == "row":
                # Redacted here: once, whatever becomes of the commit, and not under a lock.
                [prepared] = self._store.prepared([self._interaction(message[1])])
                self._rows.append(_Row(self._taken, prepared))
                if len(self._rows) >= self._settings.ledger.batch_rows:
                    self._due = now
            elif kind == "feedback":
                given = FeedbackIn.model_validate(message[2])
                self._feedback.append(_Feedback(message[1], given, now + UNKNOWN_ROW_SECONDS))
                self._due = now  # somebody waits for its acknowledgement
            else:
                raise LookupError(kind)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            self.malformed += 1
            # Only where it went wrong: the content is what somebody typed.
            logger.error("a record is malformed and left out (%s)", type(error).__name__)

    def _interaction(self, fields: dict[str, Any]) -> Interaction:
        body, api = fields.pop("body"), fields["api"]
        said = conversation(api, body, fields.pop("prompt_index"))
        user, session = fields.pop("user"), fields.pop("session")
        request_id, choice = fields["request_id"], fields["choice"]
        return Interaction(
            row_id=f"{request_id}#{choice}" if choice else request_id,
            messages=said.messages,
            tools=said.tools,
            metadata=said.metadata,
            sampling=said.sampling,
            chat_template_kwargs=said.chat_template_kwargs,
            subject=None if user is None else self._vault.subject(user),
            session=None if session is None else self._vault.session(session),
            **fields,
        )

    def _feedback_row(self, given: FeedbackIn, row_id: str) -> Feedback:
        fields = given.model_dump(exclude={"id", "choice", "user", "tags"})
        subject = None if given.user is None else self._vault.subject(given.user)
        # Tags count only where there are some: what was sent before there were any is known again.
        said = [row_id, subject, fields] + ([sorted(given.tags)] if given.tags else [])
        identity = canonical_json(said)
        return Feedback(
            feedback_id=f"fb-{self._vault.mac('feedback', identity)}",
            row_id=row_id,
            ts=now(),
            subject=subject,
            **fields,
        )

    def _tags(self, names: list[str], row: Feedback) -> list[Tag]:
        """The tags that came with a piece of feedback, but for those with personal data in them.

        A tag is not sealed, so it cannot be forgotten.
        """
        kept, _ = self._store.redacted({name: name for name in names})
        who = by_user(row.subject)
        return [
            Tag(row_id=row.row_id, tag=name, who=who, why="sent with feedback", ts=row.ts)
            for name in dict.fromkeys(names)
            if kept.get(name) == name
        ]

    # -- out -----------------------------------------------------------------------------

    def commit(self) -> bool:
        """Commit the batch in one transaction; False where the ledger cannot be written now.

        Rows are kept then and tried again with the next call; feedback is refused. An empty
        batch commits too: it tells whether the ledger can be written again.
        """
        return self._commit(alone=False)

    def _commit(self, *, alone: bool) -> bool:
        try:
            written, answers, later = self._store_batch()
        except RowRefused as error:
            return self._leave_out(error) if alone else self._commit_singly()
        except FlywheelError as error:  # no row's fault: the disk, a lock, a key
            self._fail(error)
            return False
        except Exception as error:  # whatever one row does must not cost the others
            return self._leave_out(error) if alone else self._commit_singly()
        if self.failing is not None:
            logger.warning("the ledger can be written again; nothing that was read is lost")
            self.failing = self.failing_since = None
        self.rows_written += written
        self._rows, self._feedback = [], later
        self._due = time.monotonic() + _LOOK_AGAIN_SECONDS
        for answer in answers:
            self._answer(*answer)
        return True

    def _store_batch(self) -> tuple[int, list[tuple[int, int, Any]], list[_Feedback]]:
        """One transaction; returns rows written, what to answer now, what to look at again."""
        answers: list[tuple[int, int, Any]] = []
        later: list[_Feedback] = []
        with self._store.transaction() as connection:
            written = self._store.add_prepared([row for _, row in self._rows], connection)
            for waiting in self._feedback:
                number, given, deadline = waiting
                row_id = self._store.row_id(given.id, given.choice, connection)
                if row_id is not None:
                    row = self._feedback_row(given, row_id)
                    new = self._store.add_feedback(row, connection)
                    body = {"id": row.feedback_id, "row": row_id, "duplicate": not new}
                    body["of"] = self._store.answered_by(row_id, connection)
                    if given.tags:
                        tags = self._tags(given.tags, row)
                        self._store.add_tags(tags, connection)
                        body["tags"] = [tag.tag for tag in tags]
                    answers.append((number, 200, body))
                elif time.monotonic() < deadline:
                    later.append(waiting)
                else:
                    answers.append((number, 404, {"id": given.id}))
        return written, answers, later

    def _fail(self, error: FlywheelError) -> None:
        if self.failing is None:
            self.failing_since = time.time()
            logger.error("rows wait, the ledger cannot be written: %s", error)
        self.failing = error.problem
        for number, _, _ in self._feedback:
            self._answer(number, 503, {"reason": error.problem})
        self._feedback = []
        # A connection that was opened while the disk was read-only would stay so.
        self._store.close()

    def _commit_singly(self) -> bool:
        """Each for itself, so that only what cannot be stored is left out."""
        rows, feedback = self._rows, self._feedback
        later: list[_Feedback] = []
        for index, row in enumerate(rows):
            self._rows, self._feedback = [row], []
            if not self._commit(alone=True):
                self._rows, self._feedback = rows[index:], feedback
                return False
        for index, given in enumerate(feedback):
            self._rows, self._feedback = [], [given]
            if not self._commit(alone=True):  # this one is answered
                self._feedback = later + feedback[index + 1 :]
                return False
            later += self._feedback
        self._rows, self._feedback = [], later
        return True

    def _leave_out(self, error: Exception) -> bool:
        """Drop the one record of the batch; only the kind of error is told, not the content."""
        self.malformed += 1
        logger.error("a record cannot be stored and is left out (%s)", type(error).__name__)
        for number, _, _ in self._feedback:
            self._answer(number, 422, {})
        self._rows, self._feedback = [], []
        return True
