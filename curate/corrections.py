"""What an operator says about a row: another text, or yes or no to a proposed one.

Every statement is appended; the last one about a row holds. A decision keeps the source and
the author of the text that it is about, and names in `why` who decided. Both leave the tag
`reviewed`, so that the row leaves the queue and users' later edits do not undo the judgement.
"""

from __future__ import annotations

from typing import Literal

from curate.tags import REVIEWED
from ledger.errors import RecordError
from ledger.records import Correction, Tag
from ledger.store import Store, now


def correct(store: Store, row_id: str, text: str, author: str, why: str = "") -> Correction:
    """Say what a row should have said; accepted at once.

    Raises:
        UnknownRow: the row does not exist.
        RecordError: the text is empty or says what the answer says, the row's text was not
            stored, or there is no author.
    """
    _check_author(author)
    row = store.interaction(row_id)
    if not row.stored_text:
        raise RecordError(
            f"the text of row {row_id!r} was not stored",
            field="row_id",
            rule="Without its question a correction cannot be trained on.",
        )
    if not text.strip():
        raise RecordError("the correction is empty", field="text", remedy="Say what is right.")
    fields = store.as_stored(row_id, {"text": text})
    if fields.get("text", "").strip() == (row.response or "").strip():
        raise RecordError(
            "the correction says what the answer says",
            field="text",
            remedy="Tag the row if you only want to mark it.",
        )
    correction = Correction(
        row_id=row_id,
        ts=now(),
        source="operator",
        author=author,
        text=text,
        decision="accepted",
        why=why,
    )
    _append(store, correction, author, "corrected")
    return correction


def decide(
    store: Store,
    row_id: str,
    decision: Literal["accepted", "rejected"],
    author: str,
    why: str = "",
) -> Correction:
    """Accept or reject what is proposed for a row; the text stays as it is.

    Raises:
        UnknownRow: the row does not exist.
        RecordError: nothing is proposed for it, or there is no author.
    """
    _check_author(author)
    store.interaction(row_id)
    current = store.corrections(row_ids=[row_id]).get(row_id)
    if current is None or current.decision != "proposed":
        state = "has no correction" if current is None else f"is {current.decision} already"
        raise RecordError(
            f"nothing is proposed for row {row_id!r}: it {state}",
            field="row_id",
            remedy="Write a correction instead; `flywheel review` shows what waits.",
        )
    said = f"{decision} by {author}" + (f": {why}" if why else "")
    decided = current.model_copy(update={"decision": decision, "ts": now(), "why": said})
    _append(store, decided, author, decision)
    return decided


def _append(store: Store, correction: Correction, author: str, why: str) -> None:
    with store.transaction() as connection:
        store.add_correction(correction, connection)
        tag = Tag(
            row_id=correction.row_id,
            tag=REVIEWED,
            who=f"operator:{author}",
            why=why,
            ts=correction.ts,
        )
        store.add_tags([tag], connection)


def _check_author(author: str) -> None:
    if not author.strip():
        raise RecordError("a correction has no author", field="author", remedy="Say who you are.")
