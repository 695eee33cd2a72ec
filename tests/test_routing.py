"""Which version answers: pure, sticky, and in the shares that were asked for."""

from __future__ import annotations

import math

import pytest

from ledger.deployments import Deployment
from serve.routing import Route, bucket, route

# Where user-1 falls for the fourth version of support, from now on.
PINNED = 56.94844494698468
KEYS = [f"user-{number}" for number in range(20_000)]


def canary(share: float, candidate: int = 4, alias: str = "support") -> Deployment:
    return Deployment(alias, seq=9, history=(0, 2, 3), candidate=candidate, share=share)


def chosen(deployment: Deployment) -> set[str]:
    return {key for key in KEYS if route(deployment, key).arm == "candidate"}


@pytest.mark.parametrize("share", [0.5, 5.0, 50.0, 95.0])
def test_the_share_is_what_was_asked_for(share: float) -> None:
    part, count = share / 100, len(KEYS)
    # Six standard deviations: a right function fails once in 10^8 choices of keys.
    slack = 6 * math.sqrt(count * part * (1 - part))
    assert abs(len(chosen(canary(share))) - count * part) < slack


def test_who_is_in_a_small_share_is_in_a_larger_one() -> None:
    one, five, half = (chosen(canary(share)) for share in (1, 5, 50))
    assert one < five < half


def test_another_candidate_and_another_alias_draw_other_keys() -> None:
    five = chosen(canary(5))
    for other in (canary(5, candidate=5), canary(5, alias="other")):
        # Of 1,000 keys 5 % are drawn again by chance.
        assert len(five & chosen(other)) < 0.1 * len(five)


def test_it_depends_on_nothing_but_its_arguments() -> None:
    """The same in every process and on every day: these values are for ever."""
    assert bucket("support", 4, "user-1") == pytest.approx(PINNED, abs=1e-12)
    state = canary(PINNED + 1e-9)
    assert route(state, "user-1") == Route(4, "candidate")
    assert route(canary(PINNED - 1e-9), "user-1") == Route(3, "live")
    later = Deployment("support", seq=99, history=(7, 3), candidate=4, share=state.share, why="x")
    assert route(later, "user-1") == Route(4, "candidate")


def test_without_a_canary_all_goes_to_the_live_version() -> None:
    assert chosen(canary(0)) == set()
    assert {route(Deployment("support"), key) for key in KEYS[:100]} == {Route(0, "live")}
    assert len(chosen(canary(100))) == len(KEYS)


def test_the_base_model_can_be_tried() -> None:
    arms = {route(canary(50, candidate=0), key) for key in KEYS[:100]}
    assert arms == {Route(0, "candidate"), Route(3, "live")}


@pytest.mark.parametrize("key", ["", "\0", "\ud800", "é" * 10_000, "support\x004\0user-1"])
def test_any_key_will_do(key: str) -> None:
    assert 0 <= bucket("support", 4, key) < 100


def test_everybody_keeps_their_side_through_the_events_of_a_rollout() -> None:
    """Begin, pause, resume, ask, expand: who was in stays in, who was out comes in at most."""
    from ledger.deployments import fold
    from ledger.records import DeploymentEvent

    state, seq = Deployment("support", history=(0, 3)), 0
    inside: set[str] = set()

    def happens(kind: str, share: float | None = None) -> set[str]:
        nonlocal state, seq
        seq += 1
        version = 4 if kind in ("begin", "expand") else None
        event = DeploymentEvent(
            seq=seq, alias="support", ts=float(seq), kind=kind, version=version, share=share,
            who="w",
        )  # fmt: skip
        state = fold(state, event)
        return chosen(state)

    for kind, share in (("begin", 5.0), ("pause", None), ("resume", None), ("ask", None)):
        now = happens(kind, share)
        assert not inside or now == inside
        inside = now
    assert 0.04 < len(inside) / len(KEYS) < 0.06
    half = happens("expand", 50.0)
    assert inside < half
    assert happens("pause") == half
    assert happens("rollback") == set()
    assert {route(state, key) for key in KEYS[:100]} == {Route(3, "live")}
