"""What users made of answers, hour by hour: how many reactions came, negative ones, edits.

Feedback counts in the hour in which it came, whatever the hour of its answer. One user's
reactions of an hour count as one event between 0 and 1, and in a few hours of a day only: somebody
who is angry two hundred times is one angry user. A user is the one who reacted, else the one who
was answered, else the session, else the answer itself. Within an hour of a user each answer counts
as often as it stands for (one over its inclusion probability).

Answers of a candidate are left out: they are judged against their own control.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from ledger.database import tables
from ledger.keeping.rollups import hour_of
from ledger.records import Feedback
from ledger.store import Store
from ledger.store.base import PAGE, chunks

_rows, _feedback = tables.interactions, tables.feedback
_DAY = 24  # hours


class Reactions(NamedTuple):
    """The events of one hour, and how many of them were negative, and edits: sums of parts."""

    events: float = 0.0
    negatives: float = 0.0
    edits: float = 0.0


class _One(NamedTuple):
    """What was said about an answer in an hour."""

    person: str
    weight: float
    negative: bool
    edit: bool


def start(store: Store, hour: int) -> dict[str, Any]:
    """Where to begin reading so that an hour and all after it are read."""
    query = sa.select(sa.func.min(_feedback.c.seq)).where(_feedback.c.ts >= hour * 3600)
    with store.reading() as connection:
        first = connection.scalar(query)
        if first is None:
            first = (connection.scalar(sa.select(sa.func.max(_feedback.c.seq))) or 0) + 1
    return {"after": int(first) - 1, "ahead": [], "day": None, "people": {}}


def read(
    store: Store, alias: str, state: Mapping[str, Any], first: int, last: int, most: int
) -> tuple[dict[int, Reactions], dict[str, Any]]:
    """The reactions of the hours `first` to `last`, and where to go on.

    What arrives late for an hour that was read before counts in the first one that is read now.
    So every piece of feedback counts once, in whatever steps it is read.

    Args:
        state: of `start`, or what the last call returned.
        most: hours of a day in which one user counts.
    """
    after, ahead = int(state["after"]), set(state["ahead"])
    hours: dict[int, dict[str, _One]] = {hour: {} for hour in range(first, last + 1)}
    later: int | None = None
    counted: list[int] = []
    for page in _pages(store, after):
        facts = _facts(store, {one.row_id for _, one in page})
        for seq, one in page:
            if seq in ahead:
                counted.append(seq)
                continue
            hour = max(hour_of(one.ts), first)
            if hour > last:
                later = seq if later is None else later
                continue
            counted.append(seq)
            row = facts.get(one.row_id)
            if row is None or row.alias != alias or row.arm == "candidate":
                continue
            _add(hours[hour], one, row)
        if later is not None and all(hour_of(one.ts) > last for _, one in page):
            break  # what is behind it may be late, but not by a whole page
    end = max(counted, default=after) if later is None else later - 1
    people = _People(store, state, most)
    found = {hour: people.sum(hour, said.values()) for hour, said in sorted(hours.items())}
    left = [seq for seq in counted if seq > end]
    return found, {"after": max(end, after), "ahead": left, **people.state()}


def _pages(store: Store, after: int) -> Iterator[list[tuple[int, Feedback]]]:
    while page := store.feedback(after_seq=after, limit=PAGE):
        yield page
        after = page[-1][0]


def _facts(store: Store, row_ids: set[str]) -> dict[str, Any]:
    query = sa.select(
        _rows.c.row_id,
        _rows.c.alias,
        _rows.c.arm,
        _rows.c.subject,
        _rows.c.session,
        _rows.c.inclusion_probability,
    )
    with store.reading() as connection:
        return {
            row.row_id: row
            for chunk in chunks(sorted(row_ids))
            for row in connection.execute(query.where(_rows.c.row_id.in_(chunk)))
        }


def _add(said: dict[str, _One], one: Feedback, row: Any) -> None:
    """Take in a piece of feedback; what is said of one answer in an hour is one reaction."""
    person = one.subject or row.subject or row.session or one.row_id
    old = said.get(one.row_id)
    said[one.row_id] = _One(
        person if old is None else old.person,
        1 / row.inclusion_probability,
        one.negative or (old is not None and old.negative),
        one.correction is not None or (old is not None and old.edit),
    )


class _People:
    """How often each user counted in the day under way. They are kept under a keyed hash that
    changes each day, so that it tells nothing and leads nowhere."""

    def __init__(self, store: Store, state: Mapping[str, Any], most: int) -> None:
        self._store, self._most = store, most
        self._day, self._counts = state["day"], dict(state["people"])

    def state(self) -> dict[str, Any]:
        """For the next call."""
        return {"day": self._day, "people": self._counts}

    def sum(self, hour: int, said: Any) -> Reactions:
        """The reactions of an hour."""
        day = hour // _DAY
        if day != self._day:
            self._day, self._counts = day, {}
        people: dict[str, list[_One]] = {}
        for one in said:
            people.setdefault(one.person, []).append(one)
        events = negatives = edits = 0.0
        for person, ones in sorted(people.items()):
            name = self._store.mac("drift", f"{day}:{person}".encode())[:12]
            count = self._counts.get(name, 0)
            if count >= self._most:
                continue
            self._counts[name] = count + 1
            whole = sum(one.weight for one in ones)
            events += 1
            negatives += sum(one.weight * one.negative for one in ones) / whole
            edits += sum(one.weight * one.edit for one in ones) / whole
        return Reactions(events, negatives, edits)
