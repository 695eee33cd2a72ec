"""Records of other systems as rows of the ledger, with what was said of them.

A row's id is a keyed hash of its id in the other system, or of its content where it has none:
a file that is imported twice adds nothing. What becomes of an answer and of what should have
been said depends on the mode:

    mode     made to be trained on        corrects an answer of a log   answer without correction
    (unset)  accepted pair                proposed                      logged
    pairs    accepted pair                accepted pair                 accepted pair
    answers  logged as the answer,        proposed                      logged
             proposed if it corrects one

Accepted pairs are the word of the operator who imports them; they still pass the acceptance
policy (`curate.acceptance`), which may let one wait or reject it. Proposed ones are users'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from curate.acceptance import Acceptance, judge
from curate.imports.items import About, Item, Opinion
from ledger.database import tables
from ledger.errors import RowRefused
from ledger.hashing import canonical_json
from ledger.keys.vault import Vault
from ledger.marks import IMPORTED, OURS
from ledger.records import (
    ANONYMOUS,
    MAX_FEEDBACK_TEXT,
    Correction,
    Feedback,
    Interaction,
    Source,
    Tag,
)
from ledger.settings import Settings
from ledger.store import Store, now
from ledger.store.base import chunks

Mode = Literal["pairs", "answers"] | None
#: Records in one transaction.
BATCH = 500
# Corrections in one transaction: each opens its row, and a server waits for the lock meanwhile.
_CORRECTIONS = 50
# Remarks on answers that stand elsewhere, kept until the end of the file.
_LATER = 100_000
_DAY = 86_400.0


class Placed(NamedTuple):
    """A record and where it stands in its file."""

    where: str
    item: Item | About


class _Right(NamedTuple):
    """What a row should have said, and who says so."""

    row_id: str
    text: str
    source: Source
    author: str


class Counts:
    """What was written.

    Attributes:
        rows, known: rows that are new, and those that were there.
        decisions: corrections that are new, by decision.
        why: reasons of those that are not accepted.
        same: corrections that say what the answer says.
        feedback, known_feedback: opinions that are new, and those that were there.
        old: rows whose text housekeeping will remove, being older than `retention` allows.
        without_text: rows whose text could not be kept.
    """

    def __init__(self) -> None:
        self.rows = self.known = self.same = self.old = self.without_text = 0
        self.feedback = self.known_feedback = self.tags = 0
        self.decisions: Counter[str] = Counter()
        self.why: Counter[str] = Counter()

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        return {name: dict(v) if isinstance(v, Counter) else v for name, v in vars(self).items()}

    def lines(self) -> Iterator[tuple[str, int, str]]:
        """For a person: a word, a number, what it is."""
        yield "known", self.known, "rows were there already"
        yield "accepted", self.decisions["accepted"], "corrections: the next dataset has them"
        yield "proposed", self.decisions["proposed"], "corrections: they wait in the queue"
        yield "rejected", self.decisions["rejected"], "corrections"
        for why, number in self.why.most_common():
            yield "", number, f"because: {why}"
        yield "same", self.same, "corrections say what the answer says: left out"
        yield "feedback", self.feedback, "opinions of users"
        yield "tags", self.tags, "tags of the file"
        yield "no text", self.without_text, "rows: redaction failed, or the user was forgotten"
        yield "old", self.old, "rows are older than retention allows: their text will be removed"


class Writer:
    """Writes batches of records.

    Args:
        file: named in the rows' metadata; its time is theirs where they have none.
        dry_run: only count.

    Raises:
        ConfigError: the acceptance policy of the configuration is wrong.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        file: Path,
        format: str,
        alias: str,
        *,
        mode: Mode = None,
        dry_run: bool = False,
    ) -> None:
        self.counts = Counts()
        self._settings, self._store = settings, store
        self._file, self._format, self._alias = file.name, format, alias
        self._time = file.stat().st_mtime
        self._mode: Mode = mode
        self._dry = dry_run
        self._author = f"import:{format}"
        self._vault = Vault.open(settings.privacy.key_file)
        self._policy = Acceptance.of(settings, store)
        self._later: list[Placed] = []
        self._seen: set[str] = set()  # of a dry run

    def write(self, batch: Sequence[Placed]) -> list[tuple[str, str]]:
        """Write records; returns those that could not be, with where they stand and why."""
        self._later += [one for one in batch if isinstance(one.item, About)]
        rows = [one for one in batch if isinstance(one.item, Item)]
        left = self._write(rows) if rows else []
        if len(self._later) >= _LATER:
            left += self.finish()
        return left

    def finish(self) -> list[tuple[str, str]]:
        """Write what was said of rows in records of its own; returns what could not be."""
        left: list[tuple[str, str]] = []
        for start in range(0, len(self._later), BATCH):
            page = self._later[start : start + BATCH]
            ids = {one.where: self._row_id(one.item) for one in page}
            there = self._there(list(ids.values()))
            unknown = "says something of an answer that is not here"
            missing = [one for one in page if ids[one.where] not in there]
            if self._dry:
                missing = [one for one in missing if ids[one.where] not in self._seen]
            left += [(one.where, unknown) for one in missing]
            known = [one for one in page if one not in missing]
            if self._dry:
                said = [one for one in known if getattr(one.item, "opinion", None) is not None]
                self.counts.feedback += len(said)
                continue
            with self._store.transaction() as connection:
                for one in known:
                    assert isinstance(one.item, About)
                    if one.item.opinion is not None:
                        self._add_opinion(ids[one.where], one.item.opinion, now(), connection)
            self._correct(
                [
                    self._right(ids[one.where], one.item.right, one.item.user, trusted=False)
                    for one in known
                    if isinstance(one.item, About) and one.item.right is not None
                ]
            )
        self._later = []
        return left

    # -- rows ----------------------------------------------------------------------------

    def _write(self, batch: list[Placed]) -> list[tuple[str, str]]:
        items = {self._row_id(one.item): one for one in batch}
        self.counts.known += len(batch) - len(items)  # the same record twice
        there = self._there(list(items))
        new = {row_id: one for row_id, one in items.items() if row_id not in there}
        if self._dry:
            new = {row_id: one for row_id, one in new.items() if row_id not in self._seen}
            self._seen |= new.keys()
            self.counts.known += len(items) - len(new)
            self.counts.rows += len(new)
            return []
        try:
            self._add(new, items)
        except RowRefused:
            if len(items) == 1:
                return [(batch[0].where, "the ledger cannot store this record")]
            return [left for one in items.values() for left in self._write([one])]
        self.counts.known += len(items) - len(new)
        self._correct([right for row_id, one in items.items() if (right := self._of(row_id, one))])
        return []

    def _add(self, new: dict[str, Placed], items: dict[str, Placed]) -> None:
        """Rows with their tags, and what users made of them, in one transaction."""
        prepared = self._store.prepared([self._row(row_id, one) for row_id, one in new.items()])
        with self._store.transaction() as connection:
            self.counts.rows += self._store.add_prepared(prepared, connection)
            time = now()
            imported = [
                Tag(row_id=row_id, tag=IMPORTED, who=f"rule:{self._author}", ts=time)
                for row_id in new
            ]
            self._store.add_tags(imported, connection)
            named = [
                Tag(row_id=row_id, tag=tag, who=f"operator:{self._author}", ts=time)
                for row_id, one in new.items()
                for tag in getattr(one.item, "tags", ())
                if tag not in OURS
            ]
            self.counts.tags += self._store.add_tags(named, connection)
            for row_id, one in items.items():
                assert isinstance(one.item, Item)
                for opinion in one.item.opinions:
                    ts = self._time if one.item.ts is None else one.item.ts
                    self._add_opinion(row_id, opinion, ts, connection)
        self.counts.without_text += sum(not one.stored for one in prepared)

    def _row(self, row_id: str, one: Placed) -> Interaction:
        item = one.item
        assert isinstance(item, Item)
        ts = self._time if item.ts is None else item.ts
        right = self._of(row_id, one) is not None
        keep = self._settings.retention.corrected if right else self._settings.retention.sampled
        days = [days for days in (keep.text_days, keep.row_days) if days is not None]
        self.counts.old += bool(days) and ts < now() - min(days) * _DAY
        where = {"file": self._file, "at": one.where, "format": self._format}
        return Interaction(
            row_id=row_id,
            request_id=row_id,
            ts=ts,
            api="chat",
            alias=self._alias,
            version="imported",
            base_model="imported",
            arm="pinned",
            messages=item.messages,
            response=self._response(item),
            tools=item.tools,
            metadata={"import": where},
            subject=None if item.user is None else self._vault.subject(item.user),
            session=None if item.session is None else self._vault.session(item.session),
            kept_because="all",
            held=False,
        )

    def _row_id(self, item: Item | About) -> str:
        identity: list[Any] = [self._alias, self._format]
        if item.key is not None:
            identity += ["key", item.key]
        else:
            assert isinstance(item, Item)
            identity += [item.messages, item.tools, item.response, item.right]
            identity += [item.user, item.session]
        return f"import-{self._vault.mac('import', canonical_json(identity))}"

    def _there(self, row_ids: list[str]) -> set[str]:
        table = tables.interactions
        with self._store.reading() as connection:
            return {
                row_id
                for page in chunks(row_ids)
                for row_id in connection.scalars(
                    sa.select(table.c.row_id).where(table.c.row_id.in_(page))
                )
            }

    # -- what was said of them -----------------------------------------------------------

    def _add_opinion(
        self, row_id: str, opinion: Opinion, ts: float, connection: sa.Connection
    ) -> None:
        subject = None if opinion.user is None else self._vault.subject(opinion.user)
        reason = None if opinion.reason is None else opinion.reason[:MAX_FEEDBACK_TEXT]
        said = {"rating": opinion.rating, "score": opinion.score, "success": opinion.success}
        identity = canonical_json([row_id, subject, said, reason])
        row = Feedback(
            feedback_id=f"fb-{self._vault.mac('feedback', identity)}",
            row_id=row_id,
            ts=ts if opinion.ts is None else opinion.ts,
            subject=subject,
            reason=reason,
            **said,
        )
        new = self._store.add_feedback(row, connection)
        self.counts.feedback += new
        self.counts.known_feedback += not new

    def _response(self, item: Item) -> str | None:
        """What the row says was answered."""
        if self._mode == "pairs" and item.right is None:
            return None  # it is right, and what was wrong nobody knows
        if self._mode == "answers" and item.trusted and item.response is None:
            return item.right
        return item.response

    def _of(self, row_id: str, one: Placed) -> _Right | None:
        """What a record says its row should have said; None where it does not say."""
        item = one.item
        assert isinstance(item, Item)
        text = item.right
        if self._mode == "pairs" and text is None:
            text = item.response
        if text is None or (self._mode == "answers" and item.response is None):
            return None
        return self._right(row_id, text, item.user, trusted=item.trusted)

    def _right(self, row_id: str, text: str | None, user: str | None, *, trusted: bool) -> _Right:
        assert text is not None
        if self._mode == "pairs" or (trusted and self._mode is None):
            return _Right(row_id, text, "operator", self._author)
        author = ANONYMOUS if user is None else self._vault.subject(user)
        return _Right(row_id, text, "user", author)

    def _correct(self, given: list[_Right]) -> None:
        """Append what rows should have said, unless something was said of them already."""
        table, rights = tables.corrections, {one.row_id: one for one in given}
        with self._store.reading() as connection:
            for page in chunks(list(rights)):
                query = sa.select(table.c.row_id).where(table.c.row_id.in_(page))
                for row_id in set(connection.scalars(query)):
                    del rights[row_id]
        judged: list[Correction] = []
        for row in self._store.interactions(row_ids=list(rights)):
            one = rights[row.row_id]
            if not row.stored_text:
                continue
            if one.text.strip() == (row.response or "").strip():
                self.counts.same += 1
                continue
            judged.append(self._judged(row, one))
        for start in range(0, len(judged), _CORRECTIONS):
            with self._store.transaction() as connection:
                for correction in judged[start : start + _CORRECTIONS]:
                    if self._store.add_correction(correction, connection) is not None:
                        self.counts.decisions[correction.decision] += 1

    def _judged(self, row: Interaction, one: _Right) -> Correction:
        time = now()
        verdict = judge(self._policy, row, one.text, one.source, one.author, time)
        decision, why = verdict.decision, verdict.why
        if one.source == "user" and decision == "accepted":
            decision, why = "proposed", f"from a {self._format} file: waits for eyes"
        if decision != "accepted":
            self.counts.why.update(verdict.words)
        return Correction(
            row_id=row.row_id,
            ts=time,
            source=one.source,
            author=one.author,
            text=one.text,
            decision=decision,
            why=why or f"{self._author}: {self._file}",
        )
