"""The rows that wait for eyes, each with all that is known about it.

Which rows wait, and in which order, stands in the ledger (`ledger.store.queue`). Only what is
shown is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ledger.records import Correction, Feedback, Interaction, Tag
from ledger.settings import Settings
from ledger.store import Store
from ledger.store.queue import dequeue


class QueueItem(NamedTuple):
    """One row with all that is known about it.

    Attributes:
        mean_logprob: over the answer's tokens, nats.
        proposed: the correction that waits, if there is one.
        accepted: the correction that holds, if there is one.
        token_logprobs: characters and logprob, nats, of each token of the answer.
    """

    row_id: str
    ts: float
    version: str
    messages: list[dict[str, Any]]
    response: str
    mean_logprob: float | None
    tags: list[Tag]
    feedback: list[Feedback]
    proposed: Correction | None
    metadata: dict[str, Any] | None = None
    token_logprobs: list[tuple[int, float]] | None = None
    accepted: Correction | None = None


def as_json(item: QueueItem) -> dict[str, Any]:
    """A row for a program."""
    return {
        **item._asdict(),
        "tags": [tag.model_dump() for tag in item.tags],
        "feedback": [given.model_dump(exclude_none=True) for given in item.feedback],
        "proposed": item.proposed and item.proposed.model_dump(),
        "accepted": item.accepted and item.accepted.model_dump(),
    }


def queue(store: Store, settings: Settings, alias: str, limit: int) -> list[QueueItem]:
    """Rows to look at: proposed corrections first, then by what marked them, each newest first.

    Raises:
        ConfigError: there is no such alias.
    """
    settings.alias(alias)
    return items(store, [waiting.row_id for waiting in store.queued(alias, limit)])


def items(store: Store, row_ids: Sequence[str]) -> list[QueueItem]:
    """Rows with all that is known about them, in the order asked for; without text, left out."""
    rows = {row.row_id: row for row in store.interactions(row_ids=row_ids) if row.stored_text}
    tags = store.tags(row_ids)
    holds = store.corrections(row_ids=row_ids)
    feedback: dict[str, list[Feedback]] = {}
    for _, one in store.feedback(row_ids=row_ids):
        feedback.setdefault(one.row_id, []).append(one)
    return [
        _item(rows[row_id], tags.get(row_id, []), feedback.get(row_id, []), holds.get(row_id))
        for row_id in row_ids
        if row_id in rows
    ]


def next_item(store: Store, settings: Settings, alias: str, who: str) -> QueueItem | None:
    """Give somebody the next row, for as long as `curate.review.lease_minutes`; None: none waits.

    Raises:
        ConfigError: there is no such alias.
    """
    settings.alias(alias)
    seconds = settings.curate.review.lease_minutes * 60
    while (row_id := store.claim(alias, who, seconds=seconds)) is not None:
        if found := items(store, [row_id]):
            return found[0]
        with store.transaction() as connection:
            dequeue(row_id, connection)  # its text is damaged or gone: nobody can judge it
    return None


def _item(
    row: Interaction, tags: list[Tag], feedback: list[Feedback], holds: Correction | None
) -> QueueItem:
    return QueueItem(
        row_id=row.row_id,
        ts=row.ts,
        version=row.version,
        messages=row.messages or [],
        response=row.response or "",
        mean_logprob=row.mean_logprob,
        tags=tags,
        feedback=feedback,
        proposed=holds if holds is not None and holds.decision == "proposed" else None,
        accepted=holds if holds is not None and holds.decision == "accepted" else None,
        metadata=row.metadata,
        token_logprobs=row.token_logprobs,
    )


def said(message: dict[str, Any]) -> str:
    """What a message of a conversation says, as text: parts and calls of tools too."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else {} for part in content]
        content = "\n".join(str(p.get("text") or f"({p.get('type', '?')})") for p in parts)
    calls = [call.get("function", call) for call in message.get("tool_calls") or []]
    return "\n".join([str(content)] * bool(content) + [f"calls {call}" for call in calls])
