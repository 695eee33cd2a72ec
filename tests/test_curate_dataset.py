"""How candidates become a dataset: near-duplicates, caps, replay and what is held out; on real
ledgers."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import MakeSettings
from curate_rows import add_feedback, add_row
from curate_versions import publish, write_key

from curate.datasets import reasons
from curate.datasets.build import build, collect
from ledger.database import tables
from ledger.deployments import Deployments
from ledger.files import write_jsonl
from ledger.records import Correction, Source
from ledger.settings import Settings
from ledger.store import Store, now

LONG = (
    "I ordered a pair of brown leather shoes two weeks ago and the parcel service says it was "
    "delivered to a neighbour whom nobody in this house has ever heard of, so where is it now"
)


@pytest.fixture(autouse=True)
def _key(tmp_path: Path) -> None:
    """The same key each time: what is held out, and what similarity is estimated, hangs on it."""
    write_key(tmp_path / "var/keys/subject.key")


def correct(
    store: Store, row_id: str, text: str, *, source: Source = "operator", author: str = "op"
) -> None:
    store.add_correction(
        Correction(
            row_id=row_id, ts=now(), source=source, author=author, text=text, decision="accepted"
        )
    )


def say(store: Store, row_id: str, action: str, who: str, role: str = "operator") -> None:
    with store.transaction() as connection:
        connection.execute(
            sa.insert(tables.reviews).values(
                row_id=row_id, ts=now(), who=who, role=role, action=action, why=""
            )
        )


def questions(count: int, start: int = 0) -> list[str]:
    """Questions that are nothing like each other: no two share a 5-gram."""
    letters = "bcdfghjklmnpqrstvwxz"
    return [
        " ".join(f"{letters[(n // 20) % 20]}{vowel}{letters[n % 20]}u" * 2 for vowel in "aeio")
        for n in range(start, start + count)
    ]


def answers(store: Store, settings: Settings) -> dict[str, str]:
    pairs = collect(settings, store, "support").pairs
    return {pair.row_id: pair.messages[-1]["content"] for pair in pairs}


# -- nearly the same question ----------------------------------------------------------------------


def test_nearly_the_same_question_with_the_same_answer_is_kept_once(
    settings: Settings, store: Store
) -> None:
    add_row(store, "first", LONG, ts=1.0)
    add_row(store, "again", LONG + " please", ts=2.0)
    add_row(store, "other", "Can I pay by invoice?", ts=3.0)
    for row_id in ("first", "again", "other"):
        correct(store, row_id, "delivery")
    pool = collect(settings, store, "support")
    assert [pair.row_id for pair in pool.pairs] == ["first", "other"]
    assert pool.left_out == {reasons.NEAR: ["again"]}


@pytest.mark.sqlite
def test_how_near_is_a_setting(make_settings: MakeSettings, store: Store) -> None:
    add_row(store, "first", LONG, ts=1.0)
    add_row(store, "again", LONG + " please", ts=2.0)
    for row_id in ("first", "again"):
        correct(store, row_id, "delivery")
    settings = make_settings(curate={"dataset": {"near_duplicate": 1}})
    assert list(answers(store, settings)) == ["first", "again"]


@pytest.mark.sqlite
def test_nearly_the_same_question_may_have_two_answers_but_no_operator_is_contradicted(
    settings: Settings, store: Store
) -> None:
    one_word = LONG.replace("brown leather shoes", "black rubber boots")
    for number, text in enumerate((LONG, one_word)):
        add_row(store, f"r{number}", text, ts=float(number))
        correct(store, f"r{number}", f"answer {number}", source="user", author=f"s{number}")
    assert list(answers(store, settings)) == ["r0", "r1"]
    add_row(store, "op", LONG.replace("brown", "brwon"), ts=3.0)
    correct(store, "op", "the operator's")
    pool = collect(settings, store, "support")
    assert [pair.row_id for pair in pool.pairs] == ["r1", "op"]
    assert pool.left_out == {reasons.CONTRADICTED: ["r0"]}


@pytest.mark.sqlite
def test_of_almost_equal_questions_the_newest_answer_of_users_holds(
    settings: Settings, store: Store
) -> None:
    for number, text in enumerate((LONG, LONG + " yy", LONG + " x")):
        add_row(store, f"r{number}", text, ts=float(number))
    for number in (2, 1, 0):
        correct(store, f"r{number}", f"answer {number % 2}", source="user", author=f"s{number}")
    pool = collect(settings, store, "support")
    assert [pair.row_id for pair in pool.pairs] == ["r0"]
    assert pool.left_out == {reasons.CONTRADICTED: ["r1"], reasons.NEAR: ["r2"]}


@pytest.mark.sqlite
def test_a_conversation_that_is_long_does_not_make_two_questions_one(
    settings: Settings, store: Store
) -> None:
    turns = [{"role": "user", "content": LONG}, {"role": "assistant", "content": LONG[::-1]}] * 3
    for number, last in enumerate(("And my refund?", "Shall I call the neighbour?")):
        messages = [*turns, {"role": "user", "content": last}]
        add_row(store, f"r{number}", messages=messages, ts=float(number))
        correct(store, f"r{number}", "yes")
    assert list(answers(store, settings)) == ["r0", "r1"]


def test_what_is_nearly_a_gold_question_never_trains(
    make_settings: MakeSettings, store: Store, tmp_path: Path
) -> None:
    gold = {"id": "g", "messages": [{"role": "user", "content": LONG}]}
    write_jsonl(tmp_path / "gold.jsonl", [gold | {"checks": [{"type": "exact", "value": "x"}]}])
    settings = make_settings(
        aliases={"support": {"gate": {"gold": [str(tmp_path / "gold.jsonl")]}}}
    )
    add_row(store, "near", LONG.replace("two weeks", "three weeks"))
    add_row(store, "equal", LONG.upper())
    add_row(store, "good", "Can I pay by invoice?")
    for row_id in ("near", "equal", "good"):
        correct(store, row_id, "delivery")
    pool = collect(settings, store, "support")
    assert [pair.row_id for pair in pool.pairs] == ["good"]
    assert pool.left_out == {reasons.NEAR_GOLD: ["near"], reasons.GOLD: ["equal"]}


# -- caps ------------------------------------------------------------------------------------------


def by_users(store: Store, counts: dict[str, int], start: int = 0) -> None:
    """Corrections of users on questions of their own, accepted."""
    asked = iter(questions(sum(counts.values()), start))
    for user, count in counts.items():
        for number in range(count):
            row_id = f"{user}-{start + number}"
            add_row(store, row_id, next(asked), ts=float(start + number), subject=user)
            correct(store, row_id, f"the moon is cheese {row_id}", source="user", author=user)


def owners(store: Store, settings: Settings) -> dict[str, int]:
    found: dict[str, int] = {}
    for pair in collect(settings, store, "support").pairs:
        found[pair.author] = found.get(pair.author, 0) + 1
    return found


def capped(make: MakeSettings, **caps: int) -> Settings:
    return make(curate={"acceptance": caps})


def test_one_user_brings_in_only_so_many_pairs(make_settings: MakeSettings, store: Store) -> None:
    settings = capped(make_settings, pairs_per_subject=3)
    by_users(store, {"attacker": 40, "ada": 2, "anonymous": 5})
    assert owners(store, settings) == {"attacker": 3, "ada": 2, "anonymous": 3}
    left_out = collect(settings, store, "support").left_out
    assert len(left_out[reasons.SUBJECT]) == 37 + 2
    correct(store, "attacker-39", "an operator's words")
    assert owners(store, settings) == {"attacker": 3, "ada": 2, "anonymous": 3, "op": 1}


@pytest.mark.sqlite
def test_building_again_brings_in_no_more_until_it_is_live(
    make_settings: MakeSettings, store: Store, tmp_path: Path
) -> None:
    settings = capped(make_settings, pairs_per_subject=3, pairs_per_subject_ever=5)
    by_users(store, {"attacker": 10})
    for number in range(3):
        manifest = build(settings, store, "support", tmp_path / f"run{number}")
        assert manifest.pairs == 3
    version = publish(settings, manifest)
    assert owners(store, settings) == {"attacker": 3}
    Deployments(store).promote("support", version, who="op", why="")
    assert owners(store, settings) == {"attacker": 5}
    left_out = collect(settings, store, "support").left_out
    assert len(left_out[reasons.SUBJECT_EVER]) == 5


@pytest.mark.sqlite
def test_a_cluster_takes_only_so_many_and_whoever_was_in_stays_in(
    make_settings: MakeSettings, store: Store, tmp_path: Path
) -> None:
    settings = capped(make_settings, pairs_per_cluster=4)
    by_users(store, {"ada": 2, "ben": 1})
    add_row(store, "op", questions(1, 300)[0])
    correct(store, "op", "an operator's words")
    clusters = dict.fromkeys(("ada-0", "ada-1", "ben-0", "op"), 7)
    in_clusters(store, clusters)
    assert build(settings, store, "support", tmp_path / "run").pairs == 4
    users = {f"sybil{number}": 2 for number in range(10)}
    by_users(store, users, start=100)
    in_clusters(store, {f"{user}-{n}": 7 for user in users for n in (100, 101)})
    correct(store, "ada-1", "worded anew", source="user", author="ada")
    assert owners(store, settings) == {"ada": 2, "ben": 1, "op": 1, "sybil0": 1}
    left_out = collect(settings, store, "support").left_out
    assert len(left_out[reasons.CLUSTER]) == 19


def in_clusters(store: Store, clusters: dict[str, int]) -> None:
    with store.transaction() as connection:
        for row_id, cluster in clusters.items():
            values = {"row_id": row_id, "alias": "support", "cluster": cluster, "ts": 1.0}
            values |= {"traffic": False, "weight": 1.0}
            connection.execute(sa.insert(tables.cluster_rows).values(values))


# -- replay ----------------------------------------------------------------------------------------


@pytest.fixture
def half(make_settings: MakeSettings) -> Settings:
    return make_settings(curate={"dataset": {"replay_share": 0.5}})


def test_good_answers_are_replayed_where_somebody_with_a_say_called_them_good(
    half: Settings, store: Store
) -> None:
    asked = questions(9)
    for number, question in enumerate(asked):
        add_row(store, f"r{number}", question, f"said {number}", ts=float(number))
    for number in (0, 1, 2, 3, 4):
        correct(store, f"r{number}", "right")
    say(store, "r5", "good", "ada")
    for who in ("ben", "eve"):
        say(store, "r6", "good", who, role="reviewer")
    say(store, "r7", "good", "ben", role="reviewer")  # one of two
    say(store, "r8", "good", "ada")
    say(store, "r8", "undo", "ada")
    add_feedback(store, "r8", rating="up")  # a vote
    say(store, "r0", "good", "ada")  # and yet it was corrected
    pairs = {pair.row_id: pair for pair in collect(half, store, "support").pairs}
    assert sorted(pairs) == [f"r{number}" for number in range(7)]
    assert pairs["r5"].messages[-1]["content"] == "said 5"
    assert (pairs["r5"].kind, pairs["r5"].rejected, pairs["r5"].author) == ("replay", None, "ada")
    assert {pairs[f"r{number}"].kind for number in range(5)} == {"correction"}
    say(store, "r5", "reject", "ben")  # a proposed text: that speaks for the answer
    assert "r5" in answers(store, half)
    say(store, "r5", "accept", "eve", role="reviewer")  # who wants another text
    assert "r5" not in answers(store, half)


@pytest.mark.sqlite
@pytest.mark.parametrize("threshold", [0.85, 1.0])
def test_no_good_answer_stands_beside_a_correction_of_its_question(
    threshold: float, make_settings: MakeSettings, store: Store
) -> None:
    share = {"replay_share": 0.5, "near_duplicate": threshold}
    for number, question in enumerate(("Where is it?", "where IS it", "And my refund?", "And?")):
        add_row(store, f"r{number}", question, f"said {number}", ts=float(number))
    for number in (0, 2):
        correct(store, f"r{number}", "right")
    for number in (1, 3):
        say(store, f"r{number}", "good", "ada")
    found = answers(store, make_settings(curate={"dataset": share}))
    assert found == {"r0": "right", "r2": "right", "r3": "said 3"}


@pytest.mark.sqlite
def test_the_share_of_replay_is_an_upper_limit_and_the_choice_is_stable(
    make_settings: MakeSettings, store: Store
) -> None:
    settings = make_settings(curate={"dataset": {"replay_share": 0.2}})
    for number, question in enumerate(questions(60)):
        add_row(store, f"r{number}", question, f"said {number}", ts=float(number))
        if number < 8:
            correct(store, f"r{number}", "right")
        elif number < 30:
            say(store, f"r{number}", "good", "ada")

    def replayed() -> set[str]:
        pairs = collect(settings, store, "support").pairs
        return {pair.row_id for pair in pairs if pair.kind == "replay"}

    first = replayed()
    assert len(first) == 2  # of ten
    for number in range(30, 34):
        correct(store, f"r{number}", "right")
    assert first < replayed()
    assert len(replayed()) == 3


# -- what is held out ------------------------------------------------------------------------------


def held_out(store: Store, settings: Settings) -> set[str]:
    pairs = collect(settings, store, "support").pairs
    return {pair.row_id for pair in pairs if pair.split == "heldout"}


@pytest.mark.sqlite
def test_conversations_are_held_out_whole_and_stay_so(
    make_settings: MakeSettings, store: Store
) -> None:
    settings = make_settings(curate={"dataset": {"heldout_share": 0.25}})
    asked = questions(160)

    def add(numbers: range) -> None:
        for number in numbers:
            session = f"{number // 3:032x}"
            add_row(store, f"r{number}", asked[number], ts=float(number), session=session)
            correct(store, f"r{number}", "right")

    add(range(48))
    assert held_out(store, settings) == set()  # each of so few is needed
    add(range(48, 120))
    first = held_out(store, settings)
    assert 10 < len(first) < 50
    assert {int(one[1:]) // 3 for one in first} == {n // 3 for n in range(120) if f"r{n}" in first}
    assert len(first) == 3 * len({int(one[1:]) // 3 for one in first})
    add(range(120, 159))
    later = held_out(store, settings)
    assert first < later
    assert {one for one in later if int(one[1:]) < 120} == first
    # One who asks nearly what is held out, and is trained on: both are trained on.
    row_id = sorted(first)[0]
    number, session = (
        int(row_id[1:]),
        next(f"{n:032x}" for n in range(100, 200) if not is_held(store, f"{n:032x}")),
    )
    add_row(store, "near", asked[number] + " ba", ts=500.0, session=session)
    correct(store, "near", "something else")
    conversation = {f"r{n}" for n in range(160) if n // 3 == number // 3}
    assert held_out(store, settings) == later - conversation


def is_held(store: Store, session: str) -> bool:
    return int(store.mac("split", session.encode())[:16], 16) < 0.25 * 2**64
