"""The teacher is asked the gate's questions, for information: it is no part of any verdict.

    python -m eval.teacher --config C --alias support --run var/runs/<id>

Asks the model of `curate.teacher`, at its own URL and with its own instructions, what the gate of
a run asked the candidate and the live version, scores its answers by the same checks and writes
`teacher_results.json` beside `eval_results.json`. Left out are questions that a judge scores, and
stored rows of users: those went to the teacher only if somebody asked it for corrections.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import click
from pydantic import Field
from rich.console import Console

from eval import command
from eval.asking import Bar, Wanted, ask
from eval.client import Answer, Client, Sampling
from eval.results import EvalResults, SetResults, Stored, load
from eval.scoring import is_judged
from ledger import checking, pricing
from ledger import settings as configuration
from ledger.clock import now
from ledger.errors import ConfigError, RecordError, ServerError
from ledger.files import write_json
from ledger.gold import GoldQuestion
from ledger.hashing import content_hash
from ledger.settings import Settings
from ledger.settings.curation import Teacher
from ledger.store import Spent, Store
from ledger.teaching import with_instructions, without_thought

FILE = "teacher_results.json"


class TeacherSet(Stored):
    """Mean scores over the questions of a set that the teacher was asked, 0 to 1."""

    questions: int
    teacher: float
    candidate: float
    baseline: float


class TeacherResults(Stored):
    """What the teacher said to a gate's questions.

    Attributes:
        sets: by `pack/set`.
        answers: by `pack/set`, then by question.
        calls, cached: answers that were asked for now, and that earlier gates had.
        prompt_tokens, completion_tokens: of all answers, those kept from earlier gates too.
        cost: of the calls, in `prices.currency`; None where no price is set.
    """

    run_id: str
    alias: str
    candidate: str
    baseline: str
    model: str
    url: str
    created: float
    seconds: float = Field(description="spent asking")
    sets: dict[str, TeacherSet]
    answers: dict[str, dict[str, Answer]]
    calls: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


async def ask_teacher(
    settings: Settings,
    alias: str,
    results: EvalResults,
    store: Store,
    on_progress: Callable[[int, int, int], None] | None = None,
) -> TeacherResults:
    """Ask it, and record what that cost.

    Raises:
        ConfigError: no teacher is configured.
        RecordError: the gate asked nothing that a teacher could be asked.
        ServerError: the endpoint fails. What was answered before stays kept.
    """
    teacher = settings.curate.teacher
    if teacher is None:
        raise ConfigError(
            "curate.teacher is not set",
            remedy="Add `curate: {teacher: {url: …/v1, model: …}}` to the configuration.",
        )
    questions = [
        (one, question)
        for one in results.sets
        if not one.of_users
        for question in one.questions
        if not is_judged(one, question)
    ]
    if not questions:
        raise RecordError(
            f"the gate of {results.run_id} asked nothing that can be scored by checks",
            remedy="A gold set with checks is what student, live version and teacher are "
            "compared on.",
        )
    done = await _answers(settings, alias, teacher, questions, store, on_progress)
    answers: dict[str, dict[str, Answer]] = {}
    for (one, question), answer in zip(questions, done.given, strict=True):
        text = without_thought(answer.text)
        answers.setdefault(one.key, {})[question.id] = answer.model_copy(update={"text": text})
    new = [answer for answer in done.given if not answer.cached]
    cost = _cost(teacher, new)
    if new:
        asked, said = _tokens(new)
        spent = Spent(len(new), asked, said, cost)
        store.add_spending(alias, "teacher", teacher.model, spent, version=results.candidate)
    asked, said = _tokens(done.given)
    return TeacherResults(
        run_id=results.run_id,
        alias=alias,
        candidate=results.candidate,
        baseline=results.baseline,
        model=teacher.model,
        url=teacher.url,
        created=now(),
        seconds=done.seconds,
        sets={
            one.key: _scored(one, answers[one.key], results)
            for one in results.sets
            if one.key in answers
        },
        answers=answers,
        calls=len(new),
        cached=len(done.given) - len(new),
        prompt_tokens=asked,
        completion_tokens=said,
        cost=cost,
    )


class _Given(Stored):
    given: list[Answer]
    seconds: float


async def _answers(
    settings: Settings,
    alias: str,
    teacher: Teacher,
    questions: Sequence[tuple[SetResults, GoldQuestion]],
    store: Store,
    on_progress: Callable[[int, int, int], None] | None,
) -> _Given:
    wanted = [
        Wanted(
            id=str(number),
            messages=with_instructions(question.messages, teacher.instructions),
            max_tokens=teacher.max_tokens,
            tools=question.tools,
            sampling=Sampling(temperature=teacher.temperature),
        )
        for number, (_, question) in enumerate(questions)
    ]
    known = content_hash("model", {"url": teacher.url, "m": teacher.model})
    try:
        async with Client(
            teacher.url,
            os.environ.get(teacher.key_variable) or "none",
            concurrency=teacher.concurrency,
            timeout_seconds=teacher.timeout_seconds,
            retries=teacher.retries,
            any_model=True,
        ) as client:
            done = await ask(
                client,
                wanted,
                [teacher.model],
                store=store,
                alias=alias,
                known={teacher.model: known},
                days=settings.alias(alias).gate.cache_days,
                on_progress=on_progress,
            )
    except ServerError as error:
        raise ServerError(
            f"the teacher {teacher.model}: {error.problem}",
            rule=error.rule,
            remedy=f"See curate.teacher; its key is read from {teacher.key_variable}.",
        ) from error
    given = done.answers[teacher.model]
    return _Given(given=[given[one.id][0] for one in wanted], seconds=done.seconds)


def _scored(one: SetResults, said: Mapping[str, Answer], results: EvalResults) -> TeacherSet:
    asked = [question for question in one.questions if question.id in said]

    def mean(model: str | None) -> float:
        scores = []
        for question in asked:
            given = [said[question.id]] if model is None else one.answers[model][question.id]
            scores += [sum(checking.score(question, a.text).value for a in given) / len(given)]
        return sum(scores) / len(scores)

    return TeacherSet(
        questions=len(asked),
        teacher=mean(None),
        candidate=mean(results.candidate),
        baseline=mean(results.baseline),
    )


def _tokens(answers: Sequence[Answer]) -> tuple[int, int]:
    return sum(a.prompt_tokens for a in answers), sum(a.completion_tokens for a in answers)


def _cost(teacher: Teacher, new: Sequence[Answer]) -> float | None:
    use = pricing.Use(len(new), *_tokens(new))
    found = pricing.teacher_per_thousand(teacher, use).amount
    return None if found is None else found * len(new) / 1000


def run_teacher(
    settings: Settings,
    alias: str,
    run_dir: Path,
    on_progress: Callable[[int, int, int], None] | None = None,
) -> TeacherResults:
    """Ask the teacher what the gate of a run asked; write `teacher_results.json`.

    Raises:
        RecordError: the run has no results of a gate. Others: see `ask_teacher`.
    """
    with closing(Store.open(settings)) as store:
        results = load(run_dir, store)
        found = asyncio.run(ask_teacher(settings, alias, results, store, on_progress))
    write_json(run_dir / FILE, found.model_dump(mode="json"))
    return found


def text(found: TeacherResults) -> str:
    """For a person."""
    lines = [f"Teacher {found.model}, for information: {found.calls} asked, {found.cached} kept"]
    lines += [
        f"  {key}: teacher {one.teacher:.1%}, {found.candidate} {one.candidate:.1%}, "
        f"{found.baseline} {one.baseline:.1%} ({one.questions} questions)"
        for key, one in found.sets.items()
    ]
    return "\n".join(lines)


@click.command(help="Ask the teacher what the gate of a run asked.")
@click.option("--config", required=True, envvar=configuration.CONFIG_VARIABLE, help="YAML file")
@click.option("--alias", required=True, help="the name that clients ask for")
@click.option("--run", "run_dir", required=True, type=click.Path(path_type=Path), help="folder")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def _command(config: str, alias: str, run_dir: Path, as_json: bool) -> None:
    with Bar(Console(stderr=True), "teacher") as progress:
        found = run_teacher(configuration.load(config), alias, run_dir, progress.update)
    click.echo(json.dumps(found.model_dump(mode="json")) if as_json else text(found))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return command.run(_command, "teacher", arguments)


if __name__ == "__main__":
    sys.exit(main())
