"""The demo that nobody steers: a real server, `flywheel loop`, and users. No command is typed.

    1  users write about the old queues and correct: the loop trains, judges and rolls out
    2  a new product: drift is noticed, corrections come, and the loop learns the new queues
    3  an operator's list of corrections has slipped by a row: a version learns that, passes the
       gate, whose gold questions are about old queues only, harms users, and is rolled back

After the start only users act, and in act 3 the operator, through what the review page calls.
Time goes faster in all processes (`ledger.clock`), durations do not. What the loop does is read
from the ledger. Everything lives in `var/demo-loop/`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from curate.judging.decisions import correct
from flywheel.demo.alone_report import AloneReport, Turn
from flywheel.demo.crowd import Crowd
from flywheel.demo.home import fresh_home, own_config, some, the_alias
from flywheel.demo.hurry import FACTOR, Story, gate, make_story, settings
from flywheel.demo.product import Product
from flywheel.demo.seen import Seen
from flywheel.model import fetch
from flywheel.running import RunningServer
from ledger import clock
from ledger.errors import FlywheelError
from ledger.keeping.rollups import totals
from ledger.settings import Settings, api_keys, load
from ledger.store import Firing, Store
from train.load import half_of_the_cores

_T = TypeVar("_T")
_DAY = 86_400.0
# The story is over by about now: rows of the future would puzzle whoever looks at them later.
_DAYS = 14
_LOOK = 0.5


class Options(NamedTuple):
    """What can be chosen.

    Attributes:
        messages: most different messages, of old and new queues together.
        every: time between two ticks.
        think: how long a user waits before the next message, seconds.
        new_product: whether act 2 is played; without it the users know all queues from the start.
        more: settings on top of the demo's own.
        patience: longest wait for one thing that the loop has to do by itself, seconds.
    """

    data: Path | None = None
    gold: Path | None = None
    labels: int | None = None
    messages: int = 220
    gold_size: int = 50
    factor: float = FACTOR
    every: str = "5s"
    think: float = 0.0
    new_product: bool = True
    more: dict[str, Any] = {}  # noqa: RUF012 - a tuple's default, never written
    patience: float = 900.0


def alone(config: str, options: Options, say: Callable[[str], None]) -> AloneReport:
    """Run the demo on a configuration.

    Raises:
        FlywheelError: something did not happen in time, or broke; it says what, and where to look.
    """
    template = load(config)
    alias = the_alias(template, config)
    story = make_story(
        options.data,
        options.gold,
        labels=options.labels,
        messages=options.messages,
        gold_size=options.gold_size,
    )
    home = fresh_home(template.var / "demo-loop")
    own, file = own_config(
        config, home, alias, story.gold, gate(alias), settings(story), options.more
    )
    say(f"\nThe product sorts messages into queues. It begins with {some(story.old_labels)};")
    say(f"later {some(story.new_labels)} come up. {len(story.gold)} gold questions are about")
    say("the first ones only.")
    fetch(own, say)
    with _lapse(options.factor) as lapse:
        say(f"\nA minute here is {lapse.factor / 60:g} hours. To look at it meanwhile:")
        say(f"  {clock.LAPSE}={lapse} .venv/bin/flywheel -c {file} status")
        return asyncio.run(_Alone(own, file, home, alias, story, options, lapse, say).run())


@contextmanager
def _lapse(factor: float) -> Iterator[clock.Lapse]:
    """Have this process and those that it starts live faster."""
    start = time.time()
    before = os.environ.get(clock.LAPSE)
    os.environ[clock.LAPSE] = str(clock.Lapse(start, factor, start - _DAYS * _DAY))
    try:
        found = clock.lapse()
        assert found is not None
        yield found
    finally:
        del os.environ[clock.LAPSE]
        if before is not None:
            os.environ[clock.LAPSE] = before


class _Alone:
    def __init__(
        self,
        own: Settings,
        config: Path,
        home: Path,
        alias: str,
        story: Story,
        options: Options,
        lapse: clock.Lapse,
        say: Callable[[str], None],
    ) -> None:
        self._settings, self._config, self._home, self._alias = own, config, home, alias
        self._story, self._options, self._lapse, self._say = story, options, lapse, say
        self._turns: list[Turn] = []
        self._told = 0  # the last decision that was followed
        self._drift: list[str] = []
        self._loop: asyncio.subprocess.Process | None = None

    async def run(self) -> AloneReport:
        begun = time.monotonic()
        self._say("\n[0/3] Starting vLLM with the plugin in it, and `flywheel loop` beside it")
        server = RunningServer.flywheel(
            self._config, self._settings.serve.port, self._home / "server.log"
        )
        try:
            await asyncio.to_thread(server.start)
            self._say(f"  serving at {server.url}  ({server.start_seconds:.0f} s)")
            key = next(iter(api_keys(self._settings.serve)), None)
            self._product = Product(server.url, key, self._alias)
            self._store = Store.open(self._settings)
            self._seen = Seen(self._store, self._alias)
            self._crowd = Crowd(self._product, think=self._options.think)
            try:
                self._crowd.write_about(self._story.old)
                async with self._looping(server.url), self._crowd.there():
                    wrong = await self._acts()
                return await self._report(wrong, begun)
            finally:
                await self._product.close()
                self._store.close()
        finally:
            await asyncio.to_thread(server.stop)

    async def _acts(self) -> int:
        whole = self._options.new_product
        queues = self._story.old_labels + ([] if whole else self._story.new_labels)
        if not whole:
            self._crowd.write_about(self._story.old + self._story.new)
        self._say(f"\n[1/3] Users write about {some(queues)} and correct what is wrong")
        turn = await self._turn("live")
        if whole:
            await self._usual(turn.version)
            self._say(
                f"\n[2/3] A new product: users write about {some(self._story.new_labels)}, too"
            )
            begun = clock.now()
            self._crowd.write_about(self._story.old + self._story.new)
            await self._until(partial(self._seen.drifts, begun), "drift is noticed")
            turn = await self._turn("live")
            self._drift = self._seen.drifts(begun)
        wrong = await self._slip(turn.version)
        await self._turn("rolled_back")
        return wrong

    # -- what the loop does --------------------------------------------------------------

    async def _turn(self, wanted: str) -> Turn:
        """Wait for retrains until one ends as wanted; users are fewer while one trains."""
        while True:
            firing = await self._until(
                partial(self._seen.fired, self._told), "the loop decides on a retrain"
            )
            self._told = firing.seq
            turn = await self._follow(firing)
            self._turns.append(turn)
            self._tell("demo", f"{turn.version} is {turn.end.replace('_', ' ')}")
            if turn.end == wanted:
                return turn

    async def _follow(self, firing: Firing) -> Turn:
        self._crowd.quiet()
        version, verdict, difference = await self._until(
            partial(self._seen.judged, firing.seq), "a version is judged"
        )
        self._crowd.busy()
        end, at, why = "refused", clock.now(), verdict
        if verdict == "pass":
            end, at, why = await self._until(
                partial(self._seen.ended, version), f"{version} is live or rolled back"
            )
        return Turn(
            version=version,
            because=list(firing.triggers),
            decided=self._day(firing.ts),
            verdict=verdict,
            difference=difference,
            end=end,
            ended=self._day(at),
            why=why,
            seconds=(at - firing.ts) / self._lapse.factor,
        )

    async def _usual(self, version: str) -> None:
        """Wait until drift detection knows what is usual with a version."""

        self._tell("demo", f"{version} answers; what is usual with it is being learned")
        await self._until(
            partial(self._seen.usual, version), f"what is usual with {version} is known"
        )

    # -- the operator --------------------------------------------------------------------

    async def _slip(self, version: str) -> int:
        """An operator corrects what was answered about new queues, each with the wrong queue."""
        since = len(self._product.replies)
        messages = {message.text for message in self._story.new}

        def asked() -> dict[str, Any] | None:
            found = {
                reply.message.text: reply
                for reply in self._product.replies[since:]
                if reply.message.text in messages and reply.version == version
            }
            return found if len(found) >= 0.95 * len(messages) else None

        self._say("\n[3/3] An operator's list has slipped by a row")
        replies = await self._until(asked, f"{version} was asked about every new queue")
        wrong = 0
        for reply in replies.values():
            label = self._story.shifted(reply.message.label)
            row_id = await self._until(
                partial(self._store.row_id, reply.request_id), "an answer is logged"
            )
            if reply.text.strip() != label:
                await asyncio.to_thread(
                    correct, self._store, row_id, label, "operator", "from a list"
                )
                wrong += 1
        self._tell("operator", f"corrects {wrong} answers about the new queues, all wrongly")
        return wrong

    # -- waiting and telling -------------------------------------------------------------

    async def _until(self, look: Callable[[], _T | None], what: str) -> _T:
        """What `look` returns once that is something."""
        deadline = time.monotonic() + self._options.patience
        while not (found := await asyncio.to_thread(look)):
            problem = ""
            if self._loop is not None and self._loop.returncode is not None:
                problem = f"`flywheel loop` ended with exit code {self._loop.returncode}"
            elif len(self._product.failures) > 50:
                problem = f"the server fails: {self._product.failures[-1]}"
            elif time.monotonic() > deadline:
                problem = f"{self._options.patience:g} s have passed"
            if problem:
                raise FlywheelError(
                    f"waiting until {what}: {problem}",
                    remedy=f"Look into {self._home}/loop.log and server.log, and at "
                    f"`{clock.LAPSE}={self._lapse} .venv/bin/flywheel -c {self._config} triggers "
                    "--explain`.",
                )
            await asyncio.sleep(_LOOK)
        return found

    @asynccontextmanager
    async def _looping(self, url: str) -> Any:
        """`flywheel loop` in a process of its own; what it prints is shown and kept."""
        words = ["--config", str(self._config), "loop", "--every", self._options.every]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "flywheel.cli", *words, "--url", url),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env={"OMP_NUM_THREADS": str(half_of_the_cores()), **os.environ},
        )
        self._loop = process
        showing = asyncio.create_task(self._show(process))
        try:
            yield
        finally:
            # A tick under way ends first; of a training that is a checkpoint.
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                try:
                    await asyncio.wait_for(process.wait(), 60)
                except TimeoutError:
                    os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            await showing

    async def _show(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        with open(self._home / "loop.log", "a", encoding="utf-8") as log:
            async for line in process.stdout:
                text = line.decode(errors="replace").rstrip()
                log.write(text + "\n")
                log.flush()
                head = f"{self._alias}: "
                if text.startswith(head) and not text.startswith(f"{head}curate"):
                    self._tell("loop", text.removeprefix(head))

    def _day(self, ts: float) -> float:
        return round((ts - self._lapse.first) / _DAY, 2)

    def _tell(self, who: str, what: str) -> None:
        line = what if len(what) <= 160 else what[:159] + "…"
        self._say(f"  day {self._day(clock.now()):4.1f}  {who:<8}  {line}")

    # -- the end -------------------------------------------------------------------------

    async def _report(self, wrong: int, begun: float) -> AloneReport:
        product, last = self._product, self._turns[-1]
        back = self._seen.rolled_back()
        late = [
            reply.started - self._lapse.real(back)
            for reply in product.replies
            if back is not None and reply.version == last.version
        ]
        whole = self._options.new_product
        return AloneReport(
            minute_is_hours=self._lapse.factor / 60,
            turns=self._turns,
            drift=self._drift,
            expected=["live", "live", "rolled_back"] if whole else ["live", "rolled_back"],
            noticed=whole,
            requests=product.sent,
            failed_requests=len(product.failures),
            failures=product.failures[:10],
            mixed_version_responses=sum(len(reply.named) != 1 for reply in product.replies),
            rows_logged=await self._logged(product.sent),
            corrections=product.corrections,
            wrong_corrections=wrong,
            rollback_seconds=max(0.0, *late) if late else 0.0,
            seconds=time.monotonic() - begun,
            versions=dict(Counter(reply.version for reply in product.replies)),
        )

    async def _logged(self, expected: int) -> int:
        """Answers of the alias in the ledger, once the last flush is over."""
        deadline = time.monotonic() + 10
        while True:
            found = await asyncio.to_thread(totals, self._store, alias=self._alias)
            logged = sum(stats.rows for stats in found.values())
            if logged >= expected or time.monotonic() > deadline:
                return logged
            await asyncio.sleep(0.2)
