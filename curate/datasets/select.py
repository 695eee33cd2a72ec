"""Which candidates become a dataset: gold kept out, duplicates removed, caps, replay, the split.

In this order:

1. What can never be a pair is left out, and so are gold questions and their near-duplicates.
2. One question has one answer. The newest correction by an operator holds, else the newest; the
   same question with the same answer is kept once, as its first row.
3. Of nearly the same questions with the same answer the first row is kept. With different
   answers both are kept, but an operator's correction pushes out those of others, and of others'
   corrections of questions that are almost equal the newest holds.
4. Caps: one user, and one cluster, bring in only so many pairs at a time (`History`).
5. Answers that were good already are added, as many as the settings' share. Where KTO is trained
   with, answers that were voted down, too: one a question, as many of one user as may come from
   one, in all no more than there are corrections.
6. Conversations are held out whole, by a keyed hash, so that one stays where it is as data grow.
   One whose question is nearly that of a pair that is trained on is not held out.

Pure: everything comes in as arguments, and the same arguments give the same dataset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from curate.datasets import reasons
from curate.datasets.candidates import Candidate
from curate.datasets.near import links
from ledger.dataset import Split
from ledger.records import ANONYMOUS
from ledger.settings import Curate

#: From this similarity on two questions count as one where nobody with a say answered them.
_ALMOST_EQUAL = 0.95
#: Below so many pairs nothing is held out: each of them is needed, and the loss would be noise.
LEAST_TO_HOLD_OUT = 50


class Gold(NamedTuple):
    """The gold questions of an alias: keyed hashes, and their signatures."""

    keys: frozenset[str]
    signatures: list[bytes]


class History(NamedTuple):
    """What was in datasets before, as row ids.

    Attributes:
        trained: rows of the dataset that the live version was trained on. The caps count what is
            new beyond it, so that building, training and failing the gate again and again brings
            in no more than doing so once.
        before: rows of the last dataset; they come first where a cap is reached.
    """

    trained: Collection[str] = frozenset()
    before: Collection[str] = frozenset()


class Chosen(NamedTuple):
    """A pair of the next dataset."""

    candidate: Candidate
    split: Split


class Selection(NamedTuple):
    """What was chosen, in the order of the rows' time.

    Attributes:
        left_out: row ids by reason, the rows in the order of their time.
        capped: users at their caps, and how many of their pairs were left out.
        spare: good answers that are not replayed: no room, or nearly the same as another pair.
    """

    chosen: list[Chosen]
    left_out: dict[str, list[str]]
    capped: dict[str, int]
    spare: int


class _Left:
    """Collects what is left out."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def out(self, one: Candidate, reason: str) -> None:
        self.reasons[one.row_id] = reason

    def rest(self, items: Iterable[Candidate]) -> list[Candidate]:
        return [one for one in items if one.row_id not in self.reasons]


def select(
    found: Iterable[Candidate],
    gold: Gold,
    settings: Curate,
    history: History,
    clusters: Mapping[str, int | None],
    mac: Callable[[str, bytes], str],
) -> Selection:
    """Choose; see the module.

    Args:
        found: each row at most once, in any order.
        clusters: of rows; those that are not there count as like nothing known.
        mac: the ledger's keyed hash.
    """
    everything = sorted(found, key=lambda one: (one.ts, one.row_id))
    left, threshold = _Left(), settings.dataset.near_duplicate
    _without_gold(everything, gold, threshold, left)
    usable = left.rest(everything)
    corrected = [one for one in usable if one.kind == "correction"]
    _one_answer(corrected, left)
    corrected = left.rest(corrected)
    good = _best_of_equal([one for one in usable if one.kind == "replay"], corrected)
    voted = _best_of_equal([one for one in usable if one.kind == "disliked"], corrected)
    by_rank = sorted(corrected, key=lambda one: one.source != "operator")
    near = _Near([*by_rank, *good, *voted], threshold)
    _operators_hold(corrected, near, left)
    corrected = left.rest(corrected)
    _without_near(corrected, near, left)
    corrected = left.rest(corrected)
    capped = _capped(corrected, settings, history, clusters, left)
    corrected = left.rest(corrected)
    spare = sum(one.kind == "replay" for one in usable)
    _without_near(good, near, left, beside=corrected)
    good = left.rest(good)
    replayed = _replay(good, len(corrected), settings.dataset.replay_share, mac)
    _without_near(voted, near, left, beside=[*corrected, *good])
    voted = _votes(left.rest(voted), len(corrected), settings.acceptance.pairs_per_subject)
    pairs = sorted([*corrected, *replayed, *voted], key=lambda one: (one.ts, one.row_id))
    held = _held_out(pairs, near, settings.dataset.heldout_share, mac)
    left_out: dict[str, list[str]] = {}
    for one in everything:
        # A good answer that is not needed is no correction that somebody waits for.
        if one.kind == "correction" and (reason := left.reasons.get(one.row_id)) is not None:
            left_out.setdefault(reason, []).append(one.row_id)
    chosen = [Chosen(one, "heldout" if one.row_id in held else "train") for one in pairs]
    return Selection(chosen, left_out, dict(capped), spare - len(replayed))


class _Near:
    """Candidates whose questions are near.

    Args:
        items: those that others are compared with first stand first.
        threshold: 1 says that only equal questions count, and those are known already.
    """

    def __init__(self, items: list[Candidate], threshold: float) -> None:
        self._items = items
        self._numbers = {one.row_id: number for number, one in enumerate(items)}
        signatures = [one.signature for one in items] if threshold < 1 else []
        self._links = links(signatures, threshold)

    def of(self, one: Candidate) -> Iterator[tuple[Candidate, float]]:
        """Others whose question is near, and how near."""
        for number, alike in self._links.near(self._numbers[one.row_id]).items():
            yield self._items[number], alike


def _without_gold(items: list[Candidate], gold: Gold, threshold: float, left: _Left) -> None:
    usable = []
    for one in items:
        if one.problem:
            left.out(one, one.problem)
        elif one.question in gold.keys:
            left.out(one, reasons.GOLD)
        else:
            usable.append(one)
    if threshold < 1 and gold.signatures:
        first = len(gold.signatures)
        signatures = [*gold.signatures, *(one.signature for one in usable)]
        near = links(signatures, threshold, only=first)
        for number, one in enumerate(usable, first):
            if near.near(number):
                left.out(one, reasons.NEAR_GOLD)


def _one_answer(items: list[Candidate], left: _Left) -> None:
    """Of equal questions keep one row, with the answer that holds."""
    questions: dict[str, list[Candidate]] = {}
    for one in items:
        questions.setdefault(one.question, []).append(one)
    for same in questions.values():
        holds = max(same, key=lambda one: (one.source == "operator", one.correction))
        first = next(one for one in same if one.answer == holds.answer)
        for one in same:
            if one is not first:
                equal = one.answer == holds.answer
                left.out(one, reasons.DUPLICATE if equal else reasons.CONTRADICTED)


def _best_of_equal(good: list[Candidate], corrected: list[Candidate]) -> list[Candidate]:
    """Good answers, one a question, none to a question that a correction answers."""
    taken = {one.question for one in corrected}
    found: dict[str, Candidate] = {}
    for one in good:
        if one.question not in taken:
            found.setdefault(one.question, one)
    return list(found.values())


def _operators_hold(items: list[Candidate], near: _Near, left: _Left) -> None:
    """Leave out what contradicts an operator, or a newer correction of an almost equal question."""
    heard: set[str] = set()  # rows whose answer has been compared with all before it
    for one in sorted(items, key=lambda one: (one.source != "operator", -one.correction)):
        others = [(other, alike) for other, alike in near.of(one) if other.row_id in heard]
        if one.source != "operator" and any(
            other.answer != one.answer and (other.source == "operator" or alike >= _ALMOST_EQUAL)
            for other, alike in others
        ):
            left.out(one, reasons.CONTRADICTED)
        else:
            heard.add(one.row_id)


def _without_near(
    items: list[Candidate], near: _Near, left: _Left, *, beside: Iterable[Candidate] = ()
) -> None:
    """Leave out later rows of nearly the same question with the same answer.

    Args:
        beside: given, nothing near to one of these stays, nor to an earlier row, whatever the
            answers.
    """
    beside = list(beside)
    kept = {one.row_id for one in beside}
    for one in items:
        if any(
            other.row_id in kept and (beside or other.answer == one.answer)
            for other, _ in near.of(one)
        ):
            left.out(one, reasons.NEAR)
        else:
            kept.add(one.row_id)


def _capped(
    items: list[Candidate],
    settings: Curate,
    history: History,
    clusters: Mapping[str, int | None],
    left: _Left,
) -> Counter[str]:
    """Leave out what is beyond the caps; the subjects concerned.

    What was in before stays in first, then the older correction comes before the newer: nobody
    pushes out the pairs of others. Users of whom nothing is known count as one.
    """
    caps = settings.acceptance
    fresh, ever, by_cluster = Counter[str](), Counter[str](), Counter[int | None]()
    capped = Counter[str]()

    def rank(one: Candidate) -> tuple[bool, bool, int]:
        row_id = one.row_id
        return (row_id not in history.trained, row_id not in history.before, one.correction)

    for one in sorted(items, key=rank):
        if one.source == "operator":
            continue
        user = (one.author or ANONYMOUS) if one.source == "user" else None
        cluster, new = clusters.get(one.row_id), one.row_id not in history.trained
        if user is not None and ever[user] >= caps.pairs_per_subject_ever:
            left.out(one, reasons.SUBJECT_EVER)
        elif user is not None and new and fresh[user] >= caps.pairs_per_subject:
            left.out(one, reasons.SUBJECT)
        elif new and by_cluster[cluster] >= caps.pairs_per_cluster:
            left.out(one, reasons.CLUSTER)
            continue
        else:
            by_cluster[cluster] += new
            if user is not None:
                ever[user] += 1
                fresh[user] += new
            continue
        assert user is not None
        capped[user] += 1
    return capped


def _replay(
    good: list[Candidate], pairs: int, share: float, mac: Callable[[str, bytes], str]
) -> list[Candidate]:
    """Good answers that make up the share of the whole; the same ones as far as they still fit."""
    room = int(pairs * share / (1 - share))
    return sorted(good, key=lambda one: mac("replay", one.row_id.encode()))[:room]


def _votes(voted: list[Candidate], pairs: int, of_one: int) -> list[Candidate]:
    """Answers that were voted down, the oldest first, so many of one user and in all."""
    counts = Counter[str]()
    found: list[Candidate] = []
    for one in voted:
        if len(found) < pairs and counts[one.author] < of_one:
            counts[one.author] += 1
            found.append(one)
    return found


def _held_out(
    pairs: list[Candidate], near: _Near, share: float, mac: Callable[[str, bytes], str]
) -> set[str]:
    """Rows that are not trained on: whole conversations, nothing near to what is trained on."""
    if len(pairs) < LEAST_TO_HOLD_OUT or not share:
        return set()
    limit = int(share * 2**64)
    names = {one.conversation for one in pairs}
    held = {name for name in names if int(mac("split", name.encode())[:16], 16) < limit}
    there = {one.row_id for one in pairs}
    beside: dict[str, set[str]] = {}  # of a held conversation, those that ask nearly the same
    for one in pairs:
        if one.conversation in held:
            found = {other.conversation for other, _ in near.of(one) if other.row_id in there}
            beside.setdefault(one.conversation, set()).update(found - {one.conversation})
    # What is near to a trained pair is trained on, and its conversation with it.
    while moved := {name for name in held if not beside[name] <= held}:
        held -= moved
    return {one.row_id for one in pairs if one.conversation in held}
