"""The list of names that a server answers to, while requests are on their way."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from ledger.deployments import Deployment
from serve.adapters import Adapters

FIRST = Deployment("support", seq=1, history=(0, 1))
BACK = Deployment("support", seq=2, history=(0,))
AGAIN = Deployment("support", seq=3, history=(0, 1))


@pytest.fixture
def adapters(monkeypatch: pytest.MonkeyPatch) -> Adapters:
    """Version 1 of support is live; nothing is read from a disk."""
    models = SimpleNamespace(lora_requests={"others": object()})
    registry: Any = None
    made = Adapters(object(), models, registry, base="tiny", fingerprint="fw1:x", max_rank=8)

    async def warm_up(adapter: Any = None) -> None:
        await asyncio.sleep(0)

    async def add_lora(request: Any) -> None:
        await asyncio.sleep(0)

    def checked(alias: str, version: int) -> Any:
        return SimpleNamespace(manifest=SimpleNamespace(lora_id=version), path=SimpleNamespace(
            resolve=lambda: f"/registry/{alias}/v{version}"))  # fmt: skip

    monkeypatch.setattr(made, "_engine", SimpleNamespace(add_lora=add_lora))
    monkeypatch.setattr(made, "warm_up", warm_up)
    monkeypatch.setattr(made, "_checked", checked)
    asyncio.run(made.follow({"support": FIRST}))
    assert made.serves("support@v1")
    return made


def follow(adapters: Adapters, state: Deployment) -> None:
    asyncio.run(adapters.follow({"support": state}))


def test_a_name_goes_with_its_version(adapters: Adapters) -> None:
    with adapters.staying("support@v1"):
        pass
    follow(adapters, BACK)
    assert not adapters.serves("support@v1")
    assert adapters.serves("tiny")
    assert adapters.serves("others")  # not ours to take away


def test_a_request_that_was_just_sent_to_a_version_still_finds_it(adapters: Adapters) -> None:
    """Else a rollback costs those requests that vLLM has not looked up yet: 404 instead of an
    answer."""
    with adapters.staying("support@v1"):
        with adapters.staying("support@v1"):
            follow(adapters, BACK)
            assert adapters.deployment("support") == BACK
            assert adapters.serves("support@v1")
        assert adapters.serves("support@v1")
    assert not adapters.serves("support@v1")


def test_a_version_that_comes_back_meanwhile_stays(adapters: Adapters) -> None:
    with adapters.staying("support@v1"):
        follow(adapters, BACK)
        follow(adapters, AGAIN)
    assert adapters.serves("support@v1")
    follow(adapters, BACK)
    assert not adapters.serves("support@v1")


def test_a_request_that_fails_lets_go(adapters: Adapters) -> None:
    def fail() -> None:
        with adapters.staying("support@v1"):
            follow(adapters, BACK)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert not adapters.serves("support@v1")
