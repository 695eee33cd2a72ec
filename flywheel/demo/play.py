"""The acts of the demo, against a real server in a process of its own.

    1  the base model answers, users correct it
    2  the corrections become an adapter, and the gate compares it with what is live
    3  the adapter gets 5, 50, 100 % of the traffic while users go on asking
    4  rollback, and forward again, while users go on asking

Everything lives in `var/demo/`, which a new demo moves to `var/demo-previous/`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from curate.tagging.sweep import sweep
from flywheel.demo.home import fresh_home, own_config, some, the_alias
from flywheel.demo.product import Product, Reply
from flywheel.demo.report import Report
from flywheel.demo.stream import Message, Stream, make_stream
from flywheel.model import fetch
from flywheel.retrain import Outcome
from flywheel.rollout import promote, rollback
from flywheel.running import RunningServer
from flywheel.server import Server
from ledger.deployments import Change
from ledger.errors import FlywheelError, GateRefused
from ledger.files import read_json
from ledger.marks import rank_name
from ledger.settings import Settings, api_keys, load
from ledger.store import Store

SHARES = (5.0, 50.0, 100.0)
_POOL = 32  # messages that the users of acts 3 and 4 send again and again


class Options(NamedTuple):
    """What can be chosen."""

    data: Path | None = None
    gold: Path | None = None
    labels: int | None = None
    messages: int = 320
    gold_size: int = 100
    stage_requests: int = 40


def play(config: str, options: Options, say: Callable[[str], None]) -> Report:
    """Run the demo on a configuration.

    Raises:
        GateRefused: the adapter did not pass; the report says by how much.
        FlywheelError: something broke; it says what.
    """
    template = load(config)
    alias = the_alias(template, config)
    stream = make_stream(
        options.data, options.gold, labels=options.labels, gold_size=options.gold_size
    )
    home = fresh_home(template.var / "demo")
    settings, own = own_config(config, home, alias, stream.gold)
    say(f"\nThe product sorts messages into {len(stream.labels)} queues: {some(stream.labels)}")
    if left := stream.categories - len(stream.labels):
        say(f"{left} less frequent categories of the data are left out (--labels, LABELS=).")
    say(f"It asks the model {alias!r}; {len(stream.gold)} questions are kept aside as gold.\n")
    fetch(settings, say)
    return asyncio.run(_Play(settings, own, home, alias, stream, options, say).run())


class _Play:
    def __init__(
        self,
        settings: Settings,
        config: Path,
        home: Path,
        alias: str,
        stream: Stream,
        options: Options,
        say: Callable[[str], None],
    ) -> None:
        self._settings, self._config, self._home = settings, config, home
        self._alias, self._stream, self._options, self._say = alias, stream, options, say
        self._seconds: dict[str, float] = {}
        self._reference: dict[tuple[str, str], str] = {}

    async def run(self) -> Report:
        begun = time.monotonic()
        self._act("0", "Starting vLLM with the plugin in it")
        running = RunningServer.flywheel(
            self._config, self._settings.serve.port, self._home / "server.log"
        )
        try:
            await asyncio.to_thread(running.start)
            self._seconds["start"] = running.start_seconds
            self._say(f"  serving at {running.url}  ({running.start_seconds:.0f} s)")
            key = next(iter(api_keys(self._settings.serve)), None)
            self._product = Product(running.url, key, self._alias)
            self._server = Server(running.url, key)
            self._store = Store.open(self._settings)
            try:
                await self._corrections()
                await asyncio.to_thread(self._curation)
                outcome = await self._retrain()
                await self._rollout(outcome)
                back = await self._back_and_forth(outcome)
                return await self._report(outcome, back, begun)
            finally:
                await self._product.close()
        finally:
            await asyncio.to_thread(running.stop)

    # -- act 1 ---------------------------------------------------------------------------

    async def _corrections(self) -> None:
        messages = self._stream.traffic[: self._options.messages]
        self._act("1", f"{len(messages)} users write; the base model has never seen these queues")
        started = time.monotonic()
        replies = await self._product.serve(messages, correct=True)
        self._seconds["traffic"] = time.monotonic() - started
        for reply in replies[:3]:
            self._say(f"  user   {_short(reply.message.text, 78)}")
            self._say(f"  model  {_short(reply.text, 60)}")
            self._say(f"  edit   {reply.message.label}")
        right = sum(reply.right for reply in replies)
        self._say(
            f"  {right} of {len(replies)} answers were right; users edited "
            f"{self._product.corrections} and turned their thumb down on {self._product.votes}  "
            f"({self._seconds['traffic']:.0f} s)"
        )

    def _curation(self) -> None:
        """What `flywheel review` and `flywheel retrain` begin with: what is new is looked at."""
        started = time.monotonic()
        found = sweep(self._settings, self._store)
        self._seconds["sweep"] = time.monotonic() - started
        self._waiting = self._store.waiting(self._alias)
        self._say(
            f"  the acceptance policy took {found.accepted} edits at once "
            f"(curate.trusted_sources has `user`); {found.proposed} wait for a person"
        )
        for reason, count in found.reasons.items():
            self._say(f"    {count} held: {reason}")
        for reason, count in found.skipped.items():
            self._say(f"    {count} not taken: {reason}")
        why = ", ".join(f"{n} {rank_name(rank)}" for rank, n in sorted(self._waiting.items()))
        self._say(
            f"  a vote is never a training target: in the queue are {why or 'no answers'}\n"
            f"  (to see them afterwards: .venv/bin/flywheel -c {self._config} review)"
        )

    # -- act 2 ---------------------------------------------------------------------------

    async def _retrain(self) -> Outcome:
        """What the operator types: `flywheel retrain`, in a process of its own."""
        self._act("2", "The corrections become an adapter, and the gate judges it")
        started = time.monotonic()
        words = ["--config", str(self._config), "retrain", self._alias]
        words += ["--url", self._server.url, "--json"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "flywheel.cli", *words, stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await process.communicate()
        self._seconds["retrain"] = time.monotonic() - started
        if process.returncode not in (0, GateRefused.exit_code):
            raise FlywheelError(f"the retrain ended with exit code {process.returncode}")
        found = json.loads(printed)
        outcome = Outcome(**{**found, "run": Path(found["run"])})
        self._seconds |= outcome.seconds
        if outcome.verdict != "pass":
            raise GateRefused(
                f"{outcome.version} did not pass its gate ({outcome.verdict})",
                remedy=f"{outcome.run}/eval_results.json has every answer.",
            )
        return outcome

    # -- act 3 ---------------------------------------------------------------------------

    async def _rollout(self, outcome: Outcome) -> None:
        self._act("3", f"{outcome.version} takes over while users go on asking")
        started = time.monotonic()
        pool = self._pool()
        await self._refer(pool, outcome)
        async with self._traffic(pool):
            for share in SHARES:
                change = await asyncio.to_thread(self._promote, outcome.version, share)
                waited = await self._followed(change)
                seen = len(self._product.replies)
                await self._enough(seen)
                replies = self._product.replies[seen:]
                self._say(
                    f"  {share:>3g} %  obeyed after {waited:.2f} s;  "
                    f"{_counts(replies)}  {_rightness(replies)}"
                )
        self._seconds["rollout"] = time.monotonic() - started

    def _promote(self, version: str, share: float) -> Change:
        return promote(
            self._settings,
            self._store,
            self._alias,
            version=version,
            share=share,
            because=f"demo: {share:g} %",
        )

    # -- act 4 ---------------------------------------------------------------------------

    async def _back_and_forth(self, outcome: Outcome) -> float:
        self._act("4", "Rollback, and forward again")
        pool = self._pool()
        async with self._traffic(pool):
            changed = time.time()
            change = await asyncio.to_thread(
                rollback, self._store, self._alias, because="demo: the way back"
            )
            await self._followed(change)
            seen = len(self._product.replies)
            await self._enough(seen)
            old = [
                reply.started - changed
                for reply in self._product.replies
                if reply.version == outcome.version and reply.started > changed
            ]
            back = max(old, default=0.0)
            self._say(
                f"  rollback   the last request that {outcome.version} still answered came "
                f"{back:.2f} s after it;  {_counts(self._product.replies[seen:])}"
            )
            change = await asyncio.to_thread(self._promote, outcome.version, 100.0)
            await self._followed(change)
            seen = len(self._product.replies)
            await self._enough(seen)
            self._say(f"  forward    {_counts(self._product.replies[seen:])}")
        return back

    # -- the end -------------------------------------------------------------------------

    async def _report(self, outcome: Outcome, back: float, begun: float) -> Report:
        product = self._product
        logged = await self._logged(product.sent)
        gate = read_json(outcome.run / "eval_results.json")["report"]
        versions = Counter(reply.version for reply in product.replies)
        return Report(
            requests=product.sent,
            failed_requests=len(product.failures),
            failures=product.failures[:10],
            mixed_version_responses=sum(map(self._mixed, product.replies)),
            rows_logged=logged,
            corrections=product.corrections,
            votes=product.votes,
            waiting=sum(self._waiting.values()),
            pairs=read_json(outcome.run / "dataset" / "manifest.json")["pairs"],
            gold_questions=len(self._stream.gold),
            gold_base=gate["gold_baseline"],
            gold_live=gate["gold_candidate"],
            gate={
                "verdict": gate["verdict"],
                "difference": gate["difference"],
                "interval": gate["interval"],
            },
            rollback_seconds=back,
            seconds={**self._seconds, "total": time.monotonic() - begun},
            versions=dict(versions),
        )

    async def _logged(self, expected: int) -> int:
        """Rows of the alias, once the last flush is over."""
        deadline = time.monotonic() + 5
        while True:
            logged = sum(self._store.counts(self._alias).values())
            if logged >= expected or time.monotonic() > deadline:
                return logged
            await asyncio.sleep(0.1)

    def _mixed(self, reply: Reply) -> bool:
        """Whether an answer names two versions, or is another version's than it names."""
        if len(reply.named) != 1:
            return True
        others = {
            text
            for (version, asked), text in self._reference.items()
            if asked == reply.message.text and version != reply.version
        }
        own = self._reference.get((reply.version, reply.message.text))
        return own is not None and reply.text != own and reply.text in others

    # -- traffic -------------------------------------------------------------------------

    def _pool(self) -> list[Message]:
        rest = self._stream.traffic[self._options.messages :] or self._stream.traffic
        return rest[:_POOL]

    async def _refer(self, pool: Sequence[Message], outcome: Outcome) -> None:
        """What each version alone answers to each message of the pool."""
        for version in (outcome.version, outcome.baseline):
            replies = await asyncio.gather(
                *(self._product.ask(message, model=version) for message in pool)
            )
            for reply in replies:
                if reply is not None:
                    self._reference[version, reply.message.text] = reply.text

    @asynccontextmanager
    async def _traffic(self, pool: Sequence[Message]) -> Any:
        """Users who go on asking until the block ends; nobody is cut off."""
        stop = asyncio.Event()

        async def user(offset: int) -> None:
            turn = offset
            while not stop.is_set():
                await self._product.ask(pool[turn % len(pool)])
                turn += 7

        users = [asyncio.create_task(user(number)) for number in range(6)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*users)

    async def _enough(self, since: int) -> None:
        """Wait for a stage's number of answers."""
        while len(self._product.replies) - since < self._options.stage_requests:
            if len(self._product.failures) > self._options.stage_requests:
                return  # the report will say so
            await asyncio.sleep(0.05)

    async def _followed(self, change: Change) -> float:
        return await asyncio.to_thread(self._server.wait_for_event, self._alias, change.event.seq)

    def _act(self, number: str, title: str) -> None:
        self._say(f"\n[{number}/4] {title}")


def _counts(replies: Sequence[Reply]) -> str:
    counted = Counter(reply.version for reply in replies)
    return ", ".join(f"{version}: {count}" for version, count in sorted(counted.items()))


def _rightness(replies: Sequence[Reply]) -> str:
    right = sum(reply.right for reply in replies)
    return f"({right} of {len(replies)} right)"


def _short(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
