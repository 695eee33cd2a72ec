"""Lives day after day: users write, react, and the loop ticks. On the real ledger, with the
real curation, drift, gate, triggers, rollout; the clock is ours and the engine is simulated."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from curate.judging.decisions import correct
from flywheel.loop.tick import Step, Tick, tick
from flywheel.simulation.engine import QUEUES, SimulatedEngine, queue_of, write_base
from flywheel.simulation.front import Front
from flywheel.simulation.world import DAY, HOUR, SYSTEM, TOPICS, Question, World, words
from ledger import clock
from ledger.deployments import DeploymentEvent, Deployments, version_name
from ledger.files import write_jsonl
from ledger.keeping.retention import retention
from ledger.keeping.settle import Settle
from ledger.records import Feedback, Interaction
from ledger.settings import Settings
from ledger.store import Firing, Store

#: A Monday, 2026-01-05.
START = 1_767_571_200.0
_BATCH = 500


class Script(NamedTuple):
    """What goes wrong, by day from the start; None: it does not.

    Attributes:
        bad_batch: an operator corrects many answers wrongly.
        bad_size: how many.
        replica_down: one replica of two does not answer for `down_hours`.
    """

    bad_batch: float | None = None
    bad_size: int = 400
    replica_down: float | None = None
    down_hours: float = 6.0


class Lived(NamedTuple):
    """What came of it.

    Attributes:
        steps: what the loop did, each with the day on which it did it.
        lost: requests that nobody answered, or whose row is not accounted for.
        moved: users who were on two sides within one stage.
        right: share of right answers, by day.
        versions: answers by version.
    """

    days: float
    requests: int
    lost: int
    passed_over: int
    moved: int
    steps: list[tuple[float, Step]]
    events: list[DeploymentEvent]
    firings: list[Firing]
    right: dict[int, float]
    versions: dict[str, int]


def write_gold(path: Path, count: int) -> None:
    """A gold set about the old product; the new one is not known when it is written."""
    draw = random.Random(71)
    seen: set[str] = set()
    while len(seen) < count:
        seen.add(words(draw, TOPICS[len(seen) % len(TOPICS)]))
    things = {thing: topic.queue for topic in TOPICS for thing in topic.things}
    lines = []
    for number, text in enumerate(sorted(seen)):
        queue = things[max((thing for thing in things if thing in text), key=len)]
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
        checks = [{"type": "normalised", "value": queue}]
        lines.append({"id": f"g{number}", "messages": messages, "checks": checks, "slice": queue})
    write_jsonl(path, lines)


class Month:
    """A simulated product and its loop. Use it in `with`.

    Args:
        settings: of an alias whose gate has gold questions; `model.path` is written.
        tick_hours: time between two ticks.
    """

    def __init__(
        self,
        settings: Settings,
        world: World,
        script: Script | None = None,
        *,
        tick_hours: float = 6.0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        write_base(Path(settings.model.path))
        self.settings, self.world, self.script = settings, world, script or Script()
        self.alias = next(iter(settings.aliases))
        self.now = START
        self.store = Store.open(settings)
        self.engine = SimulatedEngine(settings, self.store)
        self.front = Front(2)
        self._tick, self._say = tick_hours * HOUR, say
        self._draw = random.Random(world.seed)
        self._late: list[tuple[float, int, Feedback]] = []
        self._steps: list[tuple[float, Step]] = []
        self._right: dict[int, list[int]] = {}
        self._versions = Counter[str]()
        self._numbers = 0
        if self.script.replica_down is not None:
            begin = START + self.script.replica_down * DAY
            self.front.replicas[1].down.append((begin, begin + self.script.down_hours * HOUR))

    def __enter__(self) -> Month:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()
        self.store.close()

    @property
    def day(self) -> float:
        """Days since the start."""
        return (self.now - START) / DAY

    def live(self, days: float) -> Lived:
        """Live until so many days have passed since the start."""
        with clock.at(lambda: self.now):
            while self.day < days - 1e-9:
                self._span(min(self.now + self._tick, START + days * DAY))
        return self._lived()

    def _span(self, end: float) -> None:
        """Traffic until `end`, then a tick."""
        self.traffic(end)
        done: Tick = tick(self.settings, self.store, self.engine, say=lambda _: None)
        for step in done.steps:
            if step.what != "curate" or step.failed:
                self._say(f"day {self.day:5.2f}  {step.what:<8} {step.said}")
            self._steps.append((self.day, step))

    def traffic(self, end: float) -> None:
        """What users do until `end`, seconds since the epoch, and the server's own chores."""
        begin = self.now
        self.front.follow(Deployments(self.store).state(self.alias))
        rows: list[Interaction] = []
        for question in self.world.questions(START, begin, end):
            self.now = question.at
            rows += self._ask(question)
            if len(rows) >= _BATCH:
                self._write(rows)
        self.now = end
        self._write(rows)
        self._attack(begin, end)
        for _ in Settle(self.store, self.settings, clock.now).steps():
            pass
        for _ in retention(self.store, self.settings, clock.now):
            pass

    def _ask(self, question: Question) -> list[Interaction]:
        """One question: routed, answered, and reacted to later."""
        user = f"user-{question.user}"
        routed = self.front.send(question.at, user)
        if routed is None:
            return []
        name = version_name(self.alias, routed.version, self.settings.model.name)
        text, logprob = self.engine.say(name, question.text)
        self._versions[name] += 1
        counted = self._right.setdefault(int(self.day), [0, 0])
        counted[0] += text == question.topic.queue
        counted[1] += 1
        self._numbers += 1
        row_id, subject = f"sim-{self._numbers}", self.store.mac("subject", user.encode())
        reaction = self.world.react(self._draw, question, text)
        if reaction.down or reaction.up or reaction.correction is not None:
            feedback = Feedback(
                feedback_id=f"fb-{self._numbers}",
                row_id=row_id,
                ts=question.at + reaction.after,
                rating="down" if reaction.down else "up" if reaction.up else None,
                correction=reaction.correction,
                subject=subject,
            )
            heapq.heappush(self._late, (feedback.ts, self._numbers, feedback))
        row = Interaction(
            row_id=row_id,
            request_id=row_id,
            ts=question.at,
            api="chat",
            alias=self.alias,
            version=name,
            base_model=self.settings.model.name,
            deployment=routed.event,
            arm="candidate" if routed.arm == "candidate" else "live",
            messages=question.messages,
            response=text,
            finish_reason="stop",
            mean_logprob=logprob,
            min_logprob=logprob - 0.5,
            prompt_tokens=len(question.text.split()) + 9,
            completion_tokens=1,
            ttft_ms=20 + 10 * self._draw.random(),
            latency_ms=40 + 30 * self._draw.random(),
            subject=subject,
        )
        return [row]

    def _write(self, rows: list[Interaction]) -> None:
        """Rows, and the feedback that has come by now."""
        if rows:
            self.store.add_interactions(rows)
            rows.clear()
        with self.store.transaction() as connection:
            while self._late and self._late[0][0] <= self.now:
                self.store.add_feedback(heapq.heappop(self._late)[2], connection)

    def _attack(self, begin: float, end: float) -> None:
        """The bad batch: an operator's wrong corrections of the newest answers."""
        day = self.script.bad_batch
        if day is None or not begin < START + day * DAY <= end:
            return
        newest = self.store.interactions(
            alias=self.alias, newest_first=True, limit=self.script.bad_size
        )
        count = 0
        for row in list(newest):
            if row.messages:
                own = queue_of(str(row.messages[-1]["content"]))
                wrong = self._draw.choice([q for q in QUEUES if q not in (own, row.response)])
                correct(self.store, row.row_id, wrong, "night-shift", "a bulk edit")
                count += 1
        self._say(f"day {self.day:5.2f}  attack   {count} answers corrected wrongly")

    def _lived(self) -> Lived:
        from ledger.keeping.rollups import totals, whole

        there = whole(totals(self.store).values()).rows
        return Lived(
            days=self.day,
            requests=self.front.sent,
            lost=self.front.sent - self.front.answered + abs(self.front.answered - there),
            passed_over=self.front.passed_over,
            moved=len(self.front.moved),
            steps=self._steps,
            events=Deployments(self.store).events(self.alias),
            firings=self.store.firings(self.alias),
            right={day: good / of for day, (good, of) in sorted(self._right.items())},
            versions=dict(self._versions),
        )
