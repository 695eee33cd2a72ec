"""The pages Datasets and one dataset: its card, what was left out, what is new in it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from curate.review.keys import Person
from curate.review.looks import frozen, pictures
from curate.review.pages.rows import question_of
from curate.review.web import alias_of, person, render, settings_of, store_of

router = APIRouter()
_PICTURES = (
    ("sources", "Source of the correction"),
    ("kinds", "Corrections and replayed answers"),
    ("splits", "Trained on and held out"),
    ("versions", "Version whose answer was corrected"),
    ("tags", "Tags"),
    ("clusters", "Clusters"),
)


@router.get("/{alias}/datasets")
def show(request: Request, who: Annotated[Person, Depends(person)]) -> Response:
    """The datasets of an alias, newest first."""
    alias = alias_of(request)
    found = frozen.listed(settings_of(request), store_of(request), alias)
    return render(request, "datasets.html", found=found)


@router.get("/{alias}/datasets/{dataset_id}")
def one(
    request: Request,
    who: Annotated[Person, Depends(person)],
    dataset_id: str,
    after: str = "",
    compare: bool = False,
) -> Response:
    """One dataset.

    Args:
        after: row id after which the list of pairs goes on.
        compare: compare it with the one before even where that takes a while.
    """
    alias, store = alias_of(request), store_of(request)
    every = frozen.listed(settings_of(request), store, alias)
    found = next((one for one in every if one.frozen.dataset_id == dataset_id), None)
    if found is None:
        raise HTTPException(404, f"{alias} has no dataset {dataset_id}")
    ids, more = frozen.pairs(store, dataset_id, after)
    rows = {row.row_id: row for row in store.interactions(row_ids=ids)}
    return render(
        request,
        "dataset.html",
        found=found,
        left=frozen.left_out(store, found),
        figures=[
            pictures.counted(title, found.counts[key])
            for key, title in _PICTURES
            if found.counts[key]
        ],
        pairs=[(row_id, question_of(rows[row_id]) if row_id in rows else None) for row_id in ids],
        after=after,
        more=more,
        diff=frozen.compared(store, found, asked=compare),
        named=frozen.NAMED,
    )
