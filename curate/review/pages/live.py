"""The page Live: what has the traffic, what is tried, noticed, waited for and spent, and what users
make of it over time. It shows what `flywheel status` does, as the ledger has it: what is judged and
decided it reads as the last tick left it."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from curate.review.keys import Person
from curate.review.looks import live, pictures, series
from curate.review.web import alias_of, person, render, settings_of, store_of
from ledger.deployments import version_name
from ledger.glance import glance
from ledger.store import Store

router = APIRouter()
#: Windows that can be looked at, days.
DAYS = (1, 7, 30, 90)
_EVENTS, _USUAL = 12, 30


def _fitting(store: Store, alias: str, now: float) -> int:
    """Days of the window that is shown first: the usual one, less where there is less to see."""
    first = series.first(store, alias)
    age = 0.0 if first is None else (now - first) / series.DAY
    return next((days for days in DAYS if age <= days < _USUAL), _USUAL)


@router.get("/{alias}/live")
def show(request: Request, who: Annotated[Person, Depends(person)], days: int = 0) -> Response:
    """The state of an alias, and its versions over time."""
    alias, settings, store = alias_of(request), settings_of(request), store_of(request)
    now = time.time()
    days = days if days in DAYS else _fitting(store, alias, now)
    state, events = live.history(store, alias)
    span = series.window(days, now)
    names = series.names(settings, alias, events)
    found = series.over(settings, store, alias, names, span)
    marks = [
        (event.ts, f"v{event.version} live" if event.version else "base live")
        for event in events
        if event.kind == "promote"
    ]
    figures = [
        pictures.negatives(found, span, marks),
        pictures.edits(found, span, marks),
        pictures.confidence(found, span, marks),
        pictures.spreads(found, settings.curate.low_confidence_nats),
        pictures.answers(found, span, marks),
    ]
    base, seen = settings.model.name, glance(store, alias)
    return render(
        request,
        "live.html",
        state=state,
        shares=live.shares(settings, store, state, now),
        previous=None if state.previous is None else version_name(alias, state.previous, base),
        events=list(reversed(events))[:_EVENTS],
        earlier=max(len(events) - _EVENTS, 0),
        alerts=live.alerts(store, alias),
        waits=live.waits(store, alias),
        tried=live.tried(seen, base, now),
        signals=live.signals(seen),
        tick=seen.loop,
        spending=live.spending(store, alias, now),
        currency=settings.prices.currency,
        figures=figures,
        answers=sum(one.answers for one in found),
        days=days,
        choices=DAYS,
        span=span,
    )
