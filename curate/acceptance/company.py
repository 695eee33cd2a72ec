"""What others said, and how long a user is known: what decides about a correction beside its text.

Read from the ledger once a batch, and kept up with what the batch itself brings. Nothing here
opens a text unless an earlier correction has to be compared with.

*Bursts of one user* are counted by the tag `user_edit`, one a row, which only the user's own
feedback makes: what a reviewer decides later does not count again.

*The same text from several users* counts only where it is a sentence: forty characters and five
words. In a product that sorts messages hundreds of honest users send the same label within an hour
(`refund_of_a_returned_parcel_not_received`), and equal labels say nothing; two people who type the
same sentence by chance are rare. Shorter texts are held by what is said of their question instead:
another answer of somebody else to the same question (`contradicts`).
"""

from __future__ import annotations

import re
from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import regex
import sqlalchemy as sa

from curate.acceptance import reasons
from curate.acceptance.wording import strings
from ledger.checks import normalise
from ledger.database import tables
from ledger.gold import question_key
from ledger.marks import USER_EDIT
from ledger.records import ANONYMOUS, Correction, Interaction, Source
from ledger.redact.placeholders import PLACEHOLDER
from ledger.settings.curation import Acceptance as Policy
from ledger.store import Store
from ledger.store.base import STREAM, chunks

#: Characters, normalised, and words from which two equal texts are no chance. In scripts without
#: spaces each character is a word.
_CHARACTERS, _WORDS = 40, 5
_NOT_WORDS = re.compile(r"[\W_]+")
_WORD = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]|\S+")
#: The newest corrections that are compared with, beside those that a build has looked at.
COMPARED = 2000
_SAME_QUESTION = 50  # of those a build looked at, the newest of one question
#: Of one question, and of one text, so many are compared with: else time would grow as a square.
_KEPT = 200
_HOUR = 3600.0
#: How far the clocks of servers may be apart, seconds.
_SKEW = 60.0


class Said(NamedTuple):
    """A correction of a question, by somebody; the text normalised."""

    row_id: str
    author: str
    source: Source
    ts: float
    text: str


class _Edits:
    """The rows that one user edited, and when."""

    def __init__(self) -> None:
        self.rows: dict[str, float] = {}
        self._times: list[float] = []

    def add(self, row_id: str, ts: float) -> None:
        if row_id not in self.rows:  # an edit of an edit is no other row
            self.rows[row_id] = ts
            insort(self._times, ts)

    def others(self, row_id: str, after: float, until: float) -> int:
        """How many rows but this one were edited in a window."""
        count = bisect_right(self._times, until) - bisect_right(self._times, after)
        return count - (after < self.rows.get(row_id, after) <= until)


class Against(NamedTuple):
    """What others' corrections say against one, and the rows of those that contradict it."""

    reasons: list[str]
    rows: tuple[str, ...]


class Company:
    """What the ledger says of the users and questions of a batch."""

    def __init__(self, policy: Policy, store: Store) -> None:
        self._policy, self._store = policy, store
        self._first: dict[str, float | None] = {}
        self._edits: dict[str, _Edits] | None = None
        self._edits_from = 0.0
        self._by_question: dict[str, list[Said]] | None = None
        self._by_text: dict[str, list[Said]] = {}
        self._built_rows: dict[str, dict[str, list[str]]] = {}

    # -- users ---------------------------------------------------------------------------

    def load(self, subjects: Iterable[str], times: Sequence[float]) -> None:
        """Read what is known of users in few queries.

        Args:
            times: when they sent what is to be judged, seconds since the epoch.
        """
        self._load_first(sorted({*subjects} - {ANONYMOUS} - self._first.keys()))
        if times:
            self._load_edits(min(times), max(times))

    def _load_first(self, subjects: list[str]) -> None:
        rows, feedback = tables.interactions, tables.feedback
        with self._store.reading() as connection:
            for chunk in chunks(subjects):
                for table in (rows, feedback):
                    query = (
                        sa.select(table.c.subject, sa.func.min(table.c.ts))
                        .where(table.c.subject.in_(chunk))
                        .group_by(table.c.subject)
                    )
                    for subject, ts in connection.execute(query):
                        known = self._first.get(subject)
                        self._first[subject] = ts if known is None else min(known, ts)
                for subject in chunk:
                    self._first.setdefault(subject, None)

    def _load_edits(self, start: float, end: float) -> None:
        """Which rows users edited before a batch; what the batches bring is added as it comes."""
        if self._edits is not None and start > self._edits_from - _SKEW:
            return
        table, window = tables.tags, self._policy.burst_hours * _HOUR
        query = sa.select(table.c.who, table.c.row_id, table.c.ts).where(
            table.c.tag == USER_EDIT, table.c.ts > start - window, table.c.ts <= end
        )
        found: dict[str, _Edits] = defaultdict(_Edits)
        with (
            self._store.reading() as connection,
            connection.execute(query, execution_options=STREAM) as result,
        ):
            for who, row_id, ts in result:
                subject = who.removeprefix("user:")
                found[ANONYMOUS if subject == "unknown" else subject].add(row_id, ts)
        for subject, edits in (self._edits or {}).items():  # of batches before this one
            for row_id, ts in edits.rows.items():
                found[subject].add(row_id, ts)
        self._edits, self._edits_from = found, start

    def quarantine(self, row_id: str, subject: str, ts: float) -> Iterator[str]:
        """Why a user's correction has to wait, whatever it says."""
        policy = self._policy
        self.load([subject], [ts])
        first = None if subject == ANONYMOUS else self._first.get(subject)
        if policy.new_subject_hours > 0:
            hours = (ts - (ts if first is None else min(first, ts))) / _HOUR
            if subject == ANONYMOUS:
                yield f"{reasons.NEW_SUBJECT}: nothing is known of who sent it"
            elif hours < policy.new_subject_hours:
                yield (
                    f"{reasons.NEW_SUBJECT}: first seen {hours:.1f} h before, "
                    f"less than {policy.new_subject_hours:g} h"
                )
        assert self._edits is not None
        edits = self._edits[subject]
        earlier = edits.others(row_id, ts - policy.burst_hours * _HOUR, ts)
        edits.add(row_id, ts)
        if earlier >= policy.burst:
            yield (
                f"{reasons.BURST}: {earlier} other corrections within "
                f"{policy.burst_hours:g} h, at most {policy.burst}"
            )

    # -- questions -----------------------------------------------------------------------

    def others(
        self, row: Interaction, text: str, author: str, source: Source, ts: float
    ) -> Against:
        """Why a correction has to wait because of what others said.

        It is remembered for what comes after it.
        """
        self._load_said()
        assert self._by_question is not None
        said = Said(row.row_id, author, source, ts, normalise(text))
        found = []
        same_question = self._by_question.setdefault(same_question_as(row.messages or []), [])
        against = self._against(said, [*same_question, *self._built(row, said)])
        if against is not None:
            found.append(
                f"{reasons.CONTRADICTS}: row {against.row_id} by {against.source} {against.author}"
            )
        if source == "user" and is_sentence(said.text):
            found += self._same_text(said)
        same_question.append(said)
        del same_question[:-_KEPT]
        return Against(found, () if against is None else (against.row_id,))

    def _against(self, said: Said, others: Iterable[Said]) -> Said | None:
        """The newest other answer of somebody else; an operator's goes before."""
        against = [
            one
            for one in others
            # What stands about the row itself is weighed where the correction is stored.
            if one.row_id != said.row_id
            and one.text != said.text
            and (one.author, one.source) != (said.author, said.source)
        ]
        return max(against, key=lambda one: (one.source == "operator", one.ts), default=None)

    def _same_text(self, said: Said) -> Iterator[str]:
        same = self._by_text.setdefault(said.text, [])
        since = said.ts - self._policy.burst_hours * _HOUR
        near = [one for one in same if since < one.ts <= said.ts and one.row_id != said.row_id]
        same.append(said)
        del same[: -max(_KEPT, 2 * self._policy.burst)]
        people = {one.author for one in near} | {said.author}
        if len(people) > 1 and len(near) >= self._policy.burst:
            yield (
                f"{reasons.SAME_TEXT}: {len(near)} other rows from {len(people)} users within "
                f"{self._policy.burst_hours:g} h, at most {self._policy.burst}"
            )

    def _load_said(self) -> None:
        """The newest corrections, by their question and by their text."""
        if self._by_question is not None:
            return
        self._by_question = {}
        table = tables.corrections
        query = sa.select(table.c.row_id).order_by(table.c.seq.desc()).limit(COMPARED)
        with self._store.reading() as connection:
            ids = list(dict.fromkeys(connection.scalars(query)))
        holds = self._store.corrections(row_ids=ids)
        open_ids = [row_id for row_id, one in holds.items() if one.decision != "rejected"]
        rows = {row.row_id: row for row in self._store.interactions(row_ids=open_ids)}
        for row_id in open_ids:
            if (row := rows.get(row_id)) is None:
                continue
            said = _said(holds[row_id])
            key = same_question_as(row.messages or [])
            self._by_question.setdefault(key, []).append(said)
            if said.source == "user" and is_sentence(said.text):
                self._by_text.setdefault(said.text, []).append(said)

    def _built(self, row: Interaction, said: Said) -> list[Said]:
        """Accepted corrections of the same question that a build has looked at.

        These are found by a keyed hash of the question, also where they are old.
        """
        alias = row.alias or ""
        if alias not in self._built_rows:
            self._built_rows[alias] = self._load_built(alias)
        if not (known := self._built_rows[alias]):
            return []
        key = self._store.mac("question", question_key(row.messages or []).encode())
        if not (ids := known.get(key, [])[-_SAME_QUESTION:]):
            return []
        holds = self._store.corrections(row_ids=ids, decision="accepted")
        return [_said(one) for one in holds.values()]

    def _load_built(self, alias: str) -> dict[str, list[str]]:
        """Rows by the keyed hash of their question."""
        table = tables.candidates
        query = (
            sa.select(table.c.question, table.c.row_id)
            .where(table.c.alias == alias, table.c.correction > 0, table.c.question != "")
            .order_by(table.c.correction)
        )
        found: dict[str, list[str]] = {}
        with (
            self._store.reading() as connection,
            connection.execute(query, execution_options=STREAM) as result,
        ):
            for question, row_id in result:
                found.setdefault(question, []).append(row_id)
        return found


def _said(one: Correction) -> Said:
    return Said(one.row_id, one.author, one.source, one.ts, normalise(one.text))


def is_sentence(text: str) -> bool:
    """Whether a normalised text is so long that two users hardly type it by chance."""
    return len(text) >= _CHARACTERS and sum(1 for _ in _WORD.finditer(text)) >= _WORDS


def same_question_as(messages: Sequence[dict[str, Any]]) -> str:
    """The same for two stored prompts that ask the same thing, cheaply.

    As `ledger.gold.question_key`, without redacting again what was redacted when it was stored.
    """
    turns = [m for m in messages if m.get("role") not in ("system", "developer")]
    while turns and turns[-1].get("role") == "assistant":
        turns.pop()
    folded = []
    for turn in turns:
        text = PLACEHOLDER.sub(r" \1 ", "\n".join(strings(turn.get("content"))))
        words = _NOT_WORDS.sub(" ", text.casefold()).split()
        folded.append(f"{turn.get('role')}:{' '.join(words) or text}")
    return "\n".join(folded)
