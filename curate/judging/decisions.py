"""What people say about a row: accept, reject, another text, the answer was good, not now.

`curate.judging.undo` takes it back.

Every statement is appended, in one transaction with the review that says who made it. An
operator's word settles a row. Reviewers settle it together: `curate.acceptance.people` different
ones, none of them the author of the text. Until then the row waits for the next of them.

A correction keeps the source and the author of its text, and names in `why` who decided. The
number in a review is that of the correction which held after it: the one that was judged, or made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, cast

import sqlalchemy as sa

from curate.judging.standing import Role, Shown, judged, shown, words_about
from ledger.database import tables
from ledger.errors import RecordError, RedactionFailed
from ledger.records import Correction, Decision, Interaction, Source
from ledger.settings import Settings
from ledger.store import Store, now
from ledger.store.corrections import Stated
from ledger.store.queue import Action, dequeue

__all__ = [
    "Decided", "Outdated", "Role", "Shown", "accept", "append", "correct", "edit", "good", "judged",
    "leave", "reject", "restated", "shown", "skip",
]  # fmt: skip

#: What becomes of a correction by each word about it.
PAST: dict[Action, Decision] = {"accept": "accepted", "reject": "rejected"}

_queue, _reviews, _drafts = tables.queue, tables.reviews, tables.drafts


class Outdated(RecordError):
    """A row is not as it was shown: somebody has said something about it since."""


class Decided(NamedTuple):
    """What became of a row. `settled` is False where another person has to agree."""

    row_id: str
    action: Action
    settled: bool


def accept(
    store: Store,
    settings: Settings,
    row_id: str,
    who: str,
    role: Role,
    *,
    why: str = "",
    shown: Shown | None = None,
) -> Decided:
    """Say yes to what is proposed for a row; the text stays as it is.

    Args:
        shown: what was judged; None: whatever holds now.

    Raises:
        UnknownRow: there is no such row.
        Outdated: it is not as it was shown.
        RecordError: nothing is proposed, or this person may not say so.
    """
    return _judge(store, settings, row_id, "accept", who, role, why, shown)


def reject(
    store: Store,
    settings: Settings,
    row_id: str,
    who: str,
    role: Role,
    *,
    why: str = "",
    shown: Shown | None = None,
) -> Decided:
    """Say no to what is proposed for a row.

    Raises:
        UnknownRow, Outdated, RecordError: see `accept`.
    """
    return _judge(store, settings, row_id, "reject", who, role, why, shown)


def edit(
    store: Store,
    settings: Settings,
    row_id: str,
    text: str,
    who: str,
    role: Role,
    *,
    why: str = "",
    shown: Shown | None = None,
) -> Decided:
    """Say what a row should have said. What is proposed already, word for word, is accepted.

    Raises:
        UnknownRow, Outdated: see `accept`.
        RecordError: the text is empty or says what the answer says, the row's text is not
            there, or this person may not say so.
    """
    with _deciding(store, row_id, who, role, shown) as row:
        stored = _checked(store, row.answer, text)
        holds = row.holds
        if holds is not None and holds.decision == "proposed" and holds.text == stored:
            return _say(store, settings, row, "accept", who, role, why)
        if role != "operator" and holds is not None and holds.decision == "accepted":
            raise RecordError(
                f"row {row_id!r} has an accepted correction",
                field="row_id",
                rule="A reviewer's text waits for others, and would take it out meanwhile.",
                remedy="Ask an operator, or tag the row operator_review.",
            )
        settled = _write(store, row, text, who, role, why)
    return Decided(row_id, "edit", settled)


def good(
    store: Store,
    settings: Settings,
    row_id: str,
    who: str,
    role: Role,
    *,
    why: str = "",
    shown: Shown | None = None,
) -> Decided:
    """Say that the answer is good as it is: nothing has to be corrected.

    Raises:
        UnknownRow, Outdated: see `accept`.
        RecordError: a correction is proposed or accepted, or this person may not say so.
    """
    with _deciding(store, row_id, who, role, shown) as row:
        holds = row.holds
        if holds is not None and holds.decision != "rejected":
            raise RecordError(
                f"row {row_id!r} has a correction that is {holds.decision}",
                field="row_id",
                remedy="Reject it first if the answer was good.",
            )
        agree = {who} | {name for name, action in row.words.items() if action == "good"}
        settled = role == "operator" or len(agree) >= settings.curate.acceptance.people
        if settled:
            dequeue(row_id, row.connection)
        number = None if holds is None else holds.seq
        _finish(store, row, "good", who, role, number, why, settled=settled)
    return Decided(row_id, "good", settled)


def skip(store: Store, row_id: str, who: str, role: Role) -> Decided:
    """Leave a row to others for now.

    Raises:
        UnknownRow, RecordError: see `accept`.
    """
    with _deciding(store, row_id, who, role, None) as row:
        number = None if row.holds is None else row.holds.seq
        store.add_review(row_id, who, role, "skip", row.connection, correction=number)
        _release(row_id, who, row.connection)
    return Decided(row_id, "skip", settled=False)


def leave(store: Store, who: str) -> None:
    """Give back all that somebody has on the screen, because they are going."""
    with store.transaction() as connection:
        mine = sa.update(_queue).where(_queue.c.who == who)
        connection.execute(mine.values(who=None, until=0.0))


def correct(store: Store, row_id: str, text: str, author: str, why: str = "") -> None:
    """Say as an operator what a row should have said; accepted at once.

    Raises:
        UnknownRow, RecordError: see `edit`.
    """
    with _deciding(store, row_id, author, "operator", None) as row:
        _checked(store, row.answer, text)
        _write(store, row, text, author, "operator", why)


# -- saying something ------------------------------------------------------------------------------


class _Row(NamedTuple):
    """A row under the write lock: its answer, what holds, and each reviewer's last word."""

    answer: Interaction
    holds: Stated | None
    words: dict[str, str]
    connection: sa.Connection


@contextmanager
def _deciding(
    store: Store, row_id: str, who: str, role: Role, seen: Shown | None
) -> Iterator[_Row]:
    if not who.strip():
        raise RecordError("a correction has no author", field="author", remedy="Say who you are.")
    if role not in ("reviewer", "operator"):
        raise RecordError(
            f"{who} is a {role}", field="role", rule="Reviewers and operators judge rows."
        )
    answer = store.interaction(row_id)
    if not answer.stored_text:
        raise RecordError(
            f"the text of row {row_id!r} was not stored",
            field="row_id",
            rule="Without its question a correction cannot be trained on.",
        )
    with store.transaction() as connection:
        if seen is not None and (holding := shown(store, row_id, connection)) != seen:
            raise _outdated(store, row_id, who, seen, holding, connection)
        history = store.correction_history(row_id)
        words = {
            name: action
            for name, (action, _) in words_about([row_id], connection).get(row_id, {}).items()
        }
        yield _Row(answer, history[-1] if history else None, words, connection)


def _outdated(
    store: Store, row_id: str, who: str, seen: Shown, holding: Shown, connection: sa.Connection
) -> Outdated:
    others = [one for one in store.reviews(row_id, connection=connection) if one.seq > seen.word]
    by = others[0].who if others else ""
    if others and by != who:
        problem = f"{by} has said something about this row since you opened it"
    elif holding.correction != seen.correction and not others:
        problem = "a newer correction of this row has come in since you opened it"
    else:
        problem = "you have said something about this row in another window since"
    return Outdated(
        problem, field="row_id", rule="Nothing was changed.", remedy="Look at how it stands now."
    )


def _judge(
    store: Store,
    settings: Settings,
    row_id: str,
    action: Literal["accept", "reject"],
    who: str,
    role: Role,
    why: str,
    seen: Shown | None,
) -> Decided:
    with _deciding(store, row_id, who, role, seen) as row:
        return _say(store, settings, row, action, who, role, why)


def _say(
    store: Store,
    settings: Settings,
    row: _Row,
    action: Literal["accept", "reject"],
    who: str,
    role: Role,
    why: str,
) -> Decided:
    """Yes or no to what is proposed, by one more person."""
    row_id, holds = row.answer.row_id, row.holds
    if holds is None or holds.decision != "proposed" or not holds.text:
        gone = holds is not None and not holds.text
        state = "has no correction" if holds is None else f"is {holds.decision} already"
        raise RecordError(
            f"nothing is proposed for row {row_id!r}: it {'has lost its text' if gone else state}",
            field="row_id",
            remedy="Write a correction instead; `flywheel review` shows what waits.",
        )
    if role != "operator" and holds.source == "operator" and holds.author == who:
        raise RecordError(
            f"the correction of row {row_id!r} is your own",
            field="author",
            rule="Somebody else has to judge it.",
            remedy="Undo takes it back; an edit replaces it.",
        )
    agree = _agree(row, holds.seq, action) | {who}
    settled = role == "operator" or len(agree) >= settings.curate.acceptance.people
    number = holds.seq
    if settled:
        names = who if role == "operator" else ", ".join(sorted(agree))
        said = f"{PAST[action]} by {names}" + (f": {why}" if why else "")
        number = append(store, restated(row_id, holds, PAST[action], said), row.connection)
    _finish(store, row, action, who, role, number, why, settled=settled)
    return Decided(row_id, action, settled)


def _write(store: Store, row: _Row, text: str, who: str, role: Role, why: str) -> bool:
    """Append somebody's own text; whether that settles the row."""
    settled = role == "operator"
    correction = Correction(
        row_id=row.answer.row_id,
        ts=now(),
        source="operator",
        author=who,
        text=text,
        decision="accepted" if settled else "proposed",
        why=why,
    )
    number = append(store, correction, row.connection)
    _finish(store, row, "edit", who, role, number, why, settled=settled)
    return settled


def _agree(row: _Row, correction: int, action: str) -> set[str]:
    """Who has said the same of the same text, and has not taken it back."""
    query = sa.select(_reviews.c.who).where(
        _reviews.c.row_id == row.answer.row_id,
        _reviews.c.correction == correction,
        _reviews.c.action == action,
    )
    return {who for who in row.connection.scalars(query) if row.words.get(who) == action}


def _checked(store: Store, answer: Interaction, text: str) -> str:
    """A correction's text as it would be stored, if it says anything."""
    if not text.strip():
        raise RecordError("the correction is empty", field="text", remedy="Say what is right.")
    stored = str(store.as_stored(answer.row_id, {"text": text}).get("text", ""))
    if stored.strip() == (answer.response or "").strip():
        raise RecordError(
            "the correction says what the answer says",
            field="text",
            remedy="Say that the answer is good, or tag the row if you only want to mark it.",
        )
    return stored


def append(store: Store, correction: Correction, connection: sa.Connection) -> int:
    """Append a correction; its number.

    Raises:
        RedactionFailed: its text could not be redacted.
    """
    number = store.add_correction(correction, connection)
    if number is None:
        raise RedactionFailed(
            f"the correction of row {correction.row_id!r} was not kept: personal data could not "
            "be looked for in it",
            remedy="The log of this process says what failed.",
        )
    return number


def restated(row_id: str, said: Stated, decision: Decision, why: str) -> Correction:
    """The same text by the same author, decided otherwise."""
    return Correction(
        row_id=row_id,
        ts=now(),
        source=cast(Source, said.source),
        author=said.author,
        text=said.text or "",
        decision=decision,
        why=why,
    )


def _finish(
    store: Store,
    row: _Row,
    action: Action,
    who: str,
    role: Role,
    correction: int | None,
    why: str,
    *,
    settled: bool,
) -> None:
    """Record the word; the row goes from this person's screen, and so does their draft."""
    row_id, connection = row.answer.row_id, row.connection
    store.add_review(row_id, who, role, action, connection, correction=correction, why=why)
    if not settled:
        _release(row_id, who, connection)
    mine = (_drafts.c.row_id == row_id, _drafts.c.who == who)
    connection.execute(sa.delete(_drafts).where(*mine))


def _release(row_id: str, who: str, connection: sa.Connection) -> None:
    mine = (_queue.c.row_id == row_id, _queue.c.who == who)
    connection.execute(sa.update(_queue).where(*mine).values(who=None, until=0.0))
