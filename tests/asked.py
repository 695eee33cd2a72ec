"""Questions about made-up products, for the tests of clusters: many wordings of a few topics."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from ledger.records import Interaction
from ledger.store import Store

#: A start of all times, 2027-01-15 00:00 UTC, seconds since the epoch.
START = 1_799_971_200.0
#: Each with its words and its wordings.
TOPICS = {
    "parcel": (
        ("parcel", "package", "delivery"),
        ("where is my {}", "when will the {} arrive", "my {} is late", "track the {} for me"),
    ),
    "refund": (
        ("refund", "money back"),
        ("when do I get my {}", "I want a {} for my order", "how long does a {} take"),
    ),
    "password": (
        ("password", "login"),
        ("I forgot my {}", "reset the {} now", "my {} does not work", "cannot change my {}"),
    ),
    "espresso": (
        ("espresso machine", "steam wand"),
        ("my {} leaks water", "how do I descale the {}", "the {} does not heat up"),
    ),
}
OLD = ("parcel", "refund", "password")
_TAILS = ("", "thanks", "it is urgent", "since monday", "again", "for my sister", "last week")


def ask(rng: random.Random, topic: str) -> str:
    """One question about a topic."""
    words, wordings = TOPICS[topic]
    text = f"{rng.choice(_TAILS)} {rng.choice(wordings).format(rng.choice(words))}"
    return f"{text} {rng.choice(_TAILS)}".strip()


def answer(row_id: str, question: str, ts: float, **fields: Any) -> Interaction:
    """A row with a question."""
    values: dict[str, Any] = {
        "row_id": row_id,
        "request_id": row_id,
        "ts": ts,
        "api": "chat",
        "alias": "support",
        "version": "support@v1",
        "base_model": "base",
        "messages": [{"role": "user", "content": question}],
        "response": "wrong",
    }
    return Interaction(**values | fields)


def add_topics(
    store: Store,
    topics: Iterable[str],
    *,
    ts: float = START,
    every: float = 60.0,
    seed: int = 0,
    **fields: Any,
) -> list[str]:
    """One row for each topic named; the ids, which begin with the topic."""
    rng = random.Random(seed)
    rows = [
        answer(
            f"{topic}-{seed}-{number}",
            ask(rng, topic),
            ts + number * every,
            **{"subject": f"u{number % 50}"} | fields,
        )
        for number, topic in enumerate(topics)
    ]
    assert store.add_interactions(rows) == len(rows)
    return [row.row_id for row in rows]
