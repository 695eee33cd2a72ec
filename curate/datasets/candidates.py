"""What a build knows about each row that could be a pair, so that the next one need not open it.

A row is looked at once: when an accepted correction holds for it, when somebody called its answer
good or, where KTO is trained with, when users voted it down. What is found stands in the table
`candidates`, without text. It is made anew when another correction holds, or when something
changed that shapes pairs (`_builder`). So the cost of a build follows what is new.

Covers making the pairs themselves, too (`Maker`). Which candidates go into a dataset is decided
in `curate.datasets.select`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from curate.datasets import reasons
from curate.judging.standing import words_about
from ledger.database import tables
from ledger.dataset import Pair, digest_of
from ledger.errors import ConfigError, RedactionFailed
from ledger.gold import question_turns, turns_key
from ledger.hashing import canonical_json, content_hash
from ledger.records import ANONYMOUS, Correction, Interaction, Source
from ledger.redact import Redactor
from ledger.settings import Settings
from ledger.store import Store
from ledger.store.base import PAGE, STREAM, chunks
from ledger.store.corrections import holding

Kind = Literal["correction", "replay", "disliked"]
#: Where the answer itself is what is trained on, or away from: no correction has these numbers.
_REPLAY, _DISLIKED = 0, -1
_KINDS: dict[int, Kind] = {_REPLAY: "replay", _DISLIKED: "disliked"}
_VERSION = 1  # of this file's findings

_candidates, _corrections, _reviews = tables.candidates, tables.corrections, tables.reviews


class Candidate(NamedTuple):
    """A row that could be a pair.

    Attributes:
        correction: number of the correction that holds; 0 for a good answer, -1 for one that was
            voted down.
        ts: when it was asked, seconds since the epoch.
        conversation: the same for rows that must not be split; a keyed hash.
        problem: why it can never be a pair; "" where it can.
        question, answer: keyed hashes; the same for the same question, and the same answer.
        digest: of the pair, see `ledger.dataset`.
        signature: of the question, see `curate.datasets.near`.
        author: who wrote the correction; who called the answer good, or voted it down.
        facts: characters of the answer, and the version that answered.
    """

    row_id: str
    correction: int
    ts: float
    conversation: str
    problem: str
    question: str
    answer: str
    digest: str
    signature: bytes
    source: Source
    author: str
    facts: dict[str, Any]

    @property
    def kind(self) -> Kind:
        """Whether a correction is trained on, or an answer that was good already or voted down."""
        return _KINDS.get(self.correction, "correction")


class Made(NamedTuple):
    """A row that was opened: the pair of it, or the reason why there is none."""

    row: Interaction
    pair: Pair | None
    problem: str


class Maker:
    """Opens rows and makes pairs of them.

    Raises:
        ConfigError: privacy.names_before_training is on, and there is no detector of names.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._store = store
        self._redactor: Redactor | None = None
        privacy = settings.privacy
        if privacy.names_before_training:
            if privacy.names == "none":
                raise ConfigError(
                    "privacy.names_before_training is on, and privacy.names is none",
                    rule="No pair is trained on that no detector of names has seen.",
                    remedy="Set privacy.names to spacy or presidio, or switch the rule off.",
                )
            # Rows may be older than the detector: each passes it, whatever was done before.
            self._redactor = Redactor.of(privacy.model_copy(update={"redaction": "balanced"}))

    def corrected(self, row_ids: Sequence[str]) -> Iterator[Made]:
        """Rows with what corrects them, in the order in which they are stored."""
        for page in chunks(row_ids):
            holds = self._store.corrections(decision="accepted", row_ids=page)
            for row in self._store.interactions(row_ids=page):
                yield self._made(row, holds.get(row.row_id))

    def as_answered(self, authors: dict[str, str], kind: Kind = "replay") -> Iterator[Made]:
        """Rows with their answer as it is.

        Args:
            authors: who called it good, or voted it down, by row.
        """
        for page in chunks(list(authors)):
            for row in self._store.interactions(row_ids=page):
                said = Correction(
                    row_id=row.row_id,
                    ts=row.ts,
                    source="user" if kind == "disliked" else "operator",
                    author=authors[row.row_id],
                    text=row.response or " ",
                    decision="accepted",
                )
                yield self._made(row, said, kind)

    def _made(self, row: Interaction, holds: Correction | None, kind: Kind = "correction") -> Made:
        text = holds.text.strip() if holds is not None else None
        if text is None or not row.stored_text or not row.messages:
            return Made(row, None, reasons.NO_TEXT)
        if row.api == "completions":
            return Made(row, None, reasons.COMPLETION)
        if row.messages[-1].get("role") == "assistant":
            return Made(row, None, reasons.PREFILLED)
        if not text:
            return Made(row, None, reasons.EMPTY)
        if not _encodable([row.messages, row.tools, row.response, text]):
            return Made(row, None, reasons.BROKEN)
        assert holds is not None
        fields: dict[str, Any] = {
            "messages": [*row.messages, {"role": "assistant", "content": text}],
            "tools": row.tools,
            "chat_template_kwargs": row.chat_template_kwargs,
            "rejected": row.response if kind == "correction" else None,
        }
        if self._redactor is not None:
            conversation = self._redactor.conversation()
            try:
                fields = {name: conversation.redact(value) for name, value in fields.items()}
            except RedactionFailed:
                return Made(row, None, reasons.NAMES)
        content = [row.row_id, *(fields[name] for name in ("messages", "tools"))]
        content += [fields["chat_template_kwargs"], row.template_hash]
        pair = Pair(
            **fields,
            row_id=row.row_id,
            template_hash=row.template_hash,
            source=holds.source,
            author=holds.author,
            answered_by=row.version,
            kind=kind,
            salt=self._store.mac("pair", canonical_json(content)),
        )
        return Made(row, pair, "")


def refresh(settings: Settings, store: Store) -> int:
    """Look at what no build has looked at yet, of all aliases; returns the number of rows.

    Raises:
        ConfigError: see `Maker`.
        LedgerError, LedgerLocked: the ledger cannot be read or written.
    """
    maker, builder = Maker(settings, store), _builder(settings)
    seen = 0
    new = _new_corrections(store, builder)
    for page in chunks(list(new)):
        seen += _keep(store, builder, maker.corrected(page), new)
    for number, all_of in (
        (_REPLAY, good_rows(settings, store)),
        (_DISLIKED, disliked_rows(settings, store)),
    ):
        unknown = _unknown(store, builder, all_of, number)
        for page in chunks(list(unknown)):
            authors = {row_id: unknown[row_id] for row_id in page}
            made = maker.as_answered(authors, _KINDS[number])
            seen += _keep(store, builder, made, dict.fromkeys(page, number))
    return seen


def candidates(settings: Settings, store: Store, alias: str) -> Iterator[Candidate]:
    """Rows of an alias with a correction that holds, with a good answer, or voted down.

    In no order. Opens nothing: what `refresh` has not looked at is not among them.
    """
    table, said = _candidates, _corrections
    good, disliked = good_rows(settings, store), disliked_rows(settings, store)
    own = sa.and_(table.c.alias == alias, table.c.builder == _builder(settings))
    query = (
        sa.select(table, said.c.source, said.c.author)
        .join(said, said.c.seq == table.c.correction)
        .where(own, said.c.decision == "accepted", said.c.seq.in_(holding()))
    )
    as_answered = sa.select(table).where(own, table.c.correction.in_(_KINDS))
    with store.reading() as connection:
        with connection.execute(query, execution_options=STREAM) as result:
            for row in result.mappings():
                yield _candidate(row, row["source"], row["author"])
        with connection.execute(as_answered, execution_options=STREAM) as result:
            for row in result.mappings():
                row_id, voted = row["row_id"], row["correction"] == _DISLIKED
                if not voted and row_id in good:
                    yield _candidate(row, "operator", good[row_id])
                elif voted and row_id in disliked:
                    yield _candidate(row, "user", disliked[row_id])


def good_rows(settings: Settings, store: Store) -> dict[str, str]:
    """Rows whose answer somebody called good, with who did; rows with a correction are not.

    An operator's word is enough; of reviewers `curate.acceptance.people` are needed. The last
    word of each counts, and nobody may have wanted another text. Votes of users do not count: a
    vote alone is never trained on.
    """
    corrected = sa.select(_corrections.c.row_id).where(
        _corrections.c.decision == "accepted", _corrections.c.seq.in_(holding())
    )
    query = (
        sa.select(_reviews.c.row_id)
        .distinct()
        .where(_reviews.c.action == "good", _reviews.c.row_id.not_in(corrected))
    )
    found = {}
    with store.reading() as connection:
        for page in chunks(list(connection.scalars(query))):
            for row_id, words in words_about(page, connection).items():
                if any(action in ("accept", "edit") for action, _ in words.values()):
                    continue
                roles = {who: role for who, (action, role) in words.items() if action == "good"}
                operators = sorted(who for who, role in roles.items() if role == "operator")
                if operators or len(roles) >= settings.curate.acceptance.people:
                    found[row_id] = (operators or sorted(roles))[0]
    return found


def disliked_rows(settings: Settings, store: Store) -> dict[str, str]:
    """Rows whose answer users voted down and nobody defends, with who did; none without KTO.

    The last vote of each user counts. A row that somebody voted up, that a reviewer called good or
    that has a correction is not among them: what is wrong with it is known, or in doubt.
    """
    if settings.train.preference != "kto":
        return {}
    table = tables.feedback
    said = sa.or_(table.c.rating.is_not(None), table.c.score.is_not(None))
    corrected = sa.select(_corrections.c.row_id).where(_corrections.c.seq.in_(holding()))
    praised = sa.select(_reviews.c.row_id).where(_reviews.c.action == "good")
    query = (
        sa.select(table.c.row_id, table.c.subject, table.c.rating, table.c.score)
        .where(said, table.c.row_id.not_in(corrected), table.c.row_id.not_in(praised))
        .order_by(table.c.seq)
    )
    votes: dict[str, dict[str, bool]] = {}
    with store.reading() as connection:
        for row in connection.execute(query):
            down = row.rating == "down" or (row.rating is None and row.score < 0.5)
            votes.setdefault(row.row_id, {})[row.subject or ANONYMOUS] = down
    return {row_id: min(found) for row_id, found in votes.items() if all(found.values())}


def _builder(settings: Settings) -> str:
    """Names all that shapes a candidate, so that what was found under other settings is known."""
    from curate.datasets.near import SCHEME

    privacy = settings.privacy
    names: list[Any] = []
    if privacy.names_before_training:
        names = [privacy.names, privacy.names_model]
    return content_hash("builder", [_VERSION, SCHEME, names])


def _new_corrections(store: Store, builder: str) -> dict[str, int]:
    """Accepted corrections that hold and are not known: their numbers by row."""
    table, said = _candidates, _corrections
    known = sa.and_(
        table.c.row_id == said.c.row_id,
        table.c.correction == said.c.seq,
        table.c.builder == builder,
    )
    query = (
        sa.select(said.c.row_id, said.c.seq)
        .outerjoin(table, known)
        .where(said.c.decision == "accepted", said.c.seq.in_(holding()), table.c.row_id.is_(None))
        .order_by(said.c.seq)
    )
    with store.reading() as connection:
        return {row_id: seq for row_id, seq in connection.execute(query)}


def _unknown(store: Store, builder: str, rows: dict[str, str], number: int) -> dict[str, str]:
    """Of some rows those that are not known as what they are now."""
    left, table = dict(rows), _candidates
    query = sa.select(table.c.row_id).where(
        table.c.correction == number, table.c.builder == builder
    )
    with store.reading() as connection:
        for page in chunks(list(left)):
            for row_id in connection.scalars(query.where(table.c.row_id.in_(page))):
                del left[row_id]
    return left


def _keep(store: Store, builder: str, made: Iterable[Made], numbers: dict[str, int]) -> int:
    """Write down what is known about rows now; returns how many."""
    from curate.datasets.near import Signer

    signer = Signer(store)
    found = [_values(one, store, signer, builder, numbers[one.row.row_id]) for one in made]
    table = _candidates
    for start in range(0, len(found), PAGE):
        page = found[start : start + PAGE]
        ids = [values["row_id"] for values in page]
        rows = tables.interactions
        with store.transaction() as connection:
            # Who was forgotten since these rows were opened leaves nothing behind.
            there = sa.select(rows.c.row_id, rows.c.stored_text).where(rows.c.row_id.in_(ids))
            stored = {row_id: kept for row_id, kept in connection.execute(there)}
            connection.execute(sa.delete(table).where(table.c.row_id.in_(ids)))
            kept = [v for v in page if stored.get(v["row_id"], False) or v["problem"]]
            if kept:
                connection.execute(sa.insert(table), kept)
    return len(found)


def _values(made: Made, store: Store, signer: Any, builder: str, number: int) -> dict[str, Any]:
    row, pair = made.row, made.pair
    values = {
        "row_id": row.row_id,
        "alias": row.alias or "",
        "correction": number,
        "builder": builder,
        "ts": row.ts,
        "conversation": "",
        "problem": made.problem,
        "question": "",
        "answer": "",
        "digest": "",
        "signature": b"",
        "facts": "{}",
    }
    if pair is None:
        return values
    turns, answer = question_turns(row.messages or []), pair.messages[-1]["content"]
    first = next((turn for turn in turns if turn[0] == "user"), None)
    begin = canonical_json([row.subject, first])
    return values | {
        "conversation": row.session or store.mac("conversation", begin),
        "question": store.mac("question", turns_key(turns).encode()),
        "answer": store.mac("answer", answer.encode()),
        "digest": digest_of(pair),
        "signature": signer.sign(turns),
        "facts": json.dumps({"chars": len(answer), "version": row.version}),
    }


def _candidate(row: Any, source: Any, author: str) -> Candidate:
    return Candidate(
        row_id=row["row_id"],
        correction=row["correction"],
        ts=row["ts"],
        conversation=row["conversation"],
        problem=row["problem"],
        question=row["question"],
        answer=row["answer"],
        digest=row["digest"],
        signature=bytes(row["signature"]),
        source=source,
        author=author,
        facts=json.loads(row["facts"]),
    )


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
