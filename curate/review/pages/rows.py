"""The pages Rows and one row: finding answers, and everything that is known of one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from curate.review import texts
from curate.review.keys import Person
from curate.review.looks import live, row, search, series
from curate.review.looks.search import Cursor, Filter
from curate.review.web import alias_of, person, render, requires, settings_of, store_of
from curate.tagging.tags import add_tag
from ledger.marks import OPERATOR_REVIEW, RANKS
from ledger.records import Correction, Feedback, Interaction, Tag
from ledger.store import Store

router = APIRouter()
_CHOICES = {"correction": search.CORRECTED, "feedback": search.SAID}


class Line(NamedTuple):
    """A row of the list, opened."""

    row: Interaction
    question: str
    tags: list[Tag]
    correction: Correction | None
    feedback: list[Feedback]


@router.get("/{alias}/rows")
def show(request: Request, who: Annotated[Person, Depends(person)]) -> Response:
    """Rows that fit, newest first."""
    alias, settings, store = alias_of(request), settings_of(request), store_of(request)
    given = {key: value.strip() for key, value in request.query_params.items() if value.strip()}
    wanted, problems = wanted_of(given)
    before = Cursor.parse(given.get("before", ""))
    found = search.find(store, alias, wanted, before)
    _, events = live.history(store, alias)
    kept = {key: value for key, value in given.items() if key != "before"}
    older = None if found.older is None else urlencode({**kept, "before": str(found.older)})
    return render(
        request,
        "rows.html",
        lines=_opened(store, found),
        found=found,
        given=given,
        problems=problems,
        filtered=bool(set(kept) & set(Filter._fields) | set(kept) & {"from", "to"}),
        first=urlencode(kept) if before else None,
        older=older,
        tags=search.tag_counts(store),
        versions=list(reversed(series.names(settings, alias, events, most=12))),
        choices=_CHOICES,
        limits=(search.WINDOW, search.OPENED),
    )


def wanted_of(given: Mapping[str, str]) -> tuple[Filter, list[str]]:
    """What the fields of the form ask for, and which of them cannot be read.

    Args:
        given: by name: `text`, `tag`, `version`, `from` and `to` (days, UTC), `low` and `high`
            (nats), `cluster`, `correction`, `feedback`.
    """
    problems: list[str] = []
    fields: dict[str, Any] = {name: given.get(name) for name in ("text", "tag", "version")}
    for name, field, days in (("from", "since", 0), ("to", "until", 1)):
        if name in given:
            try:
                day = date.fromisoformat(given[name]) + timedelta(days=days)
                fields[field] = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
            except (ValueError, OverflowError):
                problems.append(f"{name}: write a day as 2026-11-17")
    for name in ("low", "high"):
        if name in given:
            try:
                value = float(given[name].replace("−", "-").replace(",", "."))
            except ValueError:
                value = math.nan
            if math.isfinite(value):
                fields[name] = value
            else:
                problems.append(f"{name}: write a number such as -1.5")
    if "cluster" in given:
        digits = given["cluster"]
        if digits.isascii() and digits.isdigit() and len(digits) < 10:
            fields["cluster"] = int(digits)
        else:
            problems.append("cluster: write its number")
    for name, choices in _CHOICES.items():
        if name in given:
            if given[name] in choices:
                fields[name] = given[name]
            else:
                problems.append(f"{name}: one of {', '.join(choices)}")
    return Filter(**fields), problems


def _opened(store: Store, found: search.Found) -> list[Line]:
    """The texts of a page of rows, and what was said about them."""
    ids = [hit.row_id for hit in found.hits]
    rows = search.in_order(found.hits, list(store.interactions(row_ids=ids)))
    tags, corrections = store.tags(ids), store.corrections(row_ids=ids)
    feedback: dict[str, list[Feedback]] = {}
    for _, said in store.feedback(row_ids=ids):
        feedback.setdefault(said.row_id, []).append(said)
    return [
        Line(
            one,
            question_of(one),
            tags.get(one.row_id, []),
            corrections.get(one.row_id),
            feedback.get(one.row_id, []),
        )
        for one in rows
    ]


def question_of(one: Interaction) -> str:
    """The last thing that a user said before the answer; else the last message."""
    said = [m for m in one.messages or [] if m.get("role") == "user"] or (one.messages or [])[-1:]
    return search.content_of(said[-1]) if said else ""


@router.get("/{alias}/rows/{row_id:path}")
def one(request: Request, who: Annotated[Person, Depends(person)], row_id: str) -> Response:
    """Everything about a row."""
    alias, settings, store = alias_of(request), settings_of(request), store_of(request)
    found = row.whole(settings, store, alias, row_id)
    turns = [
        (str(message.get("role", "?")), search.content_of(message) or live.word(message))
        for message in found.row.messages or []
    ]
    near = [] if found.cluster is None else [(r, question_of(r)) for r in found.cluster.neighbours]
    return render(
        request,
        "row.html",
        found=found,
        row=found.row,
        turns=turns,
        tokens=texts.tokens(found.row.response or "", found.row.token_logprobs),
        near=near,
    )


@router.post("/{alias}/rows/{row_id:path}")
def queue(
    request: Request, who: Annotated[Person, Depends(requires("reviewer"))], row_id: str
) -> Response:
    """Put a row on the queue, with the tag `operator_review`."""
    alias, store = alias_of(request), store_of(request)
    row.of_alias(store, alias, row_id)
    if not add_tag(store, row_id, OPERATOR_REVIEW, f"operator:{who.name}", "from the review page"):
        # Asked for before by the same person, and judged since.
        with store.transaction() as connection:
            store.requeue(row_id, connection, rank=RANKS[OPERATOR_REVIEW])
    return RedirectResponse(f"/{quote(alias)}/rows/{quote(row_id, safe='')}", status_code=303)
