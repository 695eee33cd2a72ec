"""The questions of a set of past failures: corrected rows that no version was trained on.

They are the pairs that the alias's datasets hold out (`ledger.dataset`, by conversation). What any
dataset ever trained on is left out, so that a version is never asked what it was taught.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ledger import dataset
from ledger.checks import Normalised, normalise
from ledger.dataset import Pair
from ledger.errors import DatasetError
from ledger.gold import GoldQuestion
from ledger.packs import FailureSet
from ledger.store import Store


class Failures(NamedTuple):
    """What was found.

    Attributes:
        users: the subject who wrote the correction, by row, where a user did.
        left_out: rows that only a judge can score, where there is none.
    """

    questions: list[GoldQuestion]
    users: dict[str, str]
    left_out: int


def failures(
    store: Store, alias: str, rules: FailureSet, *, run_dir: Path | None, judged: bool
) -> Failures:
    """The newest held-out corrections, oldest first.

    Args:
        run_dir: of the run whose version is judged; its dataset counts, too.
        judged: whether there is a judge for the long ones.

    Raises:
        DatasetError: a dataset is damaged.
    """
    trained: set[str] = set()
    heldout: dict[str, Path] = {}
    for folder in _folders(store, alias, run_dir):
        for line in dataset.open_parts(folder):
            if line.get("split") == "heldout" and line.get("kind") == "correction":
                heldout.pop(line["row_id"], None)  # to the end: the newest dataset's order
                heldout[line["row_id"]] = folder
            else:
                trained.add(line["row_id"])
    wanted = [row_id for row_id in heldout if row_id not in trained][-rules.most :]
    by_folder: dict[Path, set[str]] = {}
    for row_id in wanted:
        by_folder.setdefault(heldout[row_id], set()).add(row_id)
    pairs = {
        pair.row_id: pair
        for folder, ids in by_folder.items()
        for pair in dataset.opened(folder, store, ids)
    }
    conversations = store.conversations(wanted)
    questions, left_out = [], 0
    for row_id in wanted:
        if row_id not in pairs:
            continue  # somebody was forgotten
        question = _question(pairs[row_id], conversations.get(row_id), rules)
        if question is None:
            continue
        if question.checks or judged:
            questions.append(question)
        else:
            left_out += 1
    users = {q.id: user for q in questions if (user := pairs[q.id].user) is not None}
    return Failures(questions, users, left_out)


def _folders(store: Store, alias: str, run_dir: Path | None) -> list[Path]:
    """Datasets of an alias that are there, oldest first, the run's own last."""
    own = None if run_dir is None else run_dir / "dataset"
    found = [Path(one.path) for one in store.datasets(alias)]
    found = [folder for folder in dict.fromkeys(found) if own is None or folder != own]
    if own is not None:
        found.append(own)
    return [folder for folder in found if (folder / dataset.MANIFEST).exists()]


def _question(pair: Pair, conversation: str | None, rules: FailureSet) -> GoldQuestion | None:
    """A pair as a question; None where it is none that can be asked and scored."""
    right = pair.messages[-1].get("content")
    asked = pair.prompt[-1].get("role")
    if not isinstance(right, str) or not right.strip() or asked not in ("user", "tool"):
        return None
    short = len(right) < rules.judged_from and normalise(right)
    try:
        return GoldQuestion(
            id=pair.row_id,
            messages=pair.prompt,
            checks=[Normalised(type="normalised", value=right)] if short else [],
            reference=None if short else right,
            slice="no cluster" if pair.cluster is None else f"cluster {pair.cluster}",
            tools=pair.tools,
            chat_template_kwargs=pair.chat_template_kwargs,
            conversation=conversation,
        )
    except ValueError as error:
        raise DatasetError(f"the pair of row {pair.row_id} is no question: {error}") from error
