"""The page Clusters: what is asked, where it goes wrong, and what is new."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from curate.review.keys import Person
from curate.review.looks import themes
from curate.review.web import alias_of, person, render, settings_of, store_of

router = APIRouter()
#: Windows that can be looked at, days.
DAYS = (7, 30, 90)
_SHOWN = 100


@router.get("/{alias}/clusters")
def show(request: Request, who: Annotated[Person, Depends(person)], days: int = 30) -> Response:
    """Clusters, those with most failures and corrections first."""
    alias = alias_of(request)
    days = days if days in DAYS else 30
    found = themes.themes(settings_of(request), store_of(request), alias, days, time.time())
    return render(
        request,
        "clusters.html",
        found=found,
        shown=sorted(found.all, key=lambda one: not one.new)[:_SHOWN],
        days=days,
        choices=DAYS,
        recent_hours=settings_of(request).curate.clusters.recent_hours,
    )
