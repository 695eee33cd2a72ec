"""Distillation end to end: a teacher answers, the student learns, the gate compares, the bill.

`distill` asks the teacher about N stored questions and keeps what was accepted, `retrain` trains
and judges, then the teacher is asked what the gate asked (`eval.teacher`), and the report says
what 1,000 answers of each cost. Rerunning goes on where it was cut off: how many questions were
asked is read from the ledger, and a retrain resumes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from curate.distill import Accept, distill
from eval.results import EvalResults, load
from eval.teacher import TeacherResults, run_teacher
from flywheel.retrain import Outcome, retrain, unfinished
from flywheel.spent import usage
from ledger import pricing
from ledger.clock import now
from ledger.database import tables
from ledger.errors import ConfigError
from ledger.files import read_json, write_atomic, write_json
from ledger.settings import Settings
from ledger.store import Spent, Store

REPORT = "distill_report.json"
PAGE = "distill_report.md"


class _Report(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Asked(_Report):
    """What the teacher was asked for corrections.

    Attributes:
        questions: that it was asked.
        accepted, proposed, rejected: corrections by what became of them, as it stands now.
        calls, prompt_tokens, completion_tokens, cost: of the teacher; `judge_cost` of the judge,
            None where there was none or no price is set.
    """

    questions: int
    accepted: int
    proposed: int
    rejected: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    judge_calls: int
    judge_cost: float | None


class Compared(_Report):
    """One model on the gate's questions.

    Attributes:
        role: student, live or teacher.
        scores: mean score by `pack/set`, 0 to 1, on the questions that all three were asked.
        prompt_tokens, completion_tokens: mean of an answer.
        cost_per_1000: in `currency`; None where it is unknown, and `cost_from` says why.
        against_teacher: its cost as a multiple of the teacher's.
    """

    role: str
    model: str
    scores: dict[str, float]
    answers: int
    prompt_tokens: float
    completion_tokens: float
    cost_per_1000: float | None
    cost_from: str
    against_teacher: float | None = None


class DistillReport(_Report):
    """What a distillation came to."""

    alias: str
    run: str
    version: str
    verdict: str = Field(description="of the gate, in which the teacher has no part")
    currency: str
    asked: Asked
    pairs: dict[str, int] = Field(description="pairs trained on, by the correction's source")
    training_seconds: float
    training_cost: float | None
    gate_seconds: float
    gate_cost: float | None
    models: list[Compared]
    finished: float


class Done(NamedTuple):
    """The report and where it lies."""

    report: DistillReport
    file: Path


def run(
    settings: Settings,
    config: str,
    store: Store,
    alias: str,
    *,
    count: int,
    accept: Accept,
    budget: float | None = None,
    tag: str | None = None,
    cluster: int | None = None,
    url: str | None = None,
    say: Callable[[str], None] = print,
) -> Done:
    """Distil, retrain, judge, report.

    Args:
        count: most questions for the teacher.
        accept, budget, tag, cluster: see `curate.distill.distill`.
        url: the live server.

    Raises:
        ConfigError: there is no teacher, or answers would only wait for an operator.
        FlywheelError: a step failed. The same command goes on there.
    """
    if settings.curate.teacher is None:
        raise ConfigError(
            "curate.teacher is not set",
            remedy="Add `curate: {teacher: {url: …/v1, model: …}}` to the configuration.",
        )
    if accept == "operator" and "teacher" not in settings.curate.trusted_sources:
        raise ConfigError(
            "--retrain with --accept operator would train on nothing: every answer waits for eyes",
            remedy="Use --accept check or --accept judge; or distil without --retrain, accept on "
            "the review page, and `flywheel retrain`.",
        )
    begun = settings.runs / f".distill-{alias}.json"
    since = _begin(begun)
    before = _asked(settings, store, alias, since)
    left = count - before.questions
    if left > 0:
        said = f", {before.questions} were asked before" if before.questions else ""
        say(f"distill  {left} question(s) for {settings.curate.teacher.model}{said}")
        found = distill(
            settings,
            store,
            alias,
            accept=accept,
            limit=left,
            budget=budget,
            tag=tag,
            cluster=cluster,
            say=say,
        )
        say(found.text())
    outcome = _finished(settings, alias, since)
    if outcome is None:
        old = unfinished(settings, alias)
        # A run that was begun before has a dataset without these answers.
        fresh = old is not None and read_json(old / "run.json")["started"] < since
        outcome = retrain(settings, config, alias, url=url, fresh=fresh, say=say)
    folder, version = outcome.run, outcome.version
    say(f"teacher  asked what the gate asked {version}")
    teacher = run_teacher(settings, alias, folder)
    report = _report(settings, store, alias, since, folder, version, outcome.verdict, teacher)
    write_json(folder / REPORT, report.model_dump(mode="json"))
    write_atomic(folder / PAGE, (markdown(report) + "\n").encode())
    begun.unlink(missing_ok=True)
    return Done(report, folder / REPORT)


def _begin(file: Path) -> float:
    """When this distillation began: now, or when the one that was cut off did."""
    if not file.exists():
        write_json(file, {"since": now()})
    return float(read_json(file)["since"])


def _finished(settings: Settings, alias: str, since: float) -> Outcome | None:
    """The run of this distillation, where only its report was cut off."""
    for file in sorted(settings.runs.glob("*/run.json"), reverse=True):
        note = read_json(file)
        if note["alias"] == alias and note["started"] >= since and note.get("version"):
            return Outcome(file.parent, note["version"], "", note["verdict"], note["seconds"])
    return None


def _asked(settings: Settings, store: Store, alias: str, since: float) -> Asked:
    """What the teacher was asked since then, from the ledger."""
    teacher, judge = settings.curate.teacher, settings.curate.judge
    assert teacher is not None
    none = Spent(0, 0, 0, None)
    sums: dict[str, Spent] = {}
    for on, spent in store.spending_by_version(alias, since=since).items():
        # What was spent on a version was spent by its gate, not on corrections.
        wanted = {"teacher": teacher.model, "judge": judge and judge.model}
        if on.version is None and wanted.get(on.what) == on.model:
            sums[on.what] = spent
    paid, judged = sums.get("teacher", none), sums.get("judge", none)
    said, rows = tables.corrections, tables.interactions
    query = (
        sa.select(said.c.decision, sa.func.count(sa.distinct(said.c.row_id)))
        .join(rows, rows.c.row_id == said.c.row_id)
        .where(said.c.source == "teacher", said.c.ts >= since, rows.c.alias == alias)
        .group_by(said.c.decision)
    )
    with store.reading() as connection:
        decided = {decision: int(number) for decision, number in connection.execute(query)}
    return Asked(
        questions=paid.calls,
        accepted=decided.get("accepted", 0),
        proposed=decided.get("proposed", 0),
        rejected=decided.get("rejected", 0),
        calls=paid.calls,
        prompt_tokens=paid.prompt_tokens,
        completion_tokens=paid.completion_tokens,
        cost=paid.cost,
        judge_calls=judged.calls,
        judge_cost=judged.cost,
    )


def _report(
    settings: Settings,
    store: Store,
    alias: str,
    since: float,
    folder: Path,
    version: str,
    verdict: str,
    teacher: TeacherResults,
) -> DistillReport:
    trained, results = read_json(folder / "train.json"), load(folder, store)
    seconds = float(trained["seconds"]) * (trained["hardware"].get("processes") or 1)
    return DistillReport(
        alias=alias,
        run=folder.name,
        version=version,
        verdict=verdict,
        currency=settings.prices.currency,
        asked=_asked(settings, store, alias, since),
        pairs=trained["sources"],
        training_seconds=seconds,
        training_cost=pricing.of_box(settings, seconds),
        gate_seconds=results.seconds,
        gate_cost=pricing.of_box(settings, results.seconds),
        models=compare(settings, results, teacher),
        finished=now(),
    )


def compare(settings: Settings, results: EvalResults, teacher: TeacherResults) -> list[Compared]:
    """Student, live version and teacher on the gate's questions, with what 1,000 answers cost."""
    given = settings.curate.teacher
    assert given is not None
    use = pricing.Use(
        sum(len(said) for said in teacher.answers.values()),
        teacher.prompt_tokens,
        teacher.completion_tokens,
    )
    theirs = pricing.teacher_per_thousand(given, use)
    models = [
        _compared(
            "teacher",
            teacher.model,
            {key: one.teacher for key, one in teacher.sets.items()},
            use,
            theirs,
            theirs.amount,
        )
    ]
    for role, name in (("live", results.baseline), ("student", results.candidate)):
        scores = {
            key: one.candidate if role == "student" else one.baseline
            for key, one in teacher.sets.items()
        }
        used = usage(results, name)
        cost = pricing.per_thousand(settings, name, used)
        models.append(_compared(role, name, scores, used, cost, theirs.amount))
    return list(reversed(models))


def _compared(
    role: str,
    model: str,
    scores: dict[str, float],
    use: pricing.Use,
    cost: pricing.Cost,
    teachers: float | None,
) -> Compared:
    answers = max(use.answers, 1)
    return Compared(
        role=role,
        model=model,
        scores=scores,
        answers=use.answers,
        prompt_tokens=use.prompt_tokens / answers,
        completion_tokens=use.completion_tokens / answers,
        cost_per_1000=cost.amount,
        cost_from=cost.how,
        against_teacher=None if cost.amount is None or not teachers else cost.amount / teachers,
    )


def markdown(report: DistillReport) -> str:
    """The report as Markdown, which also reads well on a terminal."""
    asked, money = report.asked, report.currency
    waits = f", {asked.proposed} wait for eyes" if asked.proposed else ""
    lines = [
        f"# {report.version}, distilled: {report.verdict}",
        "",
        f"The teacher was asked {asked.questions} stored questions: {asked.accepted} answers were "
        f"accepted{waits}, {asked.rejected} rejected. {asked.prompt_tokens} + "
        f"{asked.completion_tokens} tokens, {_money(asked.cost, money)}"
        + (f"; its judge {_money(asked.judge_cost, money)}" if asked.judge_calls else "")
        + ".",
        f"Trained on {sum(report.pairs.values())} pairs ("
        + ", ".join(f"{count} by {source}" for source, count in sorted(report.pairs.items()))
        + f") in {report.training_seconds:.0f} s, {_money(report.training_cost, money)}; the gate "
        f"took {report.gate_seconds:.0f} s, {_money(report.gate_cost, money)}.",
        "",
        f"| | {' | '.join(_names(report))} | tokens an answer | {money} per 1,000 answers | from |",
        f"|---|{'---|' * len(_names(report))}---|---|---|",
    ]
    for one in report.models:
        scores = " | ".join(
            f"{one.scores[name]:.1%}" if name in one.scores else "-" for name in _names(report)
        )
        cost = "unknown" if one.cost_per_1000 is None else f"{one.cost_per_1000:.4g}"
        if one.against_teacher is not None and one.role != "teacher":
            cost += f" ({one.against_teacher:.2g} × the teacher's)"
        lines.append(
            f"| {one.role} `{one.model}` | {scores} | {one.prompt_tokens:.0f} + "
            f"{one.completion_tokens:.0f} | {cost} | {one.cost_from} |"
        )
    lines += ["", "The teacher's scores are for information; they are no part of the verdict."]
    return "\n".join(lines)


def _names(report: DistillReport) -> list[str]:
    return sorted({name for one in report.models for name in one.scores})


def _money(amount: float | None, currency: str) -> str:
    return "cost unknown" if amount is None else f"{amount:.4g} {currency}"
