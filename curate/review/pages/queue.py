"""The page Queue: one row at a time, and what is said of it.

Opening the page takes a row onto the screen, so that nobody else gets it; that is all a GET
does. Everything works as plain forms; the script adds keys, drafts and differences as one types.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Form
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from curate.judging import decisions
from curate.judging.queue import QueueItem, items, next_item
from curate.judging.standing import Shown, shown
from curate.judging.undo import undo as take_back
from curate.review import item as views
from curate.review import texts
from curate.review.keys import Person
from curate.review.web import alias_of, person, render, requires, settings_of, store_of
from curate.tagging.tags import add_tag
from ledger.errors import FlywheelError, RecordError, UnknownRow
from ledger.store import Store

router = APIRouter()

Viewer = Annotated[Person, Depends(person)]
Reviewer = Annotated[Person, Depends(requires("reviewer"))]
Field = Annotated[str, Form()]

#: What is said after a step; the address carries the word only.
_DONE = {
    "accept": "Accepted.",
    "edit": "Your text is kept.",
    "reject": "Rejected.",
    "good": "Noted: the answer is good.",
    "skip": "Skipped.",
    "undo": "Taken back: here it is again.",
    "tag": "Tagged.",
}
_WAITS = "It waits for another person."


@router.get("/{alias}/queue")
def show(request: Request, who: Viewer, row: str = "", done: str = "", waits: str = "") -> Response:
    """The next row, or the one that is asked for."""
    alias, store = alias_of(request), store_of(request)
    item, held = None, None
    if not who.may("reviewer"):
        waiting = [row] if row else [one.row_id for one in store.queued(alias, 1)]
        item = next(iter(items(store, waiting)), None)
    elif row:
        item, held = _taken(request, row, who.name)
    else:
        item = next_item(store, settings_of(request), alias, who.name)
    said = _DONE.get(done, "")
    if said and waits:
        said = f"{said} {_WAITS}"
    return _page(request, who, item, said=said, held=held)


def _taken(request: Request, row_id: str, who: str) -> tuple[QueueItem | None, str | None]:
    """A certain row on somebody's screen, or who has it on theirs."""
    store = store_of(request)
    found = items(store, [row_id])
    if not found:
        raise UnknownRow(f"there is no row {row_id!r} with its text")
    seconds = settings_of(request).curate.review.lease_minutes * 60
    held = store.claim_row(row_id, who, seconds=seconds)
    return (None, held) if held else (found[0], None)


def _page(
    request: Request,
    who: Person,
    item: QueueItem | None,
    *,
    said: str = "",
    held: str | None = None,
    problem: str = "",
    text: str | None = None,
    status: int = 200,
) -> Response:
    alias, store, settings = alias_of(request), store_of(request), settings_of(request)
    view = None if item is None else views.view(store, settings, alias, item, who, text)
    return render(
        request,
        "queue.html",
        status,
        view=view,
        waiting=views.waiting(store, alias),
        done_today=views.done_today(store, who.name),
        people=settings.curate.acceptance.people,
        heartbeat=int(settings.curate.review.lease_minutes * 60 / 3) or 1,
        said=said,
        held=held,
        problem=problem,
        may=who.may("reviewer"),
    )


# -- deciding -------------------------------------------------------------------------------------


@router.post("/{alias}/queue/accept")
def accept(request: Request, who: Reviewer, row: Field, seen: Field, text: Field = "") -> Response:
    """Take what stands in the box: what was proposed, or what was made of it."""

    def said(store: Store) -> decisions.Decided:
        place = (store, settings_of(request), row)
        if text and _lines(text) != views.proposed_text(store, row):
            return decisions.edit(*place, _lines(text), who.name, who.role, shown=_seen(seen))
        return decisions.accept(*place, who.name, who.role, shown=_seen(seen))

    return _decide(request, who, row, text, said)


@router.post("/{alias}/queue/edit")
def edit(request: Request, who: Reviewer, row: Field, seen: Field, text: Field = "") -> Response:
    """Keep what somebody wrote."""
    return _decide(
        request,
        who,
        row,
        text,
        lambda store: decisions.edit(
            store, settings_of(request), row, _lines(text), who.name, who.role, shown=_seen(seen)
        ),
    )


@router.post("/{alias}/queue/reject")
def reject(request: Request, who: Reviewer, row: Field, seen: Field, why: Field = "") -> Response:
    """Say no to what is proposed."""
    return _decide(
        request,
        who,
        row,
        None,
        lambda store: decisions.reject(
            store,
            settings_of(request),
            row,
            who.name,
            who.role,
            why=why.strip(),
            shown=_seen(seen),
        ),
    )


@router.post("/{alias}/queue/good")
def good(request: Request, who: Reviewer, row: Field, seen: Field, text: Field = "") -> Response:
    """Say that the answer is good."""

    def said(store: Store) -> decisions.Decided:
        if text and _lines(text) != views.answer_text(store, row):
            raise RecordError(
                "the text in the field is not the answer's",
                field="text",
                rule="Nothing was changed.",
                remedy="Save it as a correction, or restore it first.",
            )
        place = (store, settings_of(request), row)
        return decisions.good(*place, who.name, who.role, shown=_seen(seen))

    return _decide(request, who, row, text or None, said)


@router.post("/{alias}/queue/skip")
def skip(request: Request, who: Reviewer, row: Field) -> Response:
    """Leave the row to others."""
    return _decide(
        request, who, row, None, lambda store: decisions.skip(store, row, who.name, who.role)
    )


@router.post("/{alias}/queue/undo")
def undo(request: Request, who: Reviewer) -> Response:
    """Take back the last thing, and show its row."""
    try:
        undone = take_back(store_of(request), settings_of(request), who.name, who.role)
    except RecordError as error:
        item = next_item(store_of(request), settings_of(request), alias_of(request), who.name)
        return _page(request, who, item, problem=str(error), status=_code(error))
    return _to(undone.alias or alias_of(request), row=undone.row_id, done="undo")


@router.post("/{alias}/queue/tag")
def tag(request: Request, who: Reviewer, row: Field, tag: Field = "", why: Field = "") -> Response:
    """Put a tag on the row; it stays on the screen."""
    store = store_of(request)
    try:
        add_tag(store, row, tag.strip(), f"operator:{who.name}", why.strip())
    except RecordError as error:
        found = items(store, [row])
        return _page(request, who, found[0] if found else None, problem=str(error), status=400)
    return _to(alias_of(request), row=row, done="tag")


def _decide(request: Request, who: Person, row: str, text: str | None, say: Any) -> Response:
    """Say something; then the next row, or this one again with what is wrong."""
    alias, store = alias_of(request), store_of(request)
    try:
        decided: decisions.Decided = say(store)
    except RecordError as error:
        found = items(store, [row])
        return _page(
            request,
            who,
            found[0] if found else None,
            problem=str(error),
            text=None if text is None else _lines(text),
            status=_code(error),
        )
    more = {} if decided.settled or decided.action == "skip" else {"waits": "1"}
    return _to(alias, done=decided.action, **more)


def _code(error: FlywheelError) -> int:
    return 409 if isinstance(error, decisions.Outdated) else 400


def _to(alias: str, **query: str) -> Response:
    return RedirectResponse(f"/{quote(alias)}/queue?{urlencode(query)}", status_code=303)


def _lines(text: str) -> str:
    """A text as typed: browsers send line ends as CR LF."""
    return text.replace("\r\n", "\n").strip()


def _seen(value: str) -> Shown:
    """What was on the screen, as the form carries it.

    Raises:
        RecordError: it is not two numbers.
    """
    try:
        correction, word = map(int, value.split("."))
    except ValueError:
        raise RecordError(
            "the form does not say what was shown", field="seen", remedy="Load the page again."
        ) from None
    return Shown(correction, word)


# -- while somebody looks -------------------------------------------------------------------------


@router.post("/{alias}/queue/draft")
def draft(
    request: Request, who: Reviewer, row: Field, seen: Field, text: Field = ""
) -> JSONResponse:
    """Keep what is typed so far; what differs from the answer, and what speaks against it."""
    store, settings = store_of(request), settings_of(request)
    text = text.replace("\r\n", "\n")
    item, held = _taken(request, row, who.name)
    if item is None:
        return JSONResponse({"problem": f"{held} has this row now."}, status_code=409)
    same = text.strip() == views.base_text(item).strip()
    store.save_draft(row, who.name, "" if same else text)
    return JSONResponse(
        {
            "pieces": texts.differences(item.response, text.strip()),
            "warnings": [] if same else views.warnings(store, settings, row, text.strip()),
            "changed": not same,
            "newer": shown(store, row) != _seen(seen),
        }
    )


@router.post("/{alias}/queue/hold")
def hold(request: Request, who: Reviewer, row: Field) -> JSONResponse:
    """Keep a row on the screen for longer."""
    seconds = settings_of(request).curate.review.lease_minutes * 60
    held = store_of(request).claim_row(row, who.name, seconds=seconds)
    return JSONResponse({"held": held}, status_code=409 if held else 200)


@router.post("/{alias}/queue/leave")
def leave(request: Request, who: Reviewer, row: Field) -> JSONResponse:
    """Give a row back without a word."""
    store_of(request).release(row, who.name)
    return JSONResponse({})
