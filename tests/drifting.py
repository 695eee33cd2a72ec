"""A product on a real ledger, for the tests of drift: answers and feedback by the clock."""

from __future__ import annotations

import random
from typing import Any

from ledger.records import Feedback, Interaction
from ledger.store import Store

HOUR, DAY = 3600.0, 86_400.0
#: Start of all times, a UTC midnight, seconds since the epoch.
START = 20_000 * DAY
# Few ask at night.
_TRAFFIC = (2, 1, 1, 1, 1, 2, 4, 8, 13, 17, 19, 20, 19, 19, 18, 17, 16, 15, 13, 11, 9, 7, 5, 3)
_ABOUT = {
    "shop": (
        "where is my parcel", "when does the delivery come", "I want a refund", "my order is late",
        "cancel the order please", "the invoice is wrong", "change my address", "return this item",
    ),
    "machine": (
        "the espresso machine leaks", "how do I descale the boiler", "the steam wand is blocked",
        "the grinder makes a noise", "which beans fit the portafilter", "the pump lost pressure",
    ),
}  # fmt: skip


def product(
    store: Store,
    days: int,
    *,
    start: float = START,
    a_day: int = 200,
    seed: int = 0,
    negatives: float = 0.05,
    edits: float = 0.05,
    said: float = 1.0,
    refusals: float = 0.02,
    machine: float = 0.0,
    sure: float = -0.3,
    latency: float = 400.0,
    tokens: float = 40.0,
    errors: float = 0.01,
    **fields: Any,
) -> list[str]:
    """Some days of traffic: answers, and feedback some minutes after a share `said` of them.

    Returns:
        The ids of the answers.
    """
    draw = random.Random(f"{seed}-{start}")
    rows, given = [], []
    for hour in range(24 * days):
        here = _TRAFFIC[hour % 24] * a_day / sum(_TRAFFIC)
        count = int(here + draw.random())
        for number in range(count):
            ts = start + hour * HOUR + draw.random() * (HOUR - 400)
            name = f"r{seed}-{int(start)}-{hour}-{number}"
            about = "machine" if draw.random() < machine else "shop"
            values: dict[str, Any] = {
                "ts": ts,
                "api": "chat",
                "alias": "support",
                "version": "base",
                "base_model": "base",
                "arm": "live",
                "messages": [
                    {"role": "user", "content": f"{draw.choice(_ABOUT[about])} {number % 7}"}
                ],
                "response": "I cannot help with that."
                if draw.random() < refusals
                else "It is on its way.",
                "finish_reason": "error" if draw.random() < errors else "stop",
                "mean_logprob": sure * draw.lognormvariate(0, 0.7),
                "prompt_tokens": 20,
                "completion_tokens": max(1, int(tokens * draw.lognormvariate(0, 0.5))),
                "latency_ms": latency * draw.lognormvariate(0, 0.4),
                "subject": f"u{draw.randrange(100_000)}",
            }
            rows.append(Interaction(row_id=name, request_id=name, **(values | fields)))
            if draw.random() < said:
                bad, edit = draw.random() < negatives, draw.random() < edits
                given.append(
                    Feedback(
                        feedback_id=f"f-{name}",
                        row_id=name,
                        ts=ts + 300 * draw.random(),
                        rating="down" if bad else "up",
                        correction="It has arrived." if edit else None,
                    )
                )
    assert store.add_interactions(rows) == len(rows)
    with store.transaction() as connection:
        for one in sorted(given, key=lambda one: one.ts):
            store.add_feedback(one, connection)
    return [row.row_id for row in rows]
