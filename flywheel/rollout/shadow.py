"""Shadow mode: the candidate answers live questions out of sight, and a judge compares.

Of the questions that users asked since the stage began, a sample is asked again: of the candidate
and of the live version, both on what the ledger kept, which is redacted; the answer that the user
saw was given to other words. Nothing of it is shown to a user or logged as traffic: the questions
name pinned versions and carry the evaluation header. One question a user, so that comparisons are
independent. `store: false` and forgotten users have no text here, so they are never asked about.

Runs in the loop's process, a few questions an hour, one at a time; users go first.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import NamedTuple

from eval.client import Answer, Client, Question, Sampling
from eval.judge import words
from ledger.deployments import Deployment, Deployments, version_name
from ledger.errors import ServerError
from ledger.records import Interaction
from ledger.settings import Settings, api_keys
from ledger.settings.curation import Teacher
from ledger.settings.rollout import Shadow
from ledger.store import ShadowAnswer, Spent, Store

_HOUR = 3600.0
# Newest rows that are looked at for a question, in one pass.
_LOOKED_AT = 1000
_MILLION = 1e6
_PREFERRED = {"first": "candidate", "second": "live", "tie": "tie"}


class Shadowed(NamedTuple):
    """What a pass came to. `said` is "" where there was nothing to do."""

    asked: int = 0
    won: int = 0
    lost: int = 0
    tied: int = 0
    said: str = ""


def shadow(settings: Settings, store: Store, alias: str, *, url: str, now: float) -> Shadowed:
    """Ask what is due this hour.

    A server or judge that fails ends the pass and is named in `said`: a rollout must not wait
    for it.

    Args:
        url: of the live server, ending in `/v1`.
        now: seconds since the epoch.
    """
    given = settings.rollout_of(alias).shadow
    state = Deployments(store).state(alias)
    if given.share <= 0 or state.candidate is None:
        return Shadowed()
    judge = settings.alias(alias).gate.judge or settings.curate.judge
    if judge is None:
        return Shadowed(
            said="rollout.shadow.share is set, but no judge: set gate.judge or curate.judge"
        )
    run = _Pass(settings, store, state, judge, given, now)
    rows = list(run.questions())
    return asyncio.run(run.ask(url, rows)) if rows else Shadowed()


class _Pass:
    def __init__(
        self,
        settings: Settings,
        store: Store,
        state: Deployment,
        judge: Teacher,
        given: Shadow,
        now: float,
    ) -> None:
        assert state.candidate is not None
        self._settings, self._store, self._state = settings, store, state
        self._judge, self._given, self._now = judge, given, now
        base, alias = settings.model.name, state.alias
        self._candidate = version_name(alias, state.candidate, base)
        self._live = version_name(alias, state.live, base)

    def questions(self) -> Iterator[Interaction]:
        """Rows to ask again: not more than the hour allows, of users not asked about yet."""
        store, alias, name = self._store, self._state.alias, self._candidate
        since = self._state.stage_since or self._state.since
        left = self._given.an_hour - len(store.shadowed_rows(alias, name, since=self._now - _HOUR))
        done = store.shadowed_rows(alias, name, since=since)
        users = {_user(row) for row in store.interactions(row_ids=sorted(done))}
        rows = store.interactions(
            alias=alias, version=self._live, since=since, newest_first=True, limit=_LOOKED_AT
        )
        for row in rows:
            if left <= 0:
                return
            if not (row.stored_text and row.messages) or row.row_id in done:
                continue
            if _user(row) in users or not self._drawn(row.row_id):
                continue
            users.add(_user(row))
            left -= 1
            yield row

    def _drawn(self, row_id: str) -> bool:
        """Whether a row is in the sample: the same on every machine."""
        drawn = self._store.mac("shadow", f"{self._candidate}\0{row_id}".encode())
        return int(drawn[:8], 16) / 2**32 < self._given.share

    async def ask(self, url: str, rows: list[Interaction]) -> Shadowed:
        """Ask both versions and the judge, a row after the other; keep each as it is judged."""
        given, judge, found = self._given, self._judge, Shadowed()
        key = next(iter(api_keys(self._settings.serve)), None) or "none"
        slots = asyncio.Semaphore(given.concurrency)
        try:
            async with (
                Client(
                    url,
                    key,
                    concurrency=given.concurrency,
                    timeout_seconds=given.timeout_seconds,
                ) as server,
                Client(
                    judge.url,
                    os.environ.get(judge.key_variable) or "none",
                    timeout_seconds=judge.timeout_seconds,
                    retries=judge.retries,
                    any_model=True,
                ) as judging,
            ):

                async def one(row: Interaction) -> str:
                    async with slots:
                        return await self._one(server, judging, row)

                for done in asyncio.as_completed([one(row) for row in rows]):
                    preferred = await done
                    found = found._replace(
                        asked=found.asked + 1,
                        won=found.won + (preferred == "candidate"),
                        lost=found.lost + (preferred == "live"),
                        tied=found.tied + (preferred == "tie"),
                    )
        except ServerError as error:
            return found._replace(said=f"the comparison out of sight stopped: {error}")
        said = f"{found.asked} questions asked again: {found.won} won, {found.lost} lost"
        return found._replace(said=f"{said}, {found.tied} tied")

    async def _one(self, server: Client, judging: Client, row: Interaction) -> str:
        new = await server.ask(self._question(row, self._candidate))
        old = await server.ask(self._question(row, self._live))
        preferred = "tie"
        if new.text.strip() != old.text.strip():
            preferred = _PREFERRED[await self._compare(judging, row, new.text, old.text)]
        kept = self._store.add_shadow(
            self._state.alias,
            ShadowAnswer(
                row.row_id,
                self._candidate,
                new.text,
                None,
                new.prompt_tokens,
                new.completion_tokens,
                new.latency_s * 1e3,
                preferred,
            ),
        )
        self._spend("shadow", self._candidate, [new, old], None)
        return preferred if kept else ""

    def _question(self, row: Interaction, version: str) -> Question:
        numbers = row.sampling
        return Question(
            version,
            row.messages or (),
            min(int(numbers.get("max_tokens") or self._given.max_tokens), self._given.max_tokens),
            tools=row.tools,
            name=row.row_id,
            sampling=Sampling(temperature=0.0),
            chat_template_kwargs=row.chat_template_kwargs,
        )

    async def _compare(self, judging: Client, row: Interaction, new: str, old: str) -> words.Winner:
        said = []
        for a, b in ((new, old), (old, new)):
            messages = words.question(
                list(row.messages or ()),
                a,
                b,
                rubric=self._given.rubric,
                instructions=self._judge.instructions,
            )
            said.append(
                await judging.ask(
                    Question(
                        self._judge.model,
                        messages,
                        self._judge.max_tokens,
                        sampling=Sampling(temperature=self._judge.temperature),
                    )
                )
            )
        self._spend("judge", self._judge.model, said, self._judge)
        return words.winner(said[0].text, said[1].text)

    def _spend(self, what: str, model: str, said: list[Answer], paid: Teacher | None) -> None:
        asked, written = sum(a.prompt_tokens for a in said), sum(a.completion_tokens for a in said)
        cost = None
        if paid is not None and paid.prompt_price is not None and paid.completion_price is not None:
            cost = (asked * paid.prompt_price + written * paid.completion_price) / _MILLION
        seconds = 0.0 if paid else sum(a.latency_s for a in said)
        spent = Spent(len(said), asked, written, cost, seconds)
        self._store.add_spending(self._state.alias, what, model, spent, version=self._candidate)


def _user(row: Interaction) -> str:
    return row.subject or row.session or row.row_id
