"""The story of the demo that nobody steers: whose messages, and weeks that are minutes.

The old queues are what the product began with and what its gold questions are about. The new ones
come with a new product, and no gold question asks about them: what is wrong there passes the gate.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from flywheel.demo.stream import BUILT_IN, SEED, Message, even, read_csv
from ledger.errors import UsageError
from ledger.gold import question_key

#: How many times as fast time goes: a minute is a day.
FACTOR = 1440.0
_LEAST = 4  # queues


class Story(NamedTuple):
    """Messages about the old queues and about the new ones; gold questions are about old ones."""

    old: list[Message]
    new: list[Message]
    gold: list[Message]
    old_labels: list[str]
    new_labels: list[str]

    @property
    def enough(self) -> int:
        """New pairs that the calendar waits for; both halves have more to bring."""
        return int(0.8 * min(len(self.old), len(self.new)))

    def shifted(self, label: str) -> str:
        """The next of the new queues: what a list says whose rows slipped by one."""
        labels = self.new_labels
        return labels[(labels.index(label) + 1) % len(labels)]


def make_story(
    data: Path | None, gold: Path | None, *, labels: int | None, messages: int, gold_size: int
) -> Story:
    """Divide labelled messages.

    Args:
        data: the users' messages; None for those that come with this project.
        gold: where gold questions are taken from; None holds out a third of the old messages.
        labels: keep the most frequent categories only; None keeps all.
        messages: most messages, of both halves together.
        gold_size: most gold questions.

    Raises:
        UsageError: there are fewer than four categories, or too few messages.
    """
    every = read_csv(data or BUILT_IN)
    counted = Counter(message.label for message in every)
    kept = sorted(counted, key=lambda label: (-counted[label], label))[:labels]
    if len(kept) < _LEAST:
        raise UsageError(
            f"{len(kept)} categories are too few",
            rule=f"Half of at least {_LEAST} are the old product's, the others the new one's.",
        )
    random.Random(SEED).shuffle(every)
    old_labels, new_labels = sorted(kept[::2]), sorted(kept[1::2])
    old = [message for message in every if message.label in old_labels]
    if gold is None:
        held_out, old = old[: len(old) // 3], old[len(old) // 3 :]
    else:
        held_out = [message for message in read_csv(gold) if message.label in old_labels]
        random.Random(SEED).shuffle(held_out)
    questions = even(held_out, gold_size)
    secret = {question_key(message.conversation) for message in questions}
    old = [m for m in old if question_key(m.conversation) not in secret][: messages // 2]
    new = [message for message in every if message.label in new_labels][: messages // 2]
    story = Story(old, new, questions, old_labels, new_labels)
    if not questions or story.enough < _LEAST:
        raise UsageError(
            f"{len(old)} messages about {', '.join(old_labels)}, {len(new)} about "
            f"{', '.join(new_labels)} and {len(questions)} gold questions are too few"
        )
    return story


def settings(story: Story) -> dict[str, Any]:
    """What the demo sets beyond its configuration: numbers for hundreds of answers, not for a
    hundred thousand. The rules that use them are the same."""
    stage = {"days": 0, "events": 60, "feedback": 5, "tolerance": 0.5}
    return {
        "drift": {
            # Training takes the processors that answer here, and that is not the version's
            # fault; and gold questions would be asked while users wait.
            "off": ["latency", "gold"],
            "rates_of": "answers",  # these users say nothing where they are content
            "warmup_days": 0.75,
            "version_warmup_days": 0.5,
            "warmup_events": 80,
            "minimum": 20,
            "minimum_answers": 60,
        },
        "triggers": {
            "calendar": {"days": 2},
            "pairs": {"count": story.enough},
            "drift": {"min_pairs": max(2, int(0.5 * len(story.new)))},
            # Everything is new to a model that has learned nothing, and everything fails: these
            # two would begin with the first few pairs.
            "domain": {"min_pairs": story.enough},
            "failures": {"on": False},
            "cooldown_hours": 0,
            "min_gain": 0,
        },
        "rollout": {
            "stages": [{"share": 40, **stage}, {"share": 60, **stage}],
            # An adapter answers more slowly than the base model on a CPU, a few times.
            "guards": {"latency": 10},
        },
        "train": {"epochs": 3},
    }


def gate(alias: str) -> dict[str, Any]:
    """Some 50 gold questions cannot exclude a small loss, and a version that has learned twice as
    many queues from some hundred corrections has one."""
    return {"aliases": {alias: {"gate": {"margin": 0.3}}}}
