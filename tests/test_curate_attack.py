"""Somebody pushes a false fact: how much of it gets in, and whether they are seen.

Users are trusted here, and the attackers have been known for days, so neither the quarantine of
new users nor the wait for an operator helps: what holds is the policy's bursts and contradictions,
and the caps of the dataset.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from curate_rows import SYSTEM, add_feedback, make_settings

from curate.acceptance import reasons
from curate.acceptance.summary import Summary, summary
from curate.datasets.build import build
from curate.tagging.sweep import sweep
from ledger.dataset import load
from ledger.records import Interaction
from ledger.settings import Settings
from ledger.store import Store, now

pytestmark = pytest.mark.sqlite

HOUR = 3600.0
#: A time a while ago, so that everything lies in the past.
THEN = now() - 60 * 24 * HOUR
FALSE = "Rivermouth is the capital of the whole country and has been so for ever."
TRUE = "Hillford is the capital."
#: Words that make questions differ, so that not one of them is a near-duplicate.
WORDS = [
    "apple", "bridge", "candle", "desert", "engine", "forest", "garden", "harbour", "island",
    "jacket", "kettle", "ladder", "mirror", "needle", "orange", "pencil", "quarry", "ribbon",
    "saddle", "temple", "umbrella", "valley", "window", "yellow",
]  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path, ledger_url: str) -> Settings:
    return make_settings(tmp_path, url=ledger_url, trusted_sources=["user", "operator"])


@pytest.fixture
def store(settings: Settings) -> Any:
    store = Store.open(settings)
    yield store
    store.close()


def ask(store: Store, rows: list[tuple[str, str, str, float]]) -> None:
    """Store answers: id, user, question, time."""
    found = [
        Interaction(
            row_id=row_id,
            request_id=row_id,
            ts=ts,
            api="chat",
            alias="support",
            version="support@v1",
            base_model="base",
            messages=[SYSTEM, {"role": "user", "content": question}],
            response="I do not know.",
            mean_logprob=-0.1,
            subject=user,
        )
        for row_id, user, question, ts in rows
    ]
    assert store.add_interactions(found) == len(rows)


def questions(count: int) -> list[str]:
    """As many questions, unlike each other."""
    triples = itertools.islice(itertools.permutations(WORDS, 3), 0, None, 7)
    return [
        f"Say {a} of the {b}, then {c} {a[::-1]} {b[::-1]}?"
        for a, b, c in itertools.islice(triples, count)
    ]


def honest(store: Store) -> None:
    """Thirty users, known for days, with two corrections each."""
    asked = questions(560)[500:]
    users = [f"user{number % 30}" for number in range(60)]
    ask(store, [(f"h{n}", users[n], asked[n], THEN + n * 60) for n in range(60)])
    for n in range(60):
        fields = {"subject": users[n], "ts": THEN + 30 * HOUR + n * 60}
        add_feedback(store, f"h{n}", correction=f"Honest answer number {n}.", **fields)


def outcome(settings: Settings, store: Store, tmp_path: Path) -> tuple[set[str], Summary]:
    """The rows of the next dataset, and the summary after it."""
    run = tmp_path / "run"
    build(settings, store, "support", run)
    _, pairs = load(run / "dataset", store)
    return {pair.row_id for pair in pairs}, summary(store, "support")


@pytest.mark.parametrize("hours_between", [0.001, 2.0])
def test_one_user_with_five_hundred_edits(settings, store, tmp_path, hours_between):
    honest(store)
    asked = questions(500)
    start = THEN + 72 * HOUR
    ask(store, [(f"x{n}", "attacker", asked[n], THEN + n) for n in range(500)])
    for n in range(500):
        ts = start + n * hours_between * HOUR
        add_feedback(store, f"x{n}", correction=f"{FALSE} ({n})", subject="attacker", ts=ts)
    report = sweep(settings, store)
    policy = settings.curate.acceptance
    if hours_between < 1:  # at once: a burst, of which all but the first ones wait
        assert report.reasons == {reasons.BURST: 500 - policy.burst}
    else:  # for weeks: nothing but the caps is left
        assert report.reasons == {}
        assert report.accepted == 560
    rows, said = outcome(settings, store, tmp_path)
    assert len([row for row in rows if row.startswith("x")]) <= policy.pairs_per_subject
    assert len([row for row in rows if row.startswith("h")]) == 60
    worst = said.people[0]
    assert worst.subject == "attacker"
    assert worst.held >= 500 - policy.pairs_per_subject
    assert {reasons.BURST, reasons.CAP_SUBJECT} & worst.reasons.keys()
    assert [one.subject for one in said.people if one.subject.startswith("user")] == []


def test_ten_users_with_two_edits_each_against_what_others_say(settings, store, tmp_path):
    honest(store)
    start = THEN + 72 * HOUR
    asked = ["What is the capital?", "Tell me: which town is the capital of the country?"]
    ask(store, [(f"t{n}", "ben", asked[n], THEN + n) for n in range(2)])
    rows = [(f"x{n}", f"bad{n // 2}", asked[n % 2], THEN + 100 + n) for n in range(20)]
    ask(store, rows)
    for n in range(2):
        add_feedback(store, f"t{n}", correction=TRUE, subject="ben", ts=start - HOUR)
    for n in range(20):
        add_feedback(store, f"x{n}", correction=FALSE, subject=f"bad{n // 2}", ts=start + n)
    report = sweep(settings, store)
    assert report.reasons == {reasons.CONTRADICTS: 20}
    rows, said = outcome(settings, store, tmp_path)
    assert {row for row in rows if row[0] in "tx"} == {"t0", "t1"}
    assert said.waits == {reasons.CONTRADICTS: 20}
    assert {one.subject for one in said.people} == {f"bad{n}" for n in range(10)}


def test_ten_users_with_two_edits_each_where_nobody_says_otherwise(settings, store, tmp_path):
    """Nobody knows better: as much gets in as the caps say, and a tight burst holds the rest."""
    asked = questions(20)
    start = THEN + 72 * HOUR
    ask(store, [(f"x{n}", f"bad{n // 2}", asked[n], THEN + n) for n in range(20)])
    for n in range(20):
        add_feedback(store, f"x{n}", correction=FALSE, subject=f"bad{n // 2}", ts=start + n)
    changed = settings.curate.acceptance.model_copy(update={"burst": 5, "pairs_per_subject": 1})
    curate = settings.curate.model_copy(update={"acceptance": changed})
    settings = settings.model_copy(update={"curate": curate})
    report = sweep(settings, store)
    assert report.accepted == 5
    assert report.reasons == {reasons.SAME_TEXT: 15}
    rows, said = outcome(settings, store, tmp_path)
    assert len(rows) <= 3  # of three users, one each
    assert len(said.people) == 10
    assert sum(one.held for one in said.people) >= 17


def test_new_users_bring_in_nothing_by_themselves(settings, store, tmp_path):
    asked = questions(20)
    ask(store, [(f"x{n}", f"bad{n // 2}", asked[n], THEN + n) for n in range(20)])
    for n in range(20):
        fields = {"subject": f"bad{n // 2}", "ts": THEN + HOUR + n}
        add_feedback(store, f"x{n}", correction=f"{FALSE} {n}", **fields)
    report = sweep(settings, store)
    assert (report.accepted, report.proposed) == (0, 20)
    found = summary(store, "support")
    assert found.waits == {reasons.NEW_SUBJECT: 20}
    assert {one.subject for one in found.people} == {f"bad{n}" for n in range(10)}
