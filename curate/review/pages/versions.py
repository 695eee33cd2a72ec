"""The pages Versions and one version: how it was judged, what changed, what it was made of."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from curate.review.keys import Person
from curate.review.looks import frozen, judged, lineage, live, pictures
from curate.review.pages.rows import question_of
from curate.review.web import alias_of, person, render, settings_of, store_of
from ledger.registry import Registry

router = APIRouter()
_PICTURED = 8
_ANSWERS = 50  # on one page


@router.get("/{alias}/versions")
def show(request: Request, who: Annotated[Person, Depends(person)]) -> Response:
    """The versions of an alias, newest first."""
    alias, settings, store = alias_of(request), settings_of(request), store_of(request)
    state, events = live.history(store, alias)
    steps = lineage.steps(settings, store, alias, state, events)
    judged = [one.verdict for one in steps if one.verdict is not None][:_PICTURED]
    return render(
        request,
        "versions.html",
        steps=steps,
        figure=pictures.gate_results(judged),
        state=state,
        base=settings.model.name,
        difference=pictures.difference,
    )


@router.get("/{alias}/versions/{number}")
def one(
    request: Request,
    who: Annotated[Person, Depends(person)],
    number: int,
    kind: str | None = None,
    start: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> Response:
    """One version: how it was judged, and the way to its dataset, its pairs and their rows.

    Args:
        kind, start: which of the changed answers are shown; see `judged.changed`.
    """
    kind = kind if kind in judged.KINDS else None
    alias, settings, store = alias_of(request), settings_of(request), store_of(request)
    state, events = live.history(store, alias)
    steps = lineage.steps(settings, store, alias, state, events)
    step = next((one for one in steps if one.manifest.version == number), None)
    if step is None:
        raise HTTPException(404, f"{alias} has no version {number}")
    version = Registry(settings.registry).get(alias, number)
    known = frozen.listed(settings, store, alias)
    trained = lineage.training(version)
    ids, more = frozen.pairs(store, step.manifest.dataset_id)
    rows = {row.row_id: row for row in store.interactions(row_ids=ids)}
    verdict = step.verdict
    return render(
        request,
        "version.html",
        step=step,
        manifest=step.manifest,
        name=version.name,
        figure=None
        if verdict is None
        else pictures.gate_sets(verdict, judged.set_reports(verdict)),
        sets=[] if verdict is None else judged.set_reports(verdict),
        judged=None
        if verdict is None or not judged.set_reports(verdict)
        else judged.changed(settings, store, verdict, kind=kind, start=start, most=_ANSWERS),
        kind=kind,
        start=start,
        step_size=_ANSWERS,
        verdict=verdict,
        report={} if verdict is None else verdict.report,
        loss=pictures.loss(trained.loss if trained else []),
        training=trained,
        dataset=next((d for d in known if d.frozen.dataset_id == step.manifest.dataset_id), None),
        change=lineage.change(settings, store, step.manifest),
        pairs=[(row_id, question_of(rows[row_id]) if row_id in rows else None) for row_id in ids],
        more=more,
        difference=pictures.difference,
    )
