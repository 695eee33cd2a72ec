"""A ledger of many answers, some of them corrected by their users, for `benchmarks.curate`.

Questions and corrections are put together from pieces of the demo's messages, so that they read
like a language, fall into topics and repeat themselves here and there.
"""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from benchmarks.tiny import ROOT
from ledger.database import tables
from ledger.files import write_jsonl
from ledger.keys.pack import pack
from ledger.records import Feedback
from ledger.store import Store

MESSAGES = ROOT / "flywheel/demo/messages.csv"
DAYS = 30
DAY = 86_400.0
START = 1_760_000_000.0 // DAY * DAY
#: Of the corrected questions: nearly one that was asked before (half of them with its answer),
#: and one of the gold set.
NEAR, GOLD = 0.04, 0.005
_SYSTEM = {"role": "system", "content": "Answer customers of the shop in one or two sentences."}
_POOL = 4000  # different texts of answers that nobody corrected
_PAGE = 500
_A_SUBJECT = 200  # answers to one user in a month


class Made(NamedTuple):
    """Ids of the rows that were corrected, and how many near-duplicates and gold questions."""

    corrected: int
    near: int
    gold: int


class Words:
    """Makes questions and answers; the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self._topics: dict[str, list[list[str]]] = {}
        with open(MESSAGES, newline="", encoding="utf-8") as handle:
            for row in csv.DictReader(handle):
                self._topics.setdefault(row["category"], []).append(row["text"].split())
        self._names = sorted(self._topics)

    def text(self, pieces: int) -> str:
        """Pieces of up to six words from the messages of one topic."""
        messages = self._topics[self.rng.choice(self._names)]
        words: list[str] = []
        for _ in range(pieces):
            message = self.rng.choice(messages)
            start = self.rng.randrange(max(1, len(message) - 5))
            words += message[start : start + 6]
        return " ".join(words)

    def reworded(self, text: str) -> str:
        """The same text with one word more."""
        words = text.split()
        words.insert(self.rng.randrange(len(words)), "really")
        return " ".join(words)


def write_gold(file: Path, count: int = 200) -> list[str]:
    """A gold set; returns its questions."""
    words = Words(7)
    questions = [words.text(6) for _ in range(count)]
    write_jsonl(
        file,
        (
            {
                "id": f"gold-{number}",
                "messages": [_SYSTEM, {"role": "user", "content": question}],
                "checks": [{"type": "normalised", "value": "x"}],
            }
            for number, question in enumerate(questions)
        ),
    )
    return questions


def fill(
    store: Store, first: int, count: int, corrected: int, gold: list[str], *, a_month: int
) -> Made:
    """Add answers, some of them with a user's correction.

    Args:
        first: number of the first row.
        a_month: rows in 30 days.
        corrected: how many get a correction, spread evenly over the last nine tenths.
    """
    words = Words(first)
    rng, pool = words.rng, [_body(words.text(6), words.text(4)) for _ in range(_POOL)]
    packed = [pack(body) for body in pool]
    after = count // 10 if first == 0 else 0
    step = max(1, (count - after) // max(1, corrected))
    asked: list[tuple[str, str]] = []  # with what was to be answered
    done = near = from_gold = 0
    for start in range(first, first + count, _PAGE):
        page, feedback = [], []
        for number in range(start, min(start + _PAGE, first + count)):
            place = number - first - after
            text = rng.choice(packed)
            values = _values(number, a_month, rng)
            if place >= 0 and place % step == 0 and done < corrected:
                question, wanted, kind = words.text(6), words.text(5), rng.random()
                if kind < GOLD:
                    question, from_gold = rng.choice(gold), from_gold + 1
                elif kind < GOLD + NEAR and asked:
                    before, same = rng.choice(asked)
                    question, near = words.reworded(before), near + 1
                    wanted = same if near % 2 else wanted
                elif len(asked) < _POOL:
                    asked.append((question, wanted))
                text = pack(_body(question, words.text(4)))
                feedback.append(_correction(values, wanted))
                done += 1
            page.append((values, text))
        with store.transaction() as connection:
            for values, text in page:
                name, owners = f"interactions:{values['row_id']}", [values["subject"]]
                values["text"] = store._sealed(text, name, owners, connection)
                values["bytes"] = len(values["text"])
            connection.execute(sa.insert(tables.interactions), [values for values, _ in page])
            for one in feedback:
                store.add_feedback(one, connection)
    return Made(done, near, from_gold)


def add_votes(store: Store, count: int, rows: int) -> None:
    """Thumbs down, so that something waits in the queue."""
    step = max(1, rows // count)
    with store.transaction() as connection:
        for number in range(0, step * count, step):
            row_id = _row_id(number + 1)
            store.add_feedback(
                Feedback(feedback_id=f"vote-{number}", row_id=row_id, ts=START, rating="down"),
                connection,
            )


def _body(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [_SYSTEM, {"role": "user", "content": question}], "response": answer}


def _row_id(number: int) -> str:
    return f"chatcmpl-{number * 0x9E3779B97F4A7C15 % 2**64:016x}"


def _correction(values: dict[str, Any], text: str) -> Feedback:
    return Feedback(
        feedback_id=f"edit-{values['row_id']}",
        row_id=values["row_id"],
        ts=values["ts"] + 60,
        correction=text,
        subject=values["subject"],
    )


def _values(number: int, a_month: int, rng: random.Random) -> dict[str, Any]:
    row_id = _row_id(number)
    return {
        "row_id": row_id,
        "request_id": row_id,
        "choice": 0,
        "ts": START + number / a_month * DAYS * DAY,
        "api": "chat",
        "alias": "support",
        "version": f"support@v{number % 3}",
        "base_model": "base",
        "deployment": 1,
        "arm": "live",
        "stored_text": True,
        "finish_reason": "stop",
        "sampling": json.dumps({}),
        "template_hash": "fw1:template:0000",
        "mean_logprob": -rng.random(),
        "min_logprob": -4 * rng.random(),
        "prompt_tokens": 100,
        "completion_tokens": 60,
        "ttft_ms": 40.0,
        "latency_ms": 900.0,
        "subject": f"{(number * 7919) % max(1, a_month // _A_SUBJECT):032x}",
        "session": None,
        "kept_because": "sample",
        "inclusion_probability": 0.05,
        "held": False,
        "sample_key": rng.random(),
    }
