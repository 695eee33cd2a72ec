"""Tags: by rule, from users' feedback, by hand; and users' edits turned into corrections.

A vote only marks a row. Only feedback that says what the answer should have been makes a
correction, and that one waits for an operator unless users are trusted. Rows are judged
once, when a sweep first sees them: a threshold that is changed later holds for later rows.

Covers no clusters and no rules from files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import sqlalchemy as sa
from pydantic import ValidationError

from ledger.database import tables
from ledger.errors import RecordError
from ledger.keeping.confidence import Thresholds
from ledger.keeping.rollups import hour_of
from ledger.records import ANONYMOUS, Correction, Decision, Feedback, Interaction, Tag
from ledger.settings import Settings
from ledger.store import Store, now

LOW_CONFIDENCE = "low_confidence"
USER_NEGATIVE = "user_negative"
USER_EDIT = "user_edit"
OPERATOR_REVIEW = "operator_review"
REVIEWED = "reviewed"  # an operator has judged the row; it leaves the queue

_INTERACTIONS, _FEEDBACK = "curate.interactions", "curate.feedback"
#: Rows judged in one transaction: the write lock is held for milliseconds.
_BATCH = 500


class SweepReport(NamedTuple):
    """What a sweep found; `skipped` counts users' corrections that were not taken, by reason."""

    interactions: int
    feedback: int
    tags: dict[str, int]
    proposed: int
    accepted: int
    skipped: dict[str, int]


def sweep(settings: Settings, store: Store) -> SweepReport:
    """Tag what is new since the last sweep, and take over users' corrections.

    Running it again, or twice at once, changes nothing more: a batch and the cursor behind
    it are one transaction, and of two sweeps that read the same batch one finds it done.

    Raises:
        LedgerError, LedgerLocked: the ledger cannot be read or written.
    """
    interactions, unsure = _sweep_interactions(settings, store)
    tags, taken, skipped = Counter({LOW_CONFIDENCE: unsure}), Counter[str](), Counter[str]()
    feedback = 0
    while True:
        start = store.cursor(_FEEDBACK)
        found = store.feedback(after_seq=start, limit=_BATCH)
        if not found:
            break
        given = [row for _, row in found]
        ids = sorted({row.row_id for row in given})
        rows = {row.row_id: row for row in store.interactions(row_ids=ids)}
        with store.transaction() as connection:
            end = found[-1][0]
            if not store.move_cursor(_FEEDBACK, end, expected=start, connection=connection):
                continue
            for row in given:
                for tag in _tags_of(row, rows.get(row.row_id)):
                    tags[tag.tag] += store.add_tags([tag], connection)
            now_taken, now_skipped = _take_corrections(settings, store, given, rows, connection)
        feedback += len(given)
        taken += now_taken
        skipped += now_skipped
    return SweepReport(
        interactions,
        feedback,
        {name: count for name, count in tags.items() if count},
        taken["proposed"],
        taken["accepted"],
        dict(skipped),
    )


def add_tag(store: Store, row_id: str, tag: str, who: str, why: str = "") -> bool:
    """Put any tag on a row; False where the same hand put it there before.

    Args:
        who: `operator:…`, `rule:…` or `user:…`.

    Raises:
        UnknownRow: the row does not exist.
        RecordError: the tag has capitals, spaces or other signs, or is too long.
    """
    store.interaction(row_id)
    if not who.startswith(("operator:", "rule:", "user:")):
        raise RecordError(
            f"tagged by {who!r}", field="who", rule="Say who: `operator:…`, `rule:…` or `user:…`."
        )
    try:
        row = Tag(row_id=row_id, tag=tag, who=who, why=why, ts=now())
    except ValidationError:
        raise RecordError(
            f"{tag!r} cannot be a tag",
            field="tag",
            rule="A tag has 1 to 64 of a-z, 0-9, '_', '-', '.' and ':', a letter or digit first.",
        ) from None
    return store.add_tags([row]) == 1


def _sweep_interactions(settings: Settings, store: Store) -> tuple[int, int]:
    """Tag unsure answers; the number of rows seen and of tags that were new."""
    table = tables.interactions
    columns = (table.c.seq, table.c.row_id, table.c.ts, table.c.version, table.c.mean_logprob)
    seen = tagged = 0
    while True:
        start = store.cursor(_INTERACTIONS)
        query = sa.select(*columns).where(table.c.seq > start).order_by(table.c.seq).limit(_BATCH)
        # Under the write lock, so that no row that is let go meanwhile leaves a tag behind.
        with store.transaction() as connection:
            found = connection.execute(query).all()
            if not found:
                return seen, tagged
            end = found[-1].seq
            if not store.move_cursor(_INTERACTIONS, end, expected=start, connection=connection):
                continue
            thresholds = Thresholds(settings.curate, connection)
            tags = []
            for row in found:
                threshold = thresholds.of(row.version, hour_of(row.ts))
                if row.mean_logprob is not None and row.mean_logprob < threshold:
                    why = f"mean logprob {row.mean_logprob:.2f} nats is below {threshold:.2f}"
                    tags.append(
                        Tag(
                            row_id=row.row_id,
                            tag=LOW_CONFIDENCE,
                            who="rule:low_confidence",
                            why=why,
                            ts=now(),
                        )
                    )
            seen += len(found)
            tagged += store.add_tags(tags, connection)


def _tags_of(given: Feedback, row: Interaction | None) -> list[Tag]:
    """The marks that a piece of feedback leaves; the user's reason stays in the feedback."""
    if row is None:
        return []
    who = f"user:{given.subject or 'unknown'}"
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
        found.append(
            Tag(row_id=given.row_id, tag=USER_NEGATIVE, who=who, why=why, ts=given.ts),
        )
    if _is_edit(given, row):
        found.append(
            Tag(row_id=given.row_id, tag=USER_EDIT, who=who, why="sent a correction", ts=given.ts)
        )
    return found


def _is_edit(given: Feedback, row: Interaction) -> bool:
    text = (given.correction or "").strip()
    return bool(text) and text != (row.response or "").strip()


def _take_corrections(
    settings: Settings,
    store: Store,
    given: list[Feedback],
    rows: Mapping[str, Interaction],
    connection: sa.Connection,
) -> tuple[Counter[str], Counter[str]]:
    """Append users' corrections; how many by decision, and how many not by reason.

    Called under the write lock, so what holds now cannot change meanwhile.
    """
    edits = [one for one in given if one.correction is not None]
    ids = sorted({one.row_id for one in edits})
    holds = store.corrections(row_ids=ids)
    judged = {
        row_id for row_id, tags in store.tags(ids).items() if any(t.tag == REVIEWED for t in tags)
    }
    trusted = "user" in settings.curate.trusted_sources
    decision: Decision = "accepted" if trusted else "proposed"
    taken, skipped = Counter[str](), Counter[str]()
    for one in edits:
        reason = _refusal(
            one,
            rows.get(one.row_id),
            holds.get(one.row_id),
            decision,
            judged=one.row_id in judged,
        )
        if reason:
            skipped[reason] += 1
            continue
        assert one.correction is not None
        correction = Correction(
            row_id=one.row_id,
            ts=one.ts,
            source="user",
            author=one.subject or ANONYMOUS,
            text=one.correction,
            decision=decision,
        )
        store.add_correction(correction, connection)
        holds[one.row_id] = correction
        taken[decision] += 1
    return taken, skipped


def _refusal(
    given: Feedback,
    row: Interaction | None,
    holds: Correction | None,
    decision: Decision,
    *,
    judged: bool,
) -> str:
    """Why a user's correction is not taken; "" where it is."""
    if row is None:
        return "unknown row"
    if not row.stored_text:
        return "text not stored"
    if not (given.correction or "").strip():
        return "empty"
    if not _is_edit(given, row):
        return "same as the answer"
    if holds is None:
        return ""
    if holds.text == given.correction and (holds.decision != "proposed" or decision == "proposed"):
        return "already known"
    if holds.decision == "accepted":
        # A proposal must not push an accepted pair out of the pool, and what an operator
        # wrote or judged stands until an operator changes it.
        if decision == "proposed":
            return "row has an accepted correction"
        if holds.source != "user" or judged:
            return "row was decided by an operator"
    return ""
