"""Versions in a real server: loaded, tried, promoted, taken back, while users go on asking."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from servers import Ours, wait_for

from benchmarks.adapters import publish_random_adapter
from ledger.deployments import Deployment
from ledger.registry import WEIGHTS
from serve.routing import route

QUESTIONS = [f"Question number {number}: where does it go?" for number in range(8)]


@pytest.fixture(scope="module")
def versions(ours: Ours) -> tuple[str, str]:
    """Two versions that answer differently."""
    one, two = (
        publish_random_adapter(ours.settings, "support", ours.model, seed) for seed in (1, 2)
    )
    return one.name, two.name


@pytest.fixture(autouse=True)
def back_to_the_base(ours: Ours) -> Iterator[None]:
    """Each test leaves the base model live."""
    yield
    state = ours.deployments.state("support")
    if state.candidate is not None:
        ours.follow(ours.deployments.withdraw("support", who="test", why="tidy up"))
    if state.live:
        ours.follow(ours.deployments.promote("support", 0, who="test", why="tidy up"))


def ask(ours: Ours, question: str, *, model: str = "support", user: str = "") -> Any:
    return ours.client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=8,
        user=user,
    )


def number(name: str) -> int:
    return int(name.rpartition("@v")[2])


class Users:
    """Users who ask until the block ends, each answer kept with its time of asking."""

    def __init__(self, ours: Ours) -> None:
        self._ours, self._stop = ours, threading.Event()
        self.answers: list[tuple[float, str, str, str]] = []
        self.failures: list[str] = []

    def _user(self, who: int) -> None:
        turn = who
        while not self._stop.is_set():
            turn += 1
            question = QUESTIONS[turn % len(QUESTIONS)]
            started = time.time()
            try:
                answer = ask(self._ours, question, user=f"user-{who}-{turn}")
            except Exception as error:  # any failure at all is what the test looks for
                if not self._stop.is_set():
                    self.failures.append(repr(error))
                continue
            text = answer.choices[0].message.content or ""
            self.answers.append((started, answer.id, answer.model, f"{question}|{text}"))

    @contextmanager
    def asking(self, count: int = 8) -> Iterator[None]:
        with ThreadPoolExecutor(count) as pool:
            for who in range(count):
                pool.submit(self._user, who)
            try:
                yield
            finally:
                self._stop.set()

    def wait(self, more: int) -> None:
        goal = len(self.answers) + more
        wait_for(lambda: len(self.answers) >= goal or bool(self.failures), f"{more} answers", 60)
        assert self.failures == []


def test_a_candidate_is_loaded_and_gets_nothing(ours: Ours, versions: tuple[str, str]) -> None:
    before = ask(ours, QUESTIONS[0])
    ours.deployments.candidate("support", number(versions[0]), who="test", why="")
    ours.server.wait_for_candidate("support", versions[0])
    assert versions[0] in [model.id for model in ours.client.models.list()]
    after = ask(ours, QUESTIONS[0])
    pinned = ask(ours, QUESTIONS[0], model=versions[0])
    assert after.model == before.model == "tiny"
    assert after.choices[0].message.content == before.choices[0].message.content
    assert pinned.model == versions[0]
    assert pinned.choices[0].message.content != before.choices[0].message.content


def test_a_canary_is_sticky_and_what_the_pure_function_says(
    ours: Ours, versions: tuple[str, str]
) -> None:
    change = ours.deployments.share("support", number(versions[0]), 50, who="test", why="")
    ours.follow(change)
    seen = {}
    for user in [f"person-{n}" for n in range(12)] * 2:
        answer = ask(ours, QUESTIONS[0], user=user)
        assert seen.setdefault(user, answer.model) == answer.model
        expected = route(change.after, user)
        assert answer.model == (versions[0] if expected.version else "tiny")
        row = ours.row(answer.id)
        assert (row.arm, row.deployment) == (expected.arm, change.event.seq)
        assert row.version == answer.model
    assert len(set(seen.values())) == 2


def test_versions_change_under_load_with_no_failure_and_no_mixture(
    ours: Ours, versions: tuple[str, str]
) -> None:
    numbers = [number(name) for name in versions]
    change = ours.deployments.promote("support", numbers[0], who="test", why="")
    ours.follow(change)
    ours.follow(ours.deployments.promote("support", numbers[1], who="test", why=""))
    alone = {
        (name, f"{question}|{ask(ours, question, model=name).choices[0].message.content}")
        for name in versions
        for question in QUESTIONS
    }
    assert len({text for _, text in alone}) == len(alone), "the versions answer alike"
    users = Users(ours)
    with users.asking(16):
        for turn in range(12):
            ours.follow(ours.deployments.promote("support", numbers[turn % 2], who="test", why=""))
            users.wait(10)
    assert users.failures == []
    assert {(version, text) for _, _, version, text in users.answers} <= alone
    assert len({version for _, _, version, _ in users.answers}) == 2
    for _, request_id, version, _ in users.answers[-5:]:
        assert ours.row(request_id).version == version


def test_a_rollback_is_obeyed_within_two_seconds(ours: Ours, versions: tuple[str, str]) -> None:
    ours.follow(ours.deployments.promote("support", number(versions[0]), who="test", why=""))
    users = Users(ours)
    with users.asking():
        users.wait(20)
        rolled_back = time.time()
        ours.deployments.rollback("support", who="test", why="it was worse")
        wait_for(lambda: users.answers[-1][2] == "tiny", "an answer by the base", 60)
        users.wait(30)
    late = [started for started, _, version, _ in users.answers if version == versions[0]]
    assert max(late) - rolled_back < 2
    assert users.failures == []


def test_a_broken_version_is_named_and_gets_no_traffic(ours: Ours) -> None:
    broken = publish_random_adapter(ours.settings, "support", ours.model, 3)
    weights = broken.path / WEIGHTS
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    change = ours.deployments.share("support", number(broken.name), 50, who="test", why="")
    ours.follow(change)
    assert "SHA-256" in ours.server.deployments()["problems"][broken.name]
    answers = Counter(ask(ours, QUESTIONS[0], user=f"u{n}").model for n in range(12))
    assert answers == {"tiny": 12}
    # Promoted all the same: the server stays with what it can serve.
    ours.deployments.promote("support", number(broken.name), who="test", why="")
    ours.follow(ours.deployments.rollback("support", who="test", why=""))
    assert ask(ours, QUESTIONS[0]).model == "tiny"


def test_a_killed_server_comes_back_as_it_was_with_every_answer(
    ours: Ours, versions: tuple[str, str]
) -> None:
    ours.follow(ours.deployments.promote("support", number(versions[1]), who="test", why=""))
    users = Users(ours)
    with users.asking():
        users.wait(40)
        answered = list(users.answers)
        users._stop.set()
        ours.running.kill()
    ours.running.start()
    assert ask(ours, QUESTIONS[0]).model == versions[1]
    # The writer outlives the server: even the last flush is there.
    for _, request_id, _, _ in answered:
        ours.row(request_id)


def test_a_stopped_server_leaves_nothing_unwritten(ours: Ours) -> None:
    users = Users(ours)
    with users.asking():
        users.wait(40)
        users._stop.set()
        assert ours.running.stop() in (0, -15, 143)
    assert users.failures == []  # who was being answered got the whole answer
    missing = [i for _, i, _, _ in users.answers if ours.store.row_id(i) is None]
    assert missing == []
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{ours.url}/models")
    ours.running.start()
    assert ours.server.numbers()["writer_restarts"] == 0


def test_routing_is_the_same_everywhere() -> None:
    state = Deployment("support", seq=4, history=(0, 1), candidate=2, share=30.0)
    assert [route(state, f"user-{n}").version for n in range(8)] == [1, 1, 1, 1, 1, 1, 2, 1]
