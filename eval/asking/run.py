"""The pass itself: what is asked in which order, and kept while it runs.

All models' copies of a question stand side by side, so that they meet the same load and the same
moment: their latencies can be compared, and a server that gets slower hits all alike. Measured
with vLLM (`benchmarks/gate.py`), one version after the other is not faster: its prefix cache is
keyed by adapter, so copies of a question share nothing there whatever their order, and the
beginning that questions of one set have in common stays cached for each adapter.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from eval.asking.cache import Cache, Identities
from eval.client import Answer, Client, Question, Sampling
from ledger.errors import LedgerError
from ledger.store import Store

_BATCH = 64  # answers in one commit
_SECONDS = 1.0  # longest that an answer waits for its commit


class Wanted(NamedTuple):
    """A question as it is put to each model.

    Attributes:
        id: unique in the pass.
        row_id: the stored row that it is, where it is one: its answers are sealed as the row.
        samples: answers wanted of each model. Sample i is drawn with the seed plus i.
        models: who is asked, where that is not everybody.
    """

    id: str
    messages: Sequence[dict[str, Any]]
    max_tokens: int
    tools: Sequence[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    row_id: str | None = None
    samples: int = 1
    sampling: Sampling = Sampling()
    models: Sequence[str] | None = None


class Pass(NamedTuple):
    """What came of it.

    Attributes:
        answers: by model, then by question; one a sample, in their order.
        asked, cached: how many answers the server gave now, and how many were there already.
        seconds: spent asking.
    """

    answers: dict[str, dict[str, list[Answer]]]
    asked: int
    cached: int
    seconds: float


class _Slot(NamedTuple):
    """One answer that is wanted."""

    question: Question
    wanted: Wanted
    key: str | None


async def ask(
    client: Client,
    wanted: Sequence[Wanted],
    models: Sequence[str],
    *,
    store: Store,
    alias: str,
    known: Identities | None = None,
    days: float = 90.0,
    on_progress: Callable[[int, int, int], None] | None = None,
) -> Pass:
    """Answers of all models to all questions, in one interleaved run.

    Args:
        known: what each model is made of, from `identities`; answers of models that are not in
            it are neither looked up nor kept. None: nothing is looked up, whatever is known.
        days: answers older than that are asked again; 0: as if nothing was known.
        on_progress: called with (answers there, answers wanted, those from earlier gates among
            them), at the start and after each answer.

    Raises:
        ServerError: the server fails, or another model answered. What was answered before stays
            kept, and the same call goes on from there.
        LedgerError: answers cannot be kept.
    """
    known = known if days > 0 else None
    cache = Cache(store, alias, known or {}, days)
    slots = [
        _Slot(question, one, cache.key(question)) for one, question in _in_order(wanted, models)
    ]
    if known:
        cache.remove_old()  # before the new ones come in under the same keys
    there = cache.find(slot.key for slot in slots) if known else {}
    found: list[Answer | None] = [there.get(slot.key or "") for slot in slots]
    open_ = [n for n, answer in enumerate(found) if answer is None]
    total, cached = len(slots), len(slots) - len(open_)
    if on_progress is not None:
        on_progress(cached, total, cached)
    started = time.perf_counter()
    done = cached

    async with _Keeper(cache) as keeper:

        def answered(position: int, answer: Answer) -> None:
            nonlocal done
            done += 1
            slot = slots[open_[position]]
            if slot.key is not None:
                keeper.add(slot.key, slot.wanted.row_id, answer)
            if on_progress is not None:
                on_progress(done, total, cached)

        new = await client.ask_all([slots[n].question for n in open_], answered)
    seconds = time.perf_counter() - started
    for position, answer in zip(open_, new, strict=True):
        found[position] = answer
    answers: dict[str, dict[str, list[Answer]]] = {model: {} for model in models}
    for slot, one in zip(slots, found, strict=True):
        assert one is not None
        answers[slot.question.model].setdefault(slot.wanted.id, []).append(one)
    return Pass(answers, len(open_), cached, seconds)


def _in_order(wanted: Sequence[Wanted], models: Sequence[str]) -> Iterator[tuple[Wanted, Question]]:
    for one in wanted:
        asked = models if one.models is None else [m for m in models if m in one.models]
        for sample in range(one.samples):
            sampling = one.sampling._replace(seed=one.sampling.seed + sample)
            for model in asked:
                yield (
                    one,
                    Question(
                        model,
                        one.messages,
                        one.max_tokens,
                        one.tools,
                        one.id,
                        sampling,
                        one.chat_template_kwargs,
                    ),
                )


class _Keeper:
    """Commits answers in batches beside the asking; what is left goes when it ends, however."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._waiting: list[tuple[str, str | None, Answer]] = []
        self._wake = asyncio.Event()
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> _Keeper:
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        assert self._task is not None
        # Asked to end, not cancelled: Python 3.11's wait_for swallows a cancellation that comes
        # together with what it waits for.
        self._ended = True
        self._wake.set()
        try:
            await self._task
            self._commit(self._taken())
        except LedgerError:
            if error is None:  # else what went wrong first is what is said
                raise

    def add(self, key: str, row_id: str | None, answer: Answer) -> None:
        """Have an answer kept.

        Raises:
            LedgerError: an earlier batch could not be.
        """
        if self._task is not None and self._task.done():
            self._task.result()
        self._waiting.append((key, row_id, answer))
        if len(self._waiting) >= _BATCH:
            self._wake.set()

    def _taken(self) -> list[tuple[str, str | None, Answer]]:
        taken, self._waiting = self._waiting, []
        self._wake.clear()
        return taken

    def _commit(self, taken: list[tuple[str, str | None, Answer]]) -> None:
        if taken:
            self._cache.keep(taken)

    async def _work(self) -> None:
        while not self._ended:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _SECONDS)
            # In a thread: a commit waits for the disk, and answers go on coming.
            await asyncio.to_thread(self._commit, self._taken())
