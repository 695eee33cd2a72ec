"""What became of users' corrections, why, and whose wait or were rejected most.

Counted from columns and tags; no text is opened. Someone who pushes corrections in stands at the
top of `people`: by how many of theirs wait, were rejected, or were left out of datasets by a cap.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import sqlalchemy as sa

from curate.acceptance import reasons
from ledger.database import tables
from ledger.marks import CORRECTION_REJECTED, CORRECTION_WAITS
from ledger.records import ANONYMOUS
from ledger.store import Store
from ledger.store.base import STREAM
from ledger.store.corrections import holding

#: People who are listed.
LISTED = 10


class Person(NamedTuple):
    """A user's corrections. `subject` is their hash; `reasons` are the commonest ones."""

    subject: str
    sent: int
    accepted: int
    waiting: int
    rejected: int
    capped: int
    reasons: dict[str, int]

    @property
    def held(self) -> int:
        """How many of them somebody, or a rule, kept from becoming pairs."""
        return self.waiting + self.rejected + self.capped


class Summary(NamedTuple):
    """Corrections of an alias.

    Attributes:
        decisions: by source, then by what holds for their rows: accepted, proposed, rejected.
        waits, rejected: of users' corrections that wait now or were rejected, how many for each
            reason; one may have several, and one that waits for no reason of its own waits
            because its source is not trusted. People's own rejections are not among them.
        capped: accepted corrections that the last build left out, by the cap.
        people: users with the most that wait, were rejected or capped; the worst first.
    """

    alias: str
    since: float | None
    decisions: dict[str, dict[str, int]]
    waits: dict[str, int]
    rejected: dict[str, int]
    capped: dict[str, int]
    people: list[Person]

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        return {**self._asdict(), "people": [one._asdict() for one in self.people]}


class _Person:
    def __init__(self) -> None:
        self.count, self.reasons = Counter[str](), Counter[str]()

    def person(self, subject: str) -> Person:
        count = self.count
        return Person(
            subject,
            count["accepted"] + count["proposed"] + count["rejected"],
            count["accepted"],
            count["proposed"],
            count["rejected"],
            count["capped"],
            dict(self.reasons.most_common(3)),
        )


def summary(store: Store, alias: str, *, since: float | None = None) -> Summary:
    """What became of the corrections of an alias.

    Args:
        since: when they were sent at the earliest, seconds since the epoch.
    """
    people: dict[str, _Person] = {}
    decisions: dict[str, Counter[str]] = {}
    holds: dict[str, tuple[str, str]] = {}
    for row_id, source, author, decision in _corrections(store, alias, since):
        decisions.setdefault(source, Counter())[decision] += 1
        if source == "user":
            holds[row_id] = (author, decision)
            people.setdefault(author, _Person()).count[decision] += 1
    by_decision = {"proposed": Counter[str](), "rejected": Counter[str]()}
    explained = set[str]()
    for row_id, tag, who, why in _marks(store, alias, since):
        subject = who.removeprefix("user:")
        author = ANONYMOUS if subject == "unknown" else subject
        decision = "proposed" if tag == CORRECTION_WAITS else "rejected"
        stands = holds.get(row_id) == (author, decision)
        # One that was rejected beside what holds for its row was never stored.
        if not stands and decision != "rejected":
            continue
        if not stands and holds.get(row_id, ("", ""))[0] != author:
            people.setdefault(author, _Person()).count[decision] += 1
        explained.add(row_id)
        words = why.split("; ")
        by_decision[decision].update(words)
        people.setdefault(author, _Person()).reasons.update(words)
    for row_id, (author, decision) in holds.items():
        if decision == "proposed" and row_id not in explained:
            by_decision["proposed"][reasons.UNTRUSTED] += 1
            people[author].reasons[reasons.UNTRUSTED] += 1
    capped = Counter[str]()
    for row_id, reason in _left_out(store, alias):
        if row_id in holds and holds[row_id][1] == "accepted":
            capped[reason] += 1
            one = people[holds[row_id][0]]
            one.count["capped"] += 1
            one.reasons[reason] += 1
    found = [one.person(subject) for subject, one in people.items()]
    found = [one for one in found if one.held]
    found.sort(key=lambda one: (-one.held, one.subject))
    return Summary(
        alias,
        since,
        {source: dict(count) for source, count in sorted(decisions.items())},
        dict(by_decision["proposed"].most_common()),
        dict(by_decision["rejected"].most_common()),
        dict(capped.most_common()),
        found[:LISTED],
    )


def _corrections(store: Store, alias: str, since: float | None) -> list[tuple[str, str, str, str]]:
    """What holds for rows: row id, source, author, decision."""
    said, rows = tables.corrections, tables.interactions
    query = (
        sa.select(said.c.row_id, said.c.source, said.c.author, said.c.decision)
        .join(rows, rows.c.row_id == said.c.row_id)
        .where(said.c.seq.in_(holding()), rows.c.alias == alias)
    )
    return _all(store, query if since is None else query.where(said.c.ts >= since))


def _marks(store: Store, alias: str, since: float | None) -> list[tuple[str, str, str, str]]:
    tags, rows = tables.tags, tables.interactions
    query = (
        sa.select(tags.c.row_id, tags.c.tag, tags.c.who, tags.c.why)
        .join(rows, rows.c.row_id == tags.c.row_id)
        .where(tags.c.tag.in_((CORRECTION_WAITS, CORRECTION_REJECTED)), rows.c.alias == alias)
    )
    return _all(store, query if since is None else query.where(tags.c.ts >= since))


def _left_out(store: Store, alias: str) -> list[tuple[str, str]]:
    """Rows that are left out now because of a cap."""
    table = tables.left_out
    last = sa.select(sa.func.max(table.c.seq)).where(table.c.alias == alias)
    query = sa.select(table.c.row_id, table.c.reason).where(
        table.c.seq.in_(last.group_by(table.c.row_id)), table.c.reason.in_(reasons.CAPS)
    )
    return _all(store, query)


def _all(store: Store, query: sa.Select[Any]) -> list[Any]:
    with (
        store.reading() as connection,
        connection.execute(query, execution_options=STREAM) as result,
    ):
        return [tuple(row) for row in result]


def text(found: Summary) -> str:
    """For a person."""
    lines = []
    for source, count in found.decisions.items():
        said = ", ".join(f"{count.get(d, 0)} {name}" for d, name in _NAMES.items())
        lines.append(f"{source:<9} {said}")
    if not lines:
        return f"{found.alias}: no corrections"
    for title, part in (
        ("waiting because", found.waits),
        ("rejected because", found.rejected),
        ("left out because", found.capped),
    ):
        lines += ["", title] * bool(part)
        lines += [f"  {number:>6}  {reason}" for reason, number in part.items()]
    if found.people:
        lines += ["", "users whose corrections were held most"]
        lines.append(f"  {'subject':<20}{'sent':>6}{'in':>6}{'wait':>6}{'no':>6}{'capped':>8}  why")
    for one in found.people:
        why = ", ".join(one.reasons)
        inside = one.accepted - one.capped
        lines.append(
            f"  {one.subject[:16]:<20}{one.sent:>6}{inside:>6}{one.waiting:>6}{one.rejected:>6}"
            f"{one.capped:>8}  {why}"
        )
    return "\n".join(lines)


_NAMES = {"accepted": "accepted", "proposed": "waiting", "rejected": "rejected"}
