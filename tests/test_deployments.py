"""What is live: the fold of any events, and that of two who decide at once one wins."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import MakeSettings

from ledger.deployments import (
    BASE,
    Change,
    Deployment,
    Deployments,
    fold,
    parse_version,
    version_name,
)
from ledger.errors import StaleDeployment, UsageError
from ledger.records import DeploymentEvent
from ledger.settings import Settings
from ledger.store import Store

BY = {"who": "operator:ada", "why": "because"}


@pytest.fixture
def deployments(store: Store) -> Deployments:
    return Deployments(store)


def shape(state: Deployment) -> tuple[object, ...]:
    return state.live, state.previous, state.candidate, state.share, state.stage


def test_one_version_from_its_build_to_its_rollback_and_forward_again(
    deployments: Deployments,
) -> None:
    assert shape(deployments.state("support")) == (0, None, None, 0.0, "live")
    steps = [
        (deployments.candidate("support", 1, **BY), (0, None, 1, 0.0, "candidate")),
        (deployments.share("support", 1, 5, **BY), (0, None, 1, 5.0, "canary")),
        (deployments.share("support", 1, 50, **BY), (0, None, 1, 50.0, "canary")),
        (deployments.promote("support", 1, **BY), (1, 0, None, 0.0, "live")),
        (deployments.candidate("support", 2, **BY), (1, 0, 2, 0.0, "candidate")),
        (deployments.withdraw("support", **BY), (1, 0, None, 0.0, "live")),
        (deployments.share("support", 2, 5, **BY), (1, 0, 2, 5.0, "canary")),
        (deployments.rollback("support", **BY), (1, 0, None, 0.0, "live")),
        (deployments.promote("support", 2, **BY), (2, 1, None, 0.0, "live")),
        (deployments.rollback("support", **BY), (1, 0, None, 0.0, "live")),
        (deployments.promote("support", 2, **BY), (2, 1, None, 0.0, "live")),
        (deployments.rollback("support", **BY), (1, 0, None, 0.0, "live")),
        (deployments.rollback("support", **BY), (0, None, None, 0.0, "live")),
    ]
    for step, expected in steps:
        assert shape(step.after) == expected
    last = steps[-1][0]
    assert deployments.state("support") == last.after
    assert deployments.last_seq() == last.event.seq == len(steps)
    events = deployments.events("support")
    assert [e.seq for e in events] == list(range(1, len(steps) + 1))
    assert {(e.who, e.why) for e in events} == {("operator:ada", "because")}
    assert deployments.state("other") == Deployment("other")


def test_aliases_do_not_touch_each_other(deployments: Deployments) -> None:
    deployments.promote("a", 1, **BY)
    deployments.promote("b", 7, **BY)
    deployments.promote("a", 2, **BY)
    states = deployments.states(["a", "b", "c"])
    assert [states[alias].history for alias in "abc"] == [(0, 1, 2), (0, 7), (0,)]
    assert [states[alias].seq for alias in "abc"] == [3, 2, 0]
    assert deployments.states([]) == {}


def test_what_a_server_keeps_loaded() -> None:
    state = Deployment("a", history=(0, 1, 2, 3), candidate=4)
    assert state.resident == (3, 2, 4)
    assert Deployment("a", history=(0, 1), candidate=0).resident == (1,)
    assert Deployment("a", history=(0, 1), candidate=1).resident == (1,)
    assert Deployment("a").resident == ()


def test_a_version_promoted_again_is_in_the_history_once(deployments: Deployments) -> None:
    for version in (1, 2, 1):
        deployments.promote("a", version, **BY)
    state = deployments.state("a")
    assert state.history == (0, 2, 1)
    assert deployments.rollback("a", **BY).after.live == 2


def try_one(deployments: Deployments, draw: random.Random) -> Change | None:
    """One random wish; None where it was refused."""
    version, share = draw.randrange(5), draw.choice([-1.0, 0.0, 1.0, 50.0, 99.0, 100.0, 200.0])
    wish = draw.choice(
        [
            lambda: deployments.candidate("a", version, **BY),
            lambda: deployments.share("a", version, share, **BY),
            lambda: deployments.promote("a", version, **BY),
            lambda: deployments.rollback("a", **BY),
            lambda: deployments.withdraw("a", **BY),
        ]
    )
    before = deployments.state("a")
    try:
        change = wish()
    except UsageError:
        assert deployments.state("a") == before
        return None
    assert change.before == before
    return change


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_wished_for_what_holds_makes_sense(deployments: Deployments, seed: int) -> None:
    draw, done = random.Random(seed), 0
    for _ in range(150):
        change = try_one(deployments, draw)
        if change is None:
            continue
        done += 1
        event, before, state = change
        assert deployments.state("a") == state == fold(before, event)
        assert state.live == state.history[-1]
        assert len(set(state.history)) == len(state.history)
        assert state.previous != state.live
        assert state.candidate != state.live
        assert 0 <= state.share < 100
        assert state.share == 0 or state.candidate is not None
        assert (state.stage == "canary") == (state.share > 0)
        assert set(state.resident) <= {state.live, state.previous, state.candidate}
        assert len(state.resident) <= 3
        assert BASE not in state.resident
        if event.kind == "rollback" and before.candidate is None:
            assert state.live == before.previous
        elif event.kind != "promote":
            assert state.history == before.history
        else:
            assert state.previous == before.live
            assert (state.live, state.candidate) == (event.version, None)
    assert done > 30


def test_any_events_fold_to_some_state() -> None:
    """Also those that no check would let in: an older program may have written them."""
    draw = random.Random(5)
    kinds = ("candidate", "share", "promote", "rollback", "withdraw")
    for _ in range(300):
        state = Deployment("a")
        for seq in range(1, 12):
            kind = draw.choice(kinds)
            version = draw.randrange(4) if kind in kinds[:3] else None
            share = draw.choice([0.0, 5.0, 100.0]) if kind == "share" else None
            event = DeploymentEvent(
                seq=seq, alias="a", ts=1.0, kind=kind, version=version, share=share, who="w"
            )
            state = fold(state, event)
            assert state.history
            assert state.share == 0 or state.candidate is not None


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda d: d.candidate("a", 1, **BY), "v1 of a is live already"),
        (lambda d: d.promote("a", 1, **BY), "v1 of a is live already"),
        (lambda d: d.share("a", 3, 5, **BY), "canary running: v2 at 5 %"),
        (lambda d: d.candidate("a", 3, **BY), "canary running"),
        (lambda d: d.share("a", 2, 0, **BY), "a share of 0 %"),
        (lambda d: d.share("a", 2, 100, **BY), "a share of 100 %"),
        (lambda d: d.share("a", 2, 150, **BY), "a share of 150 %"),
        (lambda d: d.share("a", 2, -1, **BY), "a share of -1 %"),
        (lambda d: d.share("a", 2, float("nan"), **BY), "a share of nan %"),
        (lambda d: d.promote("a", -1, **BY), "version -1"),
        (lambda d: d.rollback("b", **BY), "b has nothing to go back to"),
        (lambda d: d.withdraw("b", **BY), "b has no candidate"),
        (lambda d: d.promote("b", 0, **BY), "v0 of b is live already"),
    ],
)
def test_nonsense_is_refused(deployments: Deployments, call: object, said: str) -> None:
    deployments.promote("a", 1, **BY)
    deployments.share("a", 2, 5, **BY)
    with pytest.raises(UsageError) as caught:
        call(deployments)  # type: ignore[operator]
    assert said in str(caught.value)
    assert len(deployments.events("a")) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4", 4), ("v4", 4), ("support@v4", 4), ("base", 0), ("support@base", 0), ("0", 0)],
)
def test_versions_as_people_write_them(text: str, expected: int) -> None:
    assert parse_version(text, "support") == expected
    if expected:
        assert parse_version(version_name("support", expected, "m"), "support") == expected
    assert version_name("support", BASE, "m") == "m"


@pytest.mark.parametrize(
    "text", ["", "v", "four", "-1", "v-1", "4.0", "other@v4", "support@", "vv4", "٤", " 4", "4 "]
)
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(UsageError, match="is not a version of support") as caught:
        parse_version(text, "support")
    assert "flywheel versions support" in caught.value.remedy


# -- compare-and-set ---------------------------------------------------------------------


class Late(Deployments):
    """Somebody who decides on what they saw, while others go on."""

    seen: Deployment | None = None

    def state(self, alias: str) -> Deployment:
        return self.seen or super().state(alias)


@pytest.fixture
def others(settings: Settings) -> Iterator[Deployments]:
    store = Store.open(settings)
    yield Deployments(store)
    store.close()


def test_who_decides_on_an_old_state_is_refused(store: Store, others: Deployments) -> None:
    late = Late(store)
    late.seen = late.state("a")
    others.promote("a", 1, **BY)
    with pytest.raises(StaleDeployment, match="last event was 0") as caught:
        late.promote("a", 2, **BY)
    assert "flywheel status a" in caught.value.remedy
    assert [e.version for e in others.events("a")] == [1]
    late.seen = None
    assert late.promote("a", 2, **BY).after.history == (0, 1, 2)


def test_of_processes_that_decide_at_once_one_wins(
    make_settings: MakeSettings, store: Store
) -> None:
    code = (
        "import sys\n"
        "from ledger.deployments import Deployment, Deployments\n"
        "from ledger.database.engine import open_engine\n"
        "from ledger.errors import StaleDeployment\n"
        "from ledger.store import Store\n"
        "deployments = Deployments(Store(open_engine(sys.argv[1], lock_seconds=20), None))\n"
        "first = Deployment('a')\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "deployments.state = lambda alias: first\n"
        "try:\n"
        "    deployments.promote('a', int(sys.argv[2]), who='w', why='')\n"
        "    print('won')\n"
        "except StaleDeployment:\n"
        "    print('stale')\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, make_settings().ledger.url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in (1, 2, 3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    said = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        said.append(process.communicate(timeout=60)[0].strip())
    assert sorted(said) == ["stale", "stale", "won"]
    events = Deployments(store).events("a")
    assert [e.version for e in events] == [said.index("won") + 1]
