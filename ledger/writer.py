"""The writer process: takes records from one server, makes rows of them, commits in groups.

    python -m ledger.writer --config FILE --fd N

Hashing of users, redaction and every touch of the disk happen here, away from the server's
event loop. A record waits at most `ledger.flush_ms` for others. When the ledger cannot be
written (locked, full disk) the batch is kept and tried again while the server's buffer fills;
feedback is then refused, so that its sender tries again. The process ends when the server's
end of the socket closes and everything read is committed: it outlives a killed server by as
long as that takes, or by a minute where the ledger cannot be written. It survives the death of
neither itself nor the machine: rows of the last flush are lost then.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any

from ledger.channel import Frames, frame
from ledger.dialects import conversation
from ledger.errors import FlywheelError, LedgerError, RowRefused
from ledger.hashing import canonical_json
from ledger.records import Feedback, FeedbackIn, Interaction
from ledger.settings import Settings, load
from ledger.store import Store
from ledger.vault import Vault

logger = logging.getLogger("flywheel.writer")

# Feedback may overtake its row: from another server, or while an answer still streams.
UNKNOWN_ROW_SECONDS = 1.0
_LOOK_AGAIN_SECONDS = 0.05
# On a small box answering comes first; the pipe holds what waits.
_NICE = 5
_RETRY_SECONDS = 0.5
_GIVE_UP_SECONDS = 60.0


class Writer:
    """Turns frames into committed rows.

    Args:
        answer: called with (number, status, body) for each piece of feedback.
    """

    def __init__(self, settings: Settings, store: Store, vault: Vault, answer: Any) -> None:
        self._settings, self._store, self._vault = settings, store, vault
        self._answer = answer
        self._rows: list[Interaction] = []
        self._feedback: list[tuple[int, FeedbackIn, float]] = []
        self._due = 0.0  # when the batch has to be committed, on the monotonic clock
        self.failing_since: float | None = None
        self.malformed = 0

    @property
    def pending(self) -> bool:
        """Whether anything waits for a commit."""
        return bool(self._rows or self._feedback)

    def take(self, message: list[Any]) -> None:
        """Add one message to the batch; one that makes no sense is counted and left out."""
        now = time.monotonic()
        latest = now + self._settings.ledger.flush_ms / 1000
        self._due = min(self._due, latest) if self.pending else latest
        try:
            if message[0] == "row":
                self._rows.append(self._interaction(message[1]))
                if len(self._rows) >= self._settings.ledger.batch_rows:
                    self._due = now
            elif message[0] == "feedback":
                deadline = now + UNKNOWN_ROW_SECONDS
                self._feedback.append((message[1], FeedbackIn.model_validate(message[2]), deadline))
                self._due = now  # somebody waits for its acknowledgement
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            self.malformed += 1
            # Only where it went wrong: the content is what somebody typed.
            logger.error("a record is malformed and left out (%s)", type(error).__name__)

    def due(self) -> float:
        """Seconds until a commit is due; 0 or less means now."""
        return self._due - time.monotonic()

    def commit(self) -> bool:
        """Commit the batch in one transaction; False where the ledger cannot be written now."""
        return self._commit(alone=False)

    def _commit(self, *, alone: bool) -> bool:
        try:
            answers, later = self._store_batch()
        except RowRefused as error:
            return self._leave_out(error) if alone else self._commit_singly()
        except LedgerError as error:
            if self.failing_since is None:
                self.failing_since = time.monotonic()
                logger.error("rows wait, the ledger cannot be written: %s", error)
            for number, _, _ in self._feedback:
                self._answer(number, 503, {"reason": error.problem})
            self._feedback = []
            return False
        except Exception as error:  # whatever one row does must not cost the others
            return self._leave_out(error) if alone else self._commit_singly()
        if self.failing_since is not None:
            logger.warning("the ledger can be written again; nothing that was read is lost")
            self.failing_since = None
        self._rows, self._feedback = [], later
        self._due = time.monotonic() + _LOOK_AGAIN_SECONDS
        for answer in answers:
            self._answer(*answer)
        return True

    def _store_batch(
        self,
    ) -> tuple[list[tuple[int, int, Any]], list[tuple[int, FeedbackIn, float]]]:
        """One transaction; returns what to answer now, and the feedback to look at again."""
        answers: list[tuple[int, int, Any]] = []
        later: list[tuple[int, FeedbackIn, float]] = []
        with self._store.transaction() as connection:
            self._store.add_interactions(self._rows, connection)
            for number, given, deadline in self._feedback:
                row_id = self._store.row_id(given.id, given.choice, connection)
                if row_id is not None:
                    row = self._feedback_row(given, row_id)
                    new = self._store.add_feedback(row, connection)
                    body = {"id": row.feedback_id, "row": row_id, "duplicate": not new}
                    answers.append((number, 200, body))
                elif time.monotonic() < deadline:
                    later.append((number, given, deadline))
                else:
                    answers.append((number, 404, {"id": given.id}))
        return answers, later

    def _commit_singly(self) -> bool:
        """Each for itself, so that only what cannot be stored is left out."""
        rows, feedback = self._rows, self._feedback
        later: list[tuple[int, FeedbackIn, float]] = []
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
        fields = given.model_dump(exclude={"id", "choice", "user"})
        subject = None if given.user is None else self._vault.subject(given.user)
        identity = canonical_json([row_id, subject, fields])
        return Feedback(
            feedback_id=f"fb-{self._vault.mac('feedback', identity)}",
            row_id=row_id,
            ts=time.time(),
            subject=subject,
            **fields,
        )


def run(config: Path, sock: socket.socket) -> int:
    """Read frames until the other end closes; returns the process's exit status."""

    def answer(number: int, status: int, body: Any) -> None:
        try:
            sock.sendall(frame([number, status, body]))
        except OSError:
            logger.warning("the server went away before its feedback was acknowledged")

    opened = _open(config, sock)
    if opened is None:
        return 1
    settings, store, vault = opened
    writer = Writer(settings, store, vault, answer)
    frames, gone = Frames(), _Gone(sock)
    open_end = True
    while open_end or writer.pending:
        if writer.failing_since is not None:
            if gone.too_long():
                logger.error("giving up: the last rows could not be written")
                return 1
            time.sleep(_RETRY_SECONDS)
            writer.commit()
            continue
        wait = max(0.0, writer.due()) if writer.pending else None
        if open_end and select.select([sock], [], [], wait)[0]:
            data = _receive(sock)
            open_end = bool(data)
            for message in frames.feed(data):
                writer.take(message)
        if writer.pending and (writer.due() <= 0 or not open_end):
            writer.commit()
    if frames.malformed or writer.malformed:
        logger.error("%d records were left out", frames.malformed + writer.malformed)
    store.close()
    return 0


def _open(config: Path, sock: socket.socket) -> tuple[Settings, Store, Vault] | None:
    """Open everything, trying until it works: what the server sends waits in the socket."""
    gone, said = _Gone(sock), ""
    while not gone.too_long():
        try:
            settings = load(config)
            vault = Vault.open(settings.privacy.key_file)
            return settings, Store.open(settings), vault
        except FlywheelError as error:
            if str(error) != said:
                logger.error("the log cannot be opened: %s", error)
            said = str(error)
        time.sleep(_RETRY_SECONDS)
    logger.error("giving up: nothing that the server sent could be written")
    return None


class _Gone:
    """How long the server has been gone, without reading what it has sent."""

    def __init__(self, sock: socket.socket) -> None:
        self._poll = select.poll()
        self._poll.register(sock, select.POLLRDHUP)
        self._since: float | None = None

    def too_long(self) -> bool:
        """Whether it is time to give up."""
        if self._since is None and self._poll.poll(0):
            self._since = time.monotonic()
        return self._since is not None and time.monotonic() - self._since > _GIVE_UP_SECONDS


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 20)
    except ConnectionResetError:
        return b""


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m ledger.writer")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--fd", type=int, required=True, help="the server's end is its peer")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(name)s %(levelname)s %(message)s")
    # The server's end decides when to stop; a signal to its group must not cut the log short.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    os.nice(_NICE)
    return run(arguments.config, socket.socket(fileno=arguments.fd))


if __name__ == "__main__":
    raise SystemExit(main())
