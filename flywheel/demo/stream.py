"""What the users of the demo want: labelled messages, a stream to serve and a gold set."""

from __future__ import annotations

import csv
import random
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from ledger.errors import UsageError
from ledger.files import write_jsonl
from ledger.gold import question_key

SYSTEM = "Answer with one queue name only."
BUILT_IN = Path(__file__).with_name("messages.csv")
MAX_TOKENS = 24
"""Longest answer asked for: a queue's name and some room, in tokens."""
SEED = 7


class Message(NamedTuple):
    """What a user writes, and the queue it belongs to."""

    text: str
    label: str

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The chat that the product sends."""
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": self.text}]


class Stream(NamedTuple):
    """Traffic and gold questions; no question is in both."""

    traffic: list[Message]
    gold: list[Message]
    labels: list[str]
    categories: int


def read_csv(path: Path) -> list[Message]:
    """Read a labelled CSV with the columns `text,category`.

    Raises:
        UsageError: it is absent, lacks a column, or a row lacks a value; the line is named.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            missing = {"text", "category"} - set(reader.fieldnames or ())
            if missing:
                raise UsageError(
                    f"{path} lacks the column(s) {', '.join(sorted(missing))}",
                    rule="The first line names the columns; text and category are needed.",
                )
            found = []
            for row in reader:
                text, label = (row["text"] or "").strip(), (row["category"] or "").strip()
                if not text or not label:
                    raise UsageError(f"{path} line {reader.line_num}: text or category is empty")
                found.append(Message(text, label))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not found:
        raise UsageError(f"{path} has no rows")
    return found


def make_stream(
    data: Path | None, gold: Path | None, *, labels: int | None, gold_size: int
) -> Stream:
    """Read the stream of users and the questions of the gate.

    Args:
        data: the traffic; None for the messages that come with this project.
        gold: the gold questions; None holds out a fifth of the traffic.
        labels: keep the most frequent categories only; None keeps all.
        gold_size: most gold questions, spread evenly over the categories.
    """
    traffic = read_csv(data or BUILT_IN)
    counted = Counter(message.label for message in traffic)
    kept = sorted(counted, key=lambda label: (-counted[label], label))[:labels]
    traffic = [message for message in traffic if message.label in kept]
    random.Random(SEED).shuffle(traffic)
    if gold is not None:
        held_out = [message for message in read_csv(gold) if message.label in kept]
        random.Random(SEED).shuffle(held_out)
    else:
        cut = len(traffic) // 5
        held_out, traffic = traffic[:cut], traffic[cut:]
    questions = even(held_out, gold_size)
    if not questions:
        raise UsageError(
            f"{gold} has no message of the categories {', '.join(sorted(kept))}",
            remedy="Use a gold file with the categories of the data.",
        )
    secret = {question_key(message.conversation) for message in questions}
    traffic = [m for m in traffic if question_key(m.conversation) not in secret]
    return Stream(traffic, questions, sorted(kept), len(counted))


def even(messages: list[Message], size: int) -> list[Message]:
    """Up to `size` messages, taken from the categories in turn."""
    by_label: dict[str, list[Message]] = {}
    for message in messages:
        by_label.setdefault(message.label, []).append(message)
    found: list[Message] = []
    while by_label and len(found) < size:
        for label in sorted(by_label):
            found.append(by_label[label].pop())
            if not by_label[label]:
                del by_label[label]
    return found[:size]


def write_gold(path: Path, gold: list[Message]) -> None:
    """Write gold questions in the form that the gate reads."""
    write_jsonl(
        path,
        (
            {
                "id": f"{message.label}-{number}",
                "messages": message.conversation,
                "checks": [{"type": "normalised", "value": message.label}],
                "slice": message.label,
                "max_tokens": MAX_TOKENS,
            }
            for number, message in enumerate(gold, 1)
        ),
    )
