"""What the simulated users ask and want, how they react, and what happens on which day.

A question is put together from the words of its topic, so that real clustering and near-duplicate
detection have something to find. Everything is drawn from one seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

DAY, HOUR = 86_400.0, 3600.0
SYSTEM = "Answer with the name of one queue."


class Topic(NamedTuple):
    """A kind of question: the queue it belongs to, its share of the traffic, its words."""

    queue: str
    share: float
    things: tuple[str, ...]
    troubles: tuple[str, ...]


TOPICS = (
    Topic("billing", 0.2, ("invoice", "bill", "charge", "direct debit", "statement"),
          ("is too high", "came twice", "names the wrong month", "lacks the discount")),
    Topic("delivery", 0.2, ("parcel", "courier", "shipment", "package", "delivery van"),
          ("never arrived", "went to the neighbour", "is late again", "lost its label")),
    Topic("returns", 0.15, ("returned jacket", "refund", "exchange", "return label", "size swap"),
          ("was not credited", "takes weeks", "cannot be printed", "was refused")),
    Topic("accounts", 0.15, ("password", "login", "profile", "username", "two-factor code"),
          ("does not work", "is locked", "was reset without asking", "shows an old address")),
    Topic("warranty", 0.15, ("blender", "kettle", "lamp", "toaster", "heater"),
          ("broke after a week", "smells of smoke", "does not switch on", "makes a noise")),
    Topic("gifts", 0.15, ("voucher", "gift card", "present", "gift wrap", "greeting card"),
          ("has no balance", "expired early", "was sent unsigned", "is not accepted")),
)  # fmt: skip
NEW_PRODUCT = (
    Topic("scooters", 0.5, ("electric scooter", "scooter battery", "handlebar", "scooter app"),
          ("does not charge overnight", "brakes too hard", "cannot find the vehicle",
           "drains within minutes")),
    Topic("rides", 0.5, ("ride pass", "rental ride", "parking zone", "helmet hire"),
          ("was counted double", "ended by itself", "is not on the map", "cannot be unlocked")),
)  # fmt: skip
_OPENERS = (
    "Hello,", "Good morning,", "Hi there,", "Sorry to bother you,", "Me again:", "Quick question:",
    "Please help,", "I am annoyed:", "To whom it may concern,", "Just noticed",
)  # fmt: skip
_CLOSERS = (
    "What can I do?", "Who takes care of this?", "I ordered it for my sister.", "Any idea?",
    "This happened on holiday.", "I have waited since Monday.", "Is there a form for it?",
    "My neighbour had the same.", "Can you look into it?", "It worked last year.",
    "I would like an answer today.", "I bought two of them.",
)  # fmt: skip


class Question(NamedTuple):
    """A message of a user, and the queue it belongs to. `at`: seconds since the epoch."""

    at: float
    user: int
    text: str
    topic: Topic

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The chat that the product sends."""
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": self.text}]


class Reaction(NamedTuple):
    """What a user did with an answer; all unset: nothing."""

    down: bool = False
    up: bool = False
    correction: str | None = None
    after: float = 0.0


class World(NamedTuple):
    """How much happens, and when. Days count from the start of the simulation.

    Attributes:
        a_day: questions on a weekday; weekends have two thirds.
        users: some of them write much more than others.
        new_product: the day on which a new product is asked about.
        new_share: its share of the traffic from then on.
        edits, downs: share of wrong answers that a user edits, or turns a thumb down on.
        ups: share of right answers with a thumb up.
        noise: share of right answers with a thumb down.
    """

    a_day: int = 600
    users: int = 400
    new_product: float | None = None
    new_share: float = 0.3
    edits: float = 0.25
    downs: float = 0.10
    ups: float = 0.35
    noise: float = 0.005
    seed: int = 5

    def topics(self, day: float) -> Sequence[tuple[Topic, float]]:
        """What is asked on a day, with shares that add up to 1."""
        old = sum(one.share for one in TOPICS)
        if self.new_product is None or day < self.new_product:
            return [(one, one.share / old) for one in TOPICS]
        rest = 1 - self.new_share
        return [(one, rest * one.share / old) for one in TOPICS] + [
            (one, self.new_share * one.share) for one in NEW_PRODUCT
        ]

    def questions(self, start: float, begin: float, end: float) -> Iterator[Question]:
        """The questions of a span of time, in order.

        Args:
            start: when the simulation began; `begin` to `end` is the span. All in seconds since
                the epoch.
        """
        draw = random.Random(f"{self.seed}:{begin}")
        hour = begin
        while hour < end:
            span = min(HOUR, end - hour)
            times = sorted(
                hour + draw.random() * span for _ in range(self._count(draw, hour, span))
            )
            topics = self.topics((hour - start) / DAY)
            for at in times:
                topic = draw.choices([t for t, _ in topics], [share for _, share in topics])[0]
                user = min(self.users - 1, int(draw.paretovariate(1.2) * 10) - 10)
                yield Question(at, user, words(draw, topic), topic)
            hour += span

    def _count(self, draw: random.Random, hour: float, span: float) -> int:
        """Questions in an hour: more by day than by night, fewer at weekends."""
        of_day = 1 + 0.8 * math.sin(2 * math.pi * ((hour % DAY) / DAY - 0.3))
        weekend = 2 / 3 if int(hour // DAY + 3) % 7 >= 5 else 1.0
        mean = self.a_day / 24 * of_day * weekend * span / HOUR
        return int(mean) + (draw.random() < mean % 1)

    def react(self, draw: random.Random, question: Question, answer: str) -> Reaction:
        """What the user does with an answer, some minutes later."""
        after = min(20 * HOUR, draw.lognormvariate(math.log(60), 1.5))
        luck = draw.random()
        if answer == question.topic.queue:
            if luck < self.noise:
                return Reaction(down=True, after=after)
            return Reaction(up=luck < self.noise + self.ups, after=after)
        if luck < self.edits:
            return Reaction(correction=question.topic.queue, after=after)
        return Reaction(down=luck < self.edits + self.downs, after=after)


def words(draw: random.Random, topic: Topic) -> str:
    """A question about a topic."""
    number = draw.randrange(100, 999)
    parts = [
        draw.choice(_OPENERS),
        f"my {draw.choice(topic.things)} {draw.choice(topic.troubles)}"
        + draw.choice((".", f", order {number}.", f", for {number} days now.", " once more.")),
        *draw.sample(_CLOSERS, draw.choice((1, 2))),
    ]
    return " ".join(parts)
