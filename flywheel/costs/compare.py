"""What 1,000 answers cost: of the live version, against the base and the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flywheel.costs.kinds import Line, Thousand, serving_cost
from flywheel.spent import usage
from ledger import pricing
from ledger.deployments import BASE, Deployments, version_name
from ledger.errors import RecordError
from ledger.files import read_json
from ledger.settings import Settings
from ledger.store import Store


def thousands(
    settings: Settings, store: Store, alias: str, lines: Sequence[Line]
) -> list[Thousand]:
    """What 1,000 answers cost: the live version, the base, the teacher.

    On the questions of the live version's gate, where its run is on this machine: there all
    were asked the same. Else on what each was asked.
    """
    state = Deployments(store).state(alias)
    base = settings.model.name
    live = version_name(alias, state.live, base)
    run = _run_of(settings, store, alias, live)
    wanted = [("live", live)] if state.live != BASE else []
    wanted.append(("base", base))
    found = [_here(settings, store, alias, role, name, run, lines) for role, name in wanted]
    if settings.curate.teacher is not None:
        found.append(_teacher(settings, store, alias, run))
    costs_of = {one.role: one.cost for one in found}
    return [
        one._replace(
            against_base=_ratio(one.cost, costs_of.get("base")),
            against_teacher=_ratio(one.cost, costs_of.get("teacher")),
        )
        for one in found
    ]


def _run_of(settings: Settings, store: Store, alias: str, live: str) -> Path | None:
    """The run whose gate let the live version through, where it is here."""
    verdict = store.evaluations(alias).get(live)
    folder = None if verdict is None else settings.runs / verdict.run_id
    return folder if folder is not None and folder.is_dir() else None


def _here(
    settings: Settings,
    store: Store,
    alias: str,
    role: str,
    name: str,
    run: Path | None,
    lines: Sequence[Line],
) -> Thousand:
    use, asked = _in_gate(store, run, name), "gate"
    if use is None:
        served = [
            one
            for one in lines
            if (one.what, one.alias, one.version) == ("serving", alias, name) and one.calls
        ]
        if not served:
            none = "unknown: it was neither served nor asked by a gate in this time"
            return Thousand(role, name, "", 0, 0.0, None, none)
        [one] = served
        seconds = one.gpu_seconds
        use = pricing.Use(one.calls, one.prompt_tokens, one.completion_tokens, seconds)
        asked = "served"
    return _thousand(role, name, asked, use, serving_cost(settings, name, use))


def _in_gate(store: Store, run: Path | None, name: str) -> pricing.Use | None:
    from eval.results import load

    if run is None:
        return None
    try:
        results = load(run, store)
    except RecordError:  # no gate was asked here, or its file is of an older format
        return None
    use = usage(results, name)
    if use.answers and use.seconds is None:  # all kept from earlier gates: no pass to measure
        return None
    return use if use.answers else None


def _teacher(settings: Settings, store: Store, alias: str, run: Path | None) -> Thousand:
    from eval.teacher import FILE

    teacher = settings.curate.teacher
    assert teacher is not None
    use, asked = pricing.Use(0, 0, 0), ""
    if run is not None and (run / FILE).is_file():
        said = read_json(run / FILE)
        if said["model"] == teacher.model:
            count = sum(len(one) for one in said["answers"].values())
            use = pricing.Use(count, said["prompt_tokens"], said["completion_tokens"])
            asked = "gate"
    if not asked:
        found = store.spending(alias).get(("teacher", teacher.model))
        if found is not None:
            use = pricing.Use(found.calls, found.prompt_tokens, found.completion_tokens)
            asked = "asked"
    return _thousand(
        "teacher", teacher.model, asked, use, pricing.teacher_per_thousand(teacher, use)
    )


def _thousand(role: str, name: str, asked: str, use: pricing.Use, cost: pricing.Cost) -> Thousand:
    tokens = (use.prompt_tokens + use.completion_tokens) / max(use.answers, 1)
    return Thousand(role, name, asked, use.answers, tokens, cost.amount, cost.how)


def _ratio(cost: float | None, other: float | None) -> float | None:
    return None if cost is None or not other else cost / other
