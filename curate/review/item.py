"""What the page Queue shows of a row. Opens that row, and the neighbours that are shown."""

from __future__ import annotations

import json
from typing import NamedTuple

import sqlalchemy as sa

from curate.judging.queue import QueueItem, items, said
from curate.judging.standing import Shown, done_since, shown, words_about
from curate.review import texts
from curate.review.keys import Person
from curate.review.texts import Piece, Token
from ledger.clock import now
from ledger.database import tables
from ledger.marks import rank_name
from ledger.settings import Settings
from ledger.store import Store

_NEIGHBOURS = 4
_SHORT = 400  # characters of a neighbour's texts
_DAY = 86_400


class Turn(NamedTuple):
    """A message of the conversation."""

    role: str
    text: str


class Neighbour(NamedTuple):
    """A row of the same cluster, shortened."""

    row_id: str
    question: str
    answer: str
    correction: str
    decision: str


class View(NamedTuple):
    """A row as it is shown.

    Attributes:
        box: what stands in the field of the correction.
        base: what stood there before anybody typed.
        seen: what the forms carry, so that nothing newer is overwritten.
        rank: what brought the row here, in words; "" where it is not in the queue.
        others: what other people said of it, by name.
        pieces: the answer against `box`.
        tokens: the answer's, where known.
    """

    item: QueueItem
    before: list[Turn]
    question: list[Turn]
    box: str
    base: str
    is_draft: bool
    seen: str
    rank: str
    others: dict[str, str]
    own: bool
    pieces: list[Piece]
    tokens: list[Token] | None
    warnings: list[str]
    feedback: list[str]
    metadata: str
    cluster: str
    neighbours: list[Neighbour]


class Waits(NamedTuple):
    """How many rows wait for a reason."""

    why: str
    rows: int


def view(
    store: Store,
    settings: Settings,
    alias: str,
    item: QueueItem,
    who: Person,
    text: str | None = None,
) -> View:
    """A row as somebody sees it.

    Args:
        text: what stands in the field; None: their draft, or what is proposed.
    """
    row_id, base = item.row_id, base_text(item)
    draft = store.draft(row_id, who.name) if text is None else text
    box = base if draft is None else draft
    turns = [Turn(str(message.get("role", "?")), said(message)) for message in item.messages]
    cut = max((n for n, turn in enumerate(turns) if turn.role == "user"), default=0)
    with store.reading() as connection:
        seen: Shown = shown(store, row_id, connection)
        words = words_about([row_id], connection).get(row_id, {})
        query = sa.select(tables.queue.c.rank, tables.queue.c.waiting)
        queued = connection.execute(query.where(tables.queue.c.row_id == row_id)).first()
    cluster, near = _cluster(store, alias, row_id)
    proposed = item.proposed
    return View(
        item=item,
        before=turns[:cut],
        question=turns[cut:],
        box=box,
        base=base,
        is_draft=draft is not None and draft != base,
        seen=f"{seen.correction}.{seen.word}",
        rank=rank_name(queued.rank) if queued is not None and queued.waiting else "",
        others={name: action for name, (action, _) in words.items() if name != who.name},
        own=proposed is not None
        and proposed.source == "operator"
        and proposed.author == who.name
        and who.role != "operator",
        pieces=texts.differences(item.response, box),
        tokens=texts.tokens(item.response, item.token_logprobs),
        warnings=warnings(store, settings, row_id, box) if box != item.response else [],
        feedback=_feedback(item),
        metadata=json.dumps(item.metadata, indent=2, ensure_ascii=False) if item.metadata else "",
        cluster=cluster,
        neighbours=near,
    )


def base_text(item: QueueItem) -> str:
    """What stands in the field of the correction before anybody types."""
    holds = item.proposed or item.accepted
    return item.response if holds is None else holds.text


def proposed_text(store: Store, row_id: str) -> str | None:
    """What is proposed for a row."""
    holds = store.corrections(row_ids=[row_id]).get(row_id)
    return holds.text.strip() if holds is not None and holds.decision == "proposed" else None


def answer_text(store: Store, row_id: str) -> str:
    """What a row's answer says."""
    return (store.interaction(row_id).response or "").strip()


def warnings(store: Store, settings: Settings, row_id: str, text: str) -> list[str]:
    """What the acceptance policy says against a text, of its words alone."""
    from curate.acceptance import wording
    from curate.acceptance.policy import checks_of

    row = store.interaction(row_id)
    checks = checks_of(settings, row.alias) if row.alias in settings.aliases else []
    return list(wording.found(settings.curate.acceptance, checks, row, text))


def waiting(store: Store, alias: str) -> list[Waits]:
    """How many rows wait, by what brought them in."""
    return [Waits(rank_name(rank), rows) for rank, rows in sorted(store.waiting(alias).items())]


def done_today(store: Store, who: str) -> int:
    """How many rows somebody has judged since midnight, UTC."""
    time_now = now()
    return done_since(store, who, time_now - time_now % _DAY)


def _feedback(item: QueueItem) -> list[str]:
    """Each piece of feedback in words."""
    names = {"regenerate": "asked for another answer", "report": "reported the answer"}
    found = []
    for given in item.feedback:
        parts = [name for field, name in names.items() if getattr(given, field)]
        if given.rating is not None:
            parts.append(f"thumbs {given.rating}")
        if given.score is not None:
            parts.append(f"score {given.score:g}")
        if given.success is not None:
            parts.append("task succeeded" if given.success else "task failed")
        if given.reason:
            parts.append(f"“{given.reason}”")
        if parts:
            found.append(", ".join(parts))
    return found


def _cluster(store: Store, alias: str, row_id: str) -> tuple[str, list[Neighbour]]:
    """The name of a row's cluster, and some others of it."""
    from curate.clusters import cluster_of, neighbours

    number = cluster_of(store, [row_id]).get(row_id)
    if number is None:
        return "", []
    table = tables.clusters
    query = sa.select(table.c.name).where(table.c.alias == alias, table.c.cluster == number)
    with store.reading() as connection:
        name = connection.scalar(query.order_by(table.c.seq.desc()).limit(1)) or ""
    row_ids = neighbours(store, alias, row_id, _NEIGHBOURS)
    holds = store.corrections(row_ids=row_ids)
    found = []
    for one in items(store, row_ids):
        asked = [said(message) for message in one.messages if message.get("role") == "user"]
        correction = holds.get(one.row_id)
        found.append(
            Neighbour(
                one.row_id,
                _short(asked[-1] if asked else ""),
                _short(one.response),
                _short(correction.text) if correction else "",
                correction.decision if correction else "",
            )
        )
    return name, found


def _short(text: str) -> str:
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"
