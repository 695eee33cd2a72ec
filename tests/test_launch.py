"""Starting the server: what is refused before vLLM is started, and what it is started with."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from benchmarks.adapters import publish_random_adapter
from ledger.deployments import Deployments
from ledger.errors import ConfigError, RegistryError
from ledger.registry import WEIGHTS
from ledger.settings import Settings
from ledger.store import Store
from serve.launch import Launch, prepare


@pytest.fixture
def made(make_settings: Any, model: Path) -> Any:
    def make(**serve: Any) -> Settings:
        port = serve.pop("port", 18_499)
        sections = {"serve": {"port": port, **serve}, "train": {"rank": 8}}
        settings: Settings = make_settings(model={"name": "tiny", "path": str(model)}, **sections)
        return settings

    return make


def plan(settings: Settings, *extra: str, cuda: bool = False, **more: Any) -> Launch:
    return prepare(settings, "configs/x.yaml", extra, cuda=cuda, **more)


def value(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def test_the_command_carries_the_settings(made: Any) -> None:
    settings = made(
        vllm={
            "enforce_eager": True,
            "enable_prefix_caching": False,
            "lora_target_modules": ["up_proj", "down_proj"],
            "structured_outputs_config": {"backend": "xgrammar"},
        },
        env={"SOME_VARIABLE": "5"},
    )
    found = plan(settings, "--seed", "3")
    words = found.command
    assert value(words, "--served-model-name") == "tiny"
    assert value(words, "--max-loras") == "3"
    assert value(words, "--host") == "127.0.0.1"
    assert "--enforce-eager" in words
    assert "--no-enable-prefix-caching" in words
    at = words.index("--lora-target-modules")
    assert words[at + 1 : at + 3] == ["up_proj", "down_proj"]
    assert json.loads(value(words, "--structured-outputs-config")) == {"backend": "xgrammar"}
    assert words[-2:] == ["--seed", "3"]
    assert found.environment["SOME_VARIABLE"] == "5"
    assert found.environment["VLLM_PLUGINS"] == "flywheel"
    assert found.environment["FLYWHEEL_CONFIG"] == "configs/x.yaml"
    assert found.environment["VLLM_NO_USAGE_STATS"] == "1"
    assert int(found.environment["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"]) > 60
    assert any("support" in line and "tiny (base)" in line for line in found.summary)


def test_openmp_is_set_on_a_cpu_only(made: Any) -> None:
    assert "VLLM_CPU_OMP_THREADS_BIND" in plan(made()).environment
    on_gpu = plan(made(), cuda=True).environment
    assert "VLLM_CPU_OMP_THREADS_BIND" not in on_gpu
    assert "libiomp5" not in on_gpu.get("LD_PRELOAD", "")


def test_other_plugins_of_the_user_stay(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "mine")
    assert plan(made()).environment["VLLM_PLUGINS"] == "mine,flywheel"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
def test_without_keys_only_loopback(made: Any, host: str) -> None:
    with pytest.raises(ConfigError, match="loopback only"):
        plan(made(host=host))


def test_with_a_key_any_address_and_no_key_on_the_command_line(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYWHEEL_API_KEYS", "one,two")
    found = plan(made(host="0.0.0.0"))
    assert "2 API key(s)" in found.summary[0]
    assert not {"one", "two"} & set(found.command)


def test_a_taken_port_is_named(made: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            plan(made(port=port))


@pytest.mark.parametrize("flag", ["--model", "--max_lora_rank=64", "--api-key", "--host"])
def test_options_that_are_settings_are_refused(made: Any, flag: str) -> None:
    with pytest.raises(ConfigError, match="cannot be passed through"):
        plan(made(), flag, "x")


def test_a_model_that_is_not_there(made: Any, make_settings: Any, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match=r"config\.json"):
        plan(make_settings())


def test_a_live_version_that_cannot_be_served_stops_the_start(made: Any, model: Path) -> None:
    settings = made(max_lora_rank=8)
    version = publish_random_adapter(settings, "support", model, 1)
    store = Store.open(settings)
    Deployments(store).promote("support", 1, who="test", why="")
    assert any("support@v1" in line for line in plan(settings).summary)

    weights = version.path / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(RegistryError, match="flywheel rollback support"):
        plan(settings)
    Deployments(store).rollback("support", who="test", why="")
    assert any("tiny (base)" in line for line in plan(settings).summary)
    store.close()


def test_a_rank_above_the_servers(made: Any, model: Path) -> None:
    wide = made(max_lora_rank=8)
    publish_random_adapter(wide, "support", model, 1)
    store = Store.open(wide)
    Deployments(store).promote("support", 1, who="test", why="")
    store.close()
    narrow = wide.model_copy(update={"serve": wide.serve.model_copy(update={"max_lora_rank": 4})})
    with pytest.raises(RegistryError, match="rank 8, the server accepts up to 4"):
        plan(narrow)
