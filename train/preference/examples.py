"""The examples of the second stage, as ids, proved as those of the first."""

from __future__ import annotations

from typing import NamedTuple

from ledger.dataset import Pair
from ledger.errors import ConfigError, DatasetError
from ledger.fingerprint import template_hash
from train import base, data
from train.job import Job

_FEWEST = 8  # examples worth a second stage
#: Reasons why a row has no example.
NOTHING_REJECTED = "no answer was rejected"
SAME = "the rejected answer is the chosen one"


class Example(NamedTuple):
    """One example as ids: a prompt, and what was chosen and rejected; kto has one of the two."""

    row_id: str
    prompt: list[int]
    chosen: list[int] | None
    rejected: list[int] | None

    @property
    def size(self) -> int:
        """Tokens of its longest sequence."""
        return len(self.prompt) + max(len(self.chosen or ()), len(self.rejected or ()))

    @property
    def tokens(self) -> int:
        """Tokens of all its sequences."""
        return sum(len(self.prompt) + len(one) for one in (self.chosen, self.rejected) if one)


class Examples(NamedTuple):
    """The examples, and reason → row id → detail of rows that have none."""

    rows: list[Example]
    left_out: dict[str, dict[str, str]]


def examples(todo: Job) -> Examples:
    """The examples of the second stage, proved.

    Raises:
        ConfigError: the batches are too small for the method, or the processes too many.
        DatasetError: there are too few of them.
    """
    method = todo.settings.train.preference
    if method == "kto" and todo.settings.train.batch_size < 2:
        raise ConfigError(
            "train.preference is kto and train.batch_size 1",
            rule="KTO estimates the KL to the reference from the other examples of a batch.",
            remedy="Set train.batch_size to 2 or more.",
        )
    if todo.settings.train.processes > 1:
        raise ConfigError(
            f"train.preference is {method} and train.processes {todo.settings.train.processes}",
            rule="The second stage runs in one process.",
            remedy="Set train.processes to 1, or train.preference to none.",
        )
    left: dict[str, dict[str, str]] = {}
    chosen = {row.row_id: row for row in todo.prepared.rows}
    wanted = [todo.pairs[row_id] for row_id in chosen]
    rejected = _rejected(todo, [*wanted, *_votes(todo)], left)
    found: list[Example] = []
    if method == "dpo":
        for row_id, better in chosen.items():
            if (worse := rejected.get(row_id)) is None:
                continue
            if worse.ids[: better.prompt] != better.ids[: better.prompt]:
                left.setdefault("prompt is not the same", {})[row_id] = ""
                continue
            prompt = better.ids[: better.prompt]
            ids = [one.ids[one.prompt :] for one in (better, worse)]
            found.append(Example(row_id, prompt, *ids))
    else:
        for row in chosen.values():
            found.append(Example(row.row_id, row.ids[: row.prompt], row.ids[row.prompt :], None))
        for row in rejected.values():
            found.append(Example(row.row_id, row.ids[: row.prompt], None, row.ids[row.prompt :]))
    _enough(method, found)
    return Examples(found, left)


def _voted(pair: Pair) -> bool:
    return pair.kind == "disliked"


def _votes(todo: Job) -> list[Pair]:
    """Answers that were voted down, where they count."""
    if todo.settings.train.preference != "kto":
        return []
    return [pair for pair in todo.frozen if _voted(pair) and pair.split == "train"]


def _rejected(todo: Job, pairs: list[Pair], left: dict[str, dict[str, str]]) -> dict[str, data.Row]:
    """What was rejected of some pairs, as examples; the others are listed in `left`."""
    said: list[Pair] = []
    for pair in pairs:
        bad = pair.messages[-1].get("content") if _voted(pair) else pair.rejected
        text = str(bad or "").strip()
        if not text:
            left.setdefault(NOTHING_REJECTED, {})[pair.row_id] = (
                "it was good already" if pair.kind == "replay" else "the answer was empty"
            )
        elif not _voted(pair) and text == str(pair.messages[-1].get("content")).strip():
            left.setdefault(SAME, {})[pair.row_id] = ""
        else:
            answer = {"role": "assistant", "content": text}
            said.append(pair.model_copy(update={"messages": [*pair.prompt, answer]}))
    prepared = data.prepare(
        said,
        todo.tokenizer,
        todo.max_length,
        template_hash(todo.folder),
        stop_ids=base.stop_ids(todo.folder),
    )
    for reason, rows in prepared.problems.items():
        left.setdefault(f"rejected answer: {reason}", {}).update(rows)
    return {row.row_id: row for row in prepared.rows}


def _enough(method: str, found: list[Example]) -> None:
    """There is something to prefer.

    Raises:
        DatasetError: there is not.
    """
    bad = sum(one.rejected is not None for one in found)
    if bad < _FEWEST:
        raise DatasetError(
            f"train.preference is {method}, and {bad} answers of the dataset were rejected",
            rule=f"A second stage needs at least {_FEWEST}.",
            remedy="Collect more edits, or set train.preference to none.",
        )
