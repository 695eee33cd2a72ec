"""Asking a teacher: many questions at once, each answer kept as soon as it is there.

An answer, its decision and what it cost are one transaction. A run that is killed loses the
answers under way and nothing else; the next one goes on behind it, for a row that was asked
carries a correction or a tag (`choose`). Questions that were not answered because the endpoint
was busy or away are asked again by the next run.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Literal

import sqlalchemy as sa

from curate.acceptance import Acceptance, Verdict, judge
from curate.acceptance.reasons import UNTRUSTED, word_of
from curate.distill import compare
from curate.distill.ask import Model, NoAnswer, Said
from curate.distill.choose import (
    AGREES,
    BY,
    FAILED,
    chosen,
    keep_waiting,
    opened,
    place,
    problem,
)
from curate.distill.prices import Budget, Usage, cost, spent, worst_case
from curate.distill.report import Report, added, paid_for
from ledger.database import tables
from ledger.errors import ConfigError, ServerError
from ledger.records import Correction, Decision, Interaction, Tag
from ledger.settings import Settings
from ledger.settings.curation import Teacher
from ledger.store import Spent, Store, now
from ledger.teaching import with_instructions

Accept = Literal["operator", "check", "judge"]
#: So many questions in a row without an answer: the endpoint is away.
AWAY = 5
_PROGRESS_SECONDS = 1.0


def distill(
    settings: Settings,
    store: Store,
    alias: str,
    *,
    accept: Accept = "operator",
    limit: int | None = None,
    budget: float | None = None,
    tag: str | None = None,
    cluster: int | None = None,
    dry_run: bool = False,
    say: Callable[[str], None] | None = None,
) -> Report:
    """Ask the teacher about rows that nobody has corrected.

    Args:
        accept: who agrees before an answer is trained on. `operator`: it waits in the queue;
            `check`: it passes the alias's `answer_checks` and the acceptance policy; `judge`:
            `curate.judge` prefers it to the row's answer, in both orders.
        limit: most rows.
        budget: most money, in the currency of the price table.
        tag, cluster: only rows with it.
        say: told now and then how far it is.

    Raises:
        ConfigError: there is no such alias, no teacher, or no judge; a budget without prices; no
            check that an answer could pass.
        ServerError: the endpoint answers nothing. What came before is kept.
    """
    settings.alias(alias)
    run = _Run(settings, store, alias, accept, budget, say)
    ids = chosen(store, alias, tag=tag, cluster=cluster)
    ids = ids if limit is None else ids[:limit]
    if dry_run:
        return run.dry(ids)
    return asyncio.run(run.all(ids))


class _Run:
    """One run."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        alias: str,
        accept: Accept,
        budget: float | None,
        say: Callable[[str], None] | None,
    ) -> None:
        self._teacher = _configured(settings.curate.teacher, "teacher")
        models = {"teacher": self._teacher}
        if accept == "judge":
            models["judge"] = _configured(settings.curate.judge, "judge")
        self._models, self._budget = models, Budget(budget, models)
        self._policy = Acceptance.of(settings, store)
        if accept == "check" and not self._policy.checks(alias):
            raise ConfigError(
                f"--accept check, and aliases.{alias}.answer_checks is empty",
                rule="A check that accepts everything is none.",
                remedy="Write a check, or use --accept judge or --accept operator.",
            )
        self._store, self._alias, self._accept = store, alias, accept
        self._say = say or (lambda line: None)
        self._counts: Counter[str] = Counter()
        self._why: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._paid = {name: Spent(0, 0, 0, cost(m, Usage(0, 0))) for name, m in models.items()}
        self._asked_models: dict[str, Model] = {}
        self._rows = 0
        self._in_a_row = self._under_way = 0
        self._stopped = ""
        self._started = self._said_at = time.monotonic()

    # -- the rows ------------------------------------------------------------------------

    def _askable(self, ids: list[str]) -> Iterator[Interaction]:
        for row in opened(self._store, ids):
            if why := problem(row):
                self._skipped[why] += 1
                self._rows -= 1
            else:
                yield row

    def dry(self, ids: list[str]) -> Report:
        """What a run would do."""
        self._rows, most = len(ids), 0.0
        priced = all(cost(model, Usage(0, 0)) is not None for model in self._models.values())
        for row in self._askable(ids):
            question = self._question(row)
            worst = worst_case(self._teacher, [question, row.tools], len(question))
            most += cost(self._teacher, worst) or 0.0
        known = priced and self._accept != "judge"  # the judge reads answers not written yet
        return self._report(0)._replace(dry_run=True, most=most if known else None, left=self._rows)

    async def all(self, ids: list[str]) -> Report:
        """Ask about rows, several at once, in their order."""
        self._rows = len(ids)
        rows = self._askable(ids)
        freed, writing = asyncio.Condition(), asyncio.Lock()

        async def work() -> None:
            for row in rows:
                question = self._question(row)
                worst = worst_case(self._teacher, [question, row.tools], len(question))
                reserve = cost(self._teacher, worst) or 0.0
                async with freed:
                    await freed.wait_for(partial(self._may_go_on, reserve))
                    if self._stopped or not self._budget.fits(reserve):
                        self._stopped = self._stopped or "budget"
                        freed.notify_all()
                        return
                    self._budget.reserve(reserve)
                    self._under_way += 1
                try:
                    await self._one(row, question, reserve, writing)
                finally:
                    async with freed:
                        self._under_way -= 1
                        freed.notify_all()

        async with AsyncExitStack() as stack:
            for name, given in self._models.items():
                model = Model(given, f"curate.{name}")
                self._asked_models[name] = await stack.enter_async_context(model)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self._teacher.concurrency, len(ids))):
                        group.create_task(work())
            except BaseExceptionGroup as failed:
                raise failed.exceptions[0] from None
        done = sum(self._counts.values())
        return self._report(max(0, self._rows - done))

    def _may_go_on(self, amount: float) -> bool:
        """Whether a question need not wait: it can be paid for, or never will be."""
        return bool(self._stopped) or self._budget.fits(amount) or not self._under_way

    def _question(self, row: Interaction) -> list[dict[str, Any]]:
        """A row's conversation as stored, the teacher's instructions first."""
        return with_instructions(row.messages or [], self._teacher.instructions)

    # -- one row -------------------------------------------------------------------------

    async def _one(
        self, row: Interaction, question: list[dict[str, Any]], reserve: float, lock: asyncio.Lock
    ) -> None:
        teacher = self._asked_models["teacher"]
        try:
            said = await teacher.ask(question, row.tools)
        except NoAnswer as error:
            self._budget.settle(reserve, 0.0)
            await self._unanswered(row, error, lock)
            return
        except BaseException:
            self._budget.settle(reserve, 0.0)
            raise
        self._in_a_row = 0
        paid = {"teacher": spent(self._teacher, said.usage)}
        self._budget.settle(reserve, paid["teacher"].cost or 0.0)
        async with lock:  # the policy remembers what it judged; one at a time
            decision, why = await asyncio.to_thread(self._decided, row, said)
        if decision is None:
            decision, why = await self._compared(row, said, paid)
        async with lock:
            kind = await asyncio.to_thread(self._keep, row, said, decision, why, paid)
        self._count(kind, why)

    def _decided(self, row: Interaction, said: Said) -> tuple[Decision | str | None, str]:
        """What becomes of an answer; None where the judge has to be asked."""
        if said.problem and not said.text:
            return FAILED, said.problem
        if said.problem:
            return "rejected", said.problem
        stored = self._store.as_stored(row.row_id, {"text": said.text}).get("text", "")
        if stored.strip() == (row.response or "").strip():
            return AGREES, ""
        verdict = self._judged(row, said.text)
        if verdict.decision == "rejected" or verdict.reasons or self._accept == "operator":
            decision = "rejected" if verdict.decision == "rejected" else "proposed"
            return decision, verdict.why or "waits for an operator"
        if self._accept == "check":
            return "accepted", f"passes the checks of {self._alias}"
        if not (row.response or "").strip():
            return "proposed", "there is no answer to compare it with"
        return None, ""

    def _judged(self, row: Interaction, text: str) -> Verdict:
        """The policy's verdict; who the author is does not count here: the mode decides that."""
        found = judge(self._policy, row, text, "teacher", self._teacher.model, now())
        reasons = [reason for reason in found.reasons if word_of(reason) != UNTRUSTED]
        decision = found.decision if reasons or found.decision == "rejected" else "accepted"
        return Verdict(decision, reasons)

    async def _compared(
        self, row: Interaction, said: Said, paid: dict[str, Spent]
    ) -> tuple[Decision, str]:
        given, model = self._models["judge"], self._asked_models["judge"]
        orders = ((said.text, row.response or ""), (row.response or "", said.text))
        asked = [compare.question(row.messages or [], *o, given.instructions) for o in orders]
        worst = sum(cost(given, worst_case(given, one, len(one))) or 0.0 for one in asked)
        if not self._budget.fits(worst):
            return "proposed", "the budget was spent before the judge could be asked"
        self._budget.reserve(worst)
        words: list[compare.Better] = []
        used, calls = Usage(0, 0), 0
        try:
            for one in asked:
                answer = await model.ask(one)
                calls += 1
                used = Usage(*(a + b for a, b in zip(used, answer.usage, strict=True)))
                words.append("tie" if answer.problem else compare.parse(answer.text))
        except NoAnswer as error:
            return "proposed", f"the judge could not be asked: {error}"
        finally:
            paid["judge"] = spent(given, used, calls)
            self._budget.settle(worst, paid["judge"].cost or 0.0)
        opinion = compare.both(words[0], words[1])
        decisions: dict[str, Decision] = {"new": "accepted", "old": "rejected"}
        return decisions.get(opinion.better, "proposed"), opinion.why

    async def _unanswered(self, row: Interaction, error: NoAnswer, lock: asyncio.Lock) -> None:
        if error.passing:
            self._count("unanswered", str(error))
            self._in_a_row += 1
            if self._in_a_row >= max(AWAY, self._teacher.concurrency):
                raise ServerError(
                    f"{self._teacher.url} answered none of {self._in_a_row} questions: {error}",
                    rule=f"Each was tried {self._teacher.retries + 1} times.",
                    remedy="What was answered is kept; go on with the same command.",
                )
            return
        said = Said("", Usage(0, 0), str(error))
        async with lock:
            kind = await asyncio.to_thread(self._keep, row, said, FAILED, said.problem, {})
        self._count(kind, said.problem)

    # -- the ledger ----------------------------------------------------------------------

    def _keep(
        self, row: Interaction, said: Said, decision: str, why: str, paid: dict[str, Spent]
    ) -> str:
        """Write down an answer and what it cost; returns what to count it as."""
        model, kind = self._teacher.model, decision
        with self._store.transaction() as connection:
            for name, sum_ in paid.items():
                if sum_.calls:
                    given = self._models[name].model
                    self._store.add_spending(self._alias, name, given, sum_, connection)
            if not self._still_open(row.row_id, connection):
                kind = "overtaken"
            elif decision in ("accepted", "proposed", "rejected"):
                before = place(row.row_id, connection)
                correction = Correction(
                    row_id=row.row_id,
                    ts=now(),
                    source="teacher",
                    author=model,
                    text=said.text,
                    decision=decision,
                    why=why,
                )
                if self._store.add_correction(correction, connection) is None:
                    kind, why = FAILED, "its answer could not be redacted"
                elif decision == "rejected":
                    keep_waiting(row.row_id, before, connection)
            if kind in (AGREES, FAILED):
                who = f"{BY}{model}"
                mark = Tag(row_id=row.row_id, tag=kind, who=who, why=why, ts=now())
                self._store.add_tags([mark], connection)
        for name, sum_ in paid.items():
            self._paid[name] = added(self._paid[name], sum_)
        return kind

    @staticmethod
    def _still_open(row_id: str, connection: sa.Connection) -> bool:
        """Whether nobody has corrected or forgotten the row since it was read."""
        rows, said = tables.interactions, tables.corrections
        query = sa.select(rows.c.row_id).where(
            rows.c.row_id == row_id,
            rows.c.stored_text,
            ~sa.exists().where(said.c.row_id == rows.c.row_id),
        )
        return connection.scalar(query) is not None

    # -- numbers -------------------------------------------------------------------------

    def _count(self, kind: str, why: str) -> None:
        self._counts[kind] += 1
        if kind not in ("accepted", AGREES, "overtaken"):
            self._why[why.partition(":")[0] if kind == "unanswered" else why] += 1
        if time.monotonic() - self._said_at >= _PROGRESS_SECONDS:
            self._said_at = time.monotonic()
            done = sum(self._counts.values())
            self._say(f"{done}/{self._rows} · {paid_for(self._paid['teacher'])}")

    def _report(self, left: int) -> Report:
        counts = self._counts
        kinds = ("accepted", "proposed", "rejected", AGREES, FAILED, "overtaken")
        return Report(
            alias=self._alias,
            rows=self._rows,
            asked=sum(counts[kind] for kind in kinds),
            accepted=counts["accepted"],
            proposed=counts["proposed"],
            rejected=counts["rejected"],
            agrees=counts[AGREES],
            failed=counts[FAILED],
            unanswered=counts["unanswered"],
            overtaken=counts["overtaken"],
            left=left,
            why=dict(self._why),
            skipped=dict(self._skipped),
            teacher=self._paid["teacher"],
            judge=self._paid.get("judge", Spent(0, 0, 0, None)),
            stopped=self._stopped,
            seconds=time.monotonic() - self._started,
        )


def _configured(given: Teacher | None, name: str) -> Teacher:
    if given is None:
        raise ConfigError(
            f"curate.{name} is not set",
            rule=f"It says which endpoint and which model is the {name}.",
            remedy=f"Add `curate: {{{name}: {{url: …/v1, model: …}}}}` to the configuration.",
        )
    return given
