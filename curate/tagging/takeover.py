"""Taking over feedback: the marks that it leaves, and users' corrections.

A vote only marks a row. Only feedback that says what the answer should have been makes a
correction; the acceptance policy decides what becomes of it, and what somebody with more say has
said of the row stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from curate.acceptance import Acceptance, Verdict, judge
from curate.acceptance import reasons as because
from curate.judging.standing import judged, words_about
from curate.tagging.matching import Matcher
from curate.tagging.swept import Counts, add, columns_of, mark
from ledger.database import tables
from ledger.marks import (
    CONTRADICTED,
    CORRECTION_REJECTED,
    CORRECTION_WAITS,
    USER_EDIT,
    USER_NEGATIVE,
    by_user,
)
from ledger.records import ANONYMOUS, Correction, Feedback, Interaction, Tag
from ledger.settings import Settings
from ledger.store import Store
from ledger.store.base import chunks

_FEEDBACK = "curate.feedback"
#: Feedback taken over in one transaction; a correction takes a millisecond to store.
_BATCH = 100
_OTHER = "row has a correction of another user"


class _Known(NamedTuple):
    """What stands about the rows of a batch, read under the write lock."""

    holds: dict[str, Correction]
    judged: Collection[str]
    good: Collection[str]


class Takeover:
    """Takes over feedback: its marks, its corrections, and the rules about it."""

    def __init__(self, settings: Settings, store: Store, matcher: Matcher, counts: Counts) -> None:
        self._settings, self._store = settings, store
        self._matcher, self._counts = matcher, counts
        self._context: Acceptance | None = None

    def sweep(self) -> None:
        """Take over all that is new."""
        while self._batch():
            pass

    def _batch(self) -> bool:
        store = self._store
        start = store.cursor(_FEEDBACK)
        found = store.feedback(after_seq=start, limit=_BATCH)
        if not found:
            return False
        given = [row for _, row in found]
        ids = sorted({row.row_id for row in given})
        rows = {row.row_id: row for row in store.interactions(row_ids=ids)}
        verdicts = self._verdicts(given, rows)
        by_rule: list[Tag] = []
        timeouts: dict[str, int] = {}
        if self._matcher.rules:
            by_rule, timeouts = self._matcher.tags(columns_of(store, ids))
        with store.transaction() as connection:
            end = found[-1][0]
            if not store.move_cursor(_FEEDBACK, end, expected=start, connection=connection):
                self._context = None  # it remembers what another sweep has taken
                return True
            marks = (tag for row in given for tag in _tags_of(row, rows.get(row.row_id)))
            add(store, [*marks, *by_rule], connection, self._counts)
            self._take(given, rows, verdicts, connection)
        self._counts.feedback += len(given)
        self._counts.timeouts += Counter(timeouts)
        return True

    def _verdicts(
        self, given: Sequence[Feedback], rows: Mapping[str, Interaction]
    ) -> dict[str, Verdict]:
        """What the policy says of each correction that can be one, by feedback id."""
        edits = [
            one
            for one in given
            if (row := rows.get(one.row_id)) is not None and not _cannot(one, row)
        ]
        if not edits:
            return {}
        if self._context is None:
            self._context = Acceptance.of(self._settings, self._store)
        subjects = {one.subject or ANONYMOUS for one in edits}
        self._context.company.load(subjects, [one.ts for one in edits])
        found = {}
        for one in edits:
            assert one.correction is not None
            author = one.subject or ANONYMOUS
            row = rows[one.row_id]
            found[one.feedback_id] = judge(
                self._context, row, one.correction, "user", author, one.ts, stored=True
            )
        return found

    def _take(
        self,
        given: Sequence[Feedback],
        rows: Mapping[str, Interaction],
        verdicts: Mapping[str, Verdict],
        connection: sa.Connection,
    ) -> None:
        """Append users' corrections.

        Called under the write lock, so what holds now cannot change meanwhile.
        """
        store, counts = self._store, self._counts
        edits = [one for one in given if one.correction is not None]
        known = _known(store, sorted({one.row_id for one in edits}), connection)
        for one in edits:
            row = rows.get(one.row_id)
            if reason := ("unknown row" if row is None else _cannot(one, row)):
                counts.skipped[reason] += 1
                continue
            verdict = verdicts[one.feedback_id]
            if verdict.decision == "accepted" and one.row_id in known.good:
                verdict = Verdict("proposed", [because.GOOD])
            assert one.correction is not None
            correction = Correction(
                row_id=one.row_id,
                ts=one.ts,
                source="user",
                author=one.subject or ANONYMOUS,
                text=one.correction,
                decision=verdict.decision,
                why=verdict.why,
            )
            if reason := _stands(correction, known):
                counts.skipped[reason] += 1
                if reason == _OTHER:
                    verdict = Verdict("proposed", [because.CONTRADICTS], (one.row_id,))
                if reason != "already known":
                    self._say(one, verdict, connection)
                continue
            rejected = verdict.decision == "rejected"
            waiting = _waiting(one.row_id, connection) if rejected else None
            store.add_correction(correction, connection)
            if waiting is not None:
                # What the policy rejects answers nothing: the row waits for eyes as before.
                connection.execute(
                    sa.update(tables.queue)
                    .where(tables.queue.c.row_id == one.row_id)
                    .values(waiting)
                )
            self._say(one, verdict, connection)
            known.holds[one.row_id] = correction
            counts.taken[verdict.decision] += 1

    def _say(self, one: Feedback, verdict: Verdict, connection: sa.Connection) -> None:
        """Count why, and mark the row: words only, for tags are not sealed."""
        self._counts.reasons += Counter(verdict.words)
        who, why = by_user(one.subject), "; ".join(verdict.words)
        marks = []
        # That a source is not trusted is nothing to say about the row.
        if verdict.decision != "accepted" and verdict.words != [because.UNTRUSTED]:
            name = CORRECTION_WAITS if verdict.decision == "proposed" else CORRECTION_REJECTED
            marks.append(mark(one.row_id, name, who, why, one.ts))
        for other in verdict.contradicts:
            said = f"somebody else corrected row {one.row_id} otherwise"
            marks.append(mark(other, CONTRADICTED, "rule:contradicted", said, one.ts))
        add(self._store, marks, connection, self._counts)


def _tags_of(given: Feedback, row: Interaction | None) -> list[Tag]:
    """The marks that a piece of feedback leaves; the user's reason stays in the feedback."""
    if row is None:
        return []
    who = by_user(given.subject)
    signals = {
        "thumbs down": given.rating == "down",
        f"score {given.score}": given.score is not None and given.score < 0.5,
        "asked for another answer": bool(given.regenerate),
        "reported": bool(given.report),
        "task failed": given.success is False,
    }
    found = []
    if given.negative:
        why = ", ".join(name for name, is_set in signals.items() if is_set)
        found.append(mark(given.row_id, USER_NEGATIVE, who, why, given.ts))
    if _is_edit(given, row):
        found.append(mark(given.row_id, USER_EDIT, who, "sent a correction", given.ts))
    return found


def _is_edit(given: Feedback, row: Interaction) -> bool:
    text = (given.correction or "").strip()
    return bool(text) and text != (row.response or "").strip()


def _cannot(given: Feedback, row: Interaction) -> str:
    """Why a piece of feedback is no correction, whatever else there is; "" where it is one."""
    if not row.stored_text:
        return "text not stored"
    if not (given.correction or "").strip():
        return "empty"
    return "" if _is_edit(given, row) else "same as the answer"


def _stands(new: Correction, known: _Known) -> str:
    """Why what holds for a row stands against a new correction; "" where it does not."""
    holds = known.holds.get(new.row_id)
    if holds is None:
        return ""
    if holds.text == new.text and (holds.decision != "proposed" or new.decision == "proposed"):
        return "already known"
    if new.decision == "rejected":
        return "" if holds.decision == "rejected" else "rejected, and the row has another"
    if holds.decision == "accepted":
        # A proposal must not push an accepted pair out of the pool, and what an operator
        # wrote or judged stands until an operator changes it.
        if new.decision == "proposed":
            return "row has an accepted correction"
        if holds.source != "user" or new.row_id in known.judged:
            return "row was decided by an operator"
        if holds.author != new.author:
            return _OTHER
    return ""


def _known(store: Store, row_ids: list[str], connection: sa.Connection) -> _Known:
    """What holds for rows, which people have settled, and whose answer one of them called good."""
    words: dict[str, dict[str, tuple[str, str]]] = {}
    for chunk in chunks(row_ids):
        words |= words_about(chunk, connection)
    good = {
        row_id
        for row_id, people in words.items()
        if any(action == "good" for action, _ in people.values())
    }
    decided = judged(store, row_ids, connection)
    return _Known(store.corrections(row_ids=row_ids), decided, good)


def _waiting(row_id: str, connection: sa.Connection) -> dict[str, Any] | None:
    """The place of a row in the queue, where it waits."""
    table = tables.queue
    query = sa.select(table.c.rank, table.c.waiting, table.c.since, table.c.who, table.c.until)
    found = connection.execute(query.where(table.c.row_id == row_id, table.c.waiting)).first()
    return None if found is None else dict(found._mapping)
