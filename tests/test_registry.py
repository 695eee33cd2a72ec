"""The registry: versions are whole, never change, and no number is used twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from at_once import at_once

from ledger.errors import ConfigError, RegistryError
from ledger.fingerprint import base_fingerprint, template_hash
from ledger.registry import ADAPTER_CONFIG, MANIFEST, WEIGHTS, Registry, Version, check_adapter

CONFIG: dict[str, Any] = {"r": 16, "lora_alpha": 32, "bias": "none", "use_dora": False}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def write_adapter(folder: Path, **config: Any) -> None:
    (folder / WEIGHTS).write_bytes(b"weights")
    (folder / ADAPTER_CONFIG).write_text(json.dumps(CONFIG | config))


def publish(registry: Registry, alias: str = "support", **config: Any) -> Version:
    with registry.building(alias) as (number, lora_id, folder):
        write_adapter(folder, **config)
        (folder / "notes").mkdir()
        (folder / "notes" / "data.jsonl").write_text("{}\n")
        return registry.publish(
            folder,
            {
                "alias": alias,
                "version": number,
                "lora_id": lora_id,
                "base_model": "base",
                "base_fingerprint": "fw1:base:1",
                "template_hash": "fw1:template:1",
                "rank": 16,
                "dataset_id": "fw1:dataset:1",
                "pairs": 3,
                "run_id": "run",
                "created": 1.0,
            },
        )


def test_a_published_version_is_found_and_whole(registry: Registry) -> None:
    assert registry.versions("support") == []
    assert registry.incomplete() == []
    one, two, other = publish(registry), publish(registry), publish(registry, "other")
    assert [one.name, two.name, other.name] == ["support@v1", "support@v2", "other@v1"]
    assert [v.manifest.lora_id for v in (one, two, other)] == [1, 2, 3]
    assert set(one.manifest.files) == {WEIGHTS, ADAPTER_CONFIG, "notes/data.jsonl"}
    assert registry.versions("support") == [one, two]
    assert registry.get("support", 2) == two
    registry.verify(one)
    assert registry.servable("support", 1, fingerprint="fw1:base:1", max_rank=16) == one
    assert registry.incomplete() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / WEIGHTS).write_bytes(b"weightS"), f"{WEIGHTS} has SHA-256"),
        (lambda folder: (folder / "notes" / "data.jsonl").unlink(), "notes/data.jsonl is missing"),
        (lambda folder: (folder / "more.txt").write_text(""), "more.txt is not in its manifest"),
    ],
    ids=["altered", "missing", "added"],
)
def test_a_version_that_changed_is_seen(
    registry: Registry, change: Callable[[Path], object], said: str
) -> None:
    version = publish(registry)
    change(version.path)
    for look in (
        lambda: registry.verify(version),
        lambda: registry.servable("support", 1, fingerprint="fw1:base:1", max_rank=16),
    ):
        with pytest.raises(RegistryError) as caught:
            look()
        assert said in str(caught.value)


def test_a_folder_half_written_is_no_version(registry: Registry) -> None:
    version = publish(registry)
    second = publish(registry)
    (version.path / MANIFEST).unlink()
    building = registry.root / "support" / ".building-v9"
    building.mkdir()
    assert registry.versions("support") == [second]
    assert registry.incomplete() == [building, version.path]
    with pytest.raises(RegistryError, match="is not complete"):
        registry.get("support", 1)
    with pytest.raises(RegistryError, match="is not in the registry"):
        registry.get("support", 7)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"alias": "support"}', "\xff"])
def test_a_damaged_manifest(registry: Registry, text: str) -> None:
    version = publish(registry)
    (version.path / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(RegistryError, match="is damaged"):
        registry.get("support", 1)


def test_a_version_under_another_name_is_refused(registry: Registry) -> None:
    version = publish(registry)
    shutil.copytree(version.path, registry.path("support", 5))
    with pytest.raises(RegistryError, match="says it is support@v1"):
        registry.get("support", 5)


def test_what_cannot_be_served_is_never_published(registry: Registry) -> None:
    with pytest.raises(RegistryError, match="use_dora"):
        publish(registry, use_dora=True)
    assert registry.versions("support") == []
    assert registry.incomplete() == []
    assert publish(registry).name == "support@v2"  # the number stays unused


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights=pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "init_lora_weights=olora"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"r": 32}, "has rank 32, the server accepts up to 16"),
        ({"rank_pattern": {"q_proj": 64}}, "has rank 64"),
        ({"r": 0}, "whole numbers above 0"),
        ({"r": None}, "whole numbers above 0"),
        ({"r": "16"}, "whole numbers above 0"),
    ],
)
def test_adapters_that_vllm_cannot_serve(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    write_adapter(tmp_path, **config)
    with pytest.raises(RegistryError) as caught:
        check_adapter(tmp_path, max_rank=16)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True, "init_lora_weights": True, "modules_to_save": None},
        {"init_lora_weights": "gaussian", "rank_pattern": {"q_proj": 4}},
    ],
)
def test_adapters_that_it_can(tmp_path: Path, config: dict[str, Any]) -> None:
    write_adapter(tmp_path, **config)
    assert check_adapter(tmp_path, max_rank=16)["r"] == 16


@pytest.mark.parametrize("name", ["adapter_model.bin", "deep/optimizer.pt", "x.pkl"])
def test_pickled_weights_are_refused(tmp_path: Path, name: str) -> None:
    write_adapter(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(RegistryError, match="pickled weights") as caught:
        check_adapter(tmp_path)
    assert "safe_serialization" in caught.value.remedy


def test_an_adapter_without_its_files(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=f"has no {WEIGHTS}"):
        check_adapter(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"")
    with pytest.raises(RegistryError, match=f"has no {ADAPTER_CONFIG}"):
        check_adapter(tmp_path)
    for text, said in (("{", "is not JSON"), ("[]", "does not hold a JSON object")):
        (tmp_path / ADAPTER_CONFIG).write_text(text)
        with pytest.raises(RegistryError, match=said):
            check_adapter(tmp_path)


def test_an_adapter_of_another_base_model(registry: Registry) -> None:
    publish(registry)
    with pytest.raises(RegistryError, match="trained on another base model") as caught:
        registry.servable("support", 1, fingerprint="fw1:base:2", max_rank=16)
    assert "retrain" in caught.value.remedy
    with pytest.raises(RegistryError, match="up to 8"):
        registry.servable("support", 1, fingerprint="fw1:base:1", max_rank=8)


def test_numbers_and_ids_are_never_used_twice(registry: Registry) -> None:
    publish(registry)
    second = publish(registry)
    shutil.rmtree(second.path)
    third = publish(registry)
    assert (third.name, third.manifest.lora_id) == ("support@v3", 3)
    shutil.rmtree(registry.root / "support")
    fourth = publish(registry)
    assert (fourth.name, fourth.manifest.lora_id) == ("support@v4", 4)
    # A version that came with a backup, whose claim is not here.
    shutil.copytree(fourth.path, registry.path("support", 8))
    assert publish(registry).name == "support@v9"


def _build_and_fail(registry: Registry) -> None:
    with registry.building("support") as (_, _, folder):
        write_adapter(folder)
        raise KeyboardInterrupt


def test_a_build_that_fails_leaves_nothing(registry: Registry) -> None:
    with pytest.raises(KeyboardInterrupt):
        _build_and_fail(registry)
    assert registry.incomplete() == []
    assert publish(registry).name == "support@v2"


def test_processes_that_claim_at_once_get_different_numbers(registry: Registry) -> None:
    code = (
        "import sys; from pathlib import Path; from ledger.registry import Registry\n"
        "registry = Registry(Path(sys.argv[1])); sys.stdin.readline()\n"
        "for _ in range(40):\n"
        "    with registry.building('support') as (version, lora_id, folder):\n"
        "        print(version, lora_id)\n"
    )
    claimed = "".join(at_once(code, str(registry.root))).splitlines()
    numbers = [tuple(map(int, line.split())) for line in claimed]
    assert sorted(version for version, _ in numbers) == list(range(1, 121))
    assert sorted(lora_id for _, lora_id in numbers) == list(range(1, 121))


# -- what a base model is ----------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 8, "vocab_size": 9, "dtype": "bfloat16"}')
    (folder / "model.safetensors").write_bytes(b"x" * 10)
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    return folder


def test_a_base_model_is_known_by_what_it_computes(model: Path) -> None:
    first = base_fingerprint(model)
    assert first.startswith("fw1:base:")
    (model / "config.json").write_text(
        '{"vocab_size": 9, "hidden_size": 8, "transformers_version": "9", "torch_dtype": "x"}'
    )
    (model / "README.md").write_text("more")
    assert base_fingerprint(model) == first
    changes: list[Callable[[], object]] = [
        lambda: (model / "model.safetensors").write_bytes(b"x" * 11),
        lambda: (model / "config.json").write_text('{"hidden_size": 16}'),
        lambda: (model / "model.safetensors.index.json").write_text('{"weight_map": {}}'),
    ]
    seen = {first}
    for change in changes:
        change()
        seen.add(base_fingerprint(model))
    assert len(seen) == 4


def test_a_template_is_known_wherever_it_stands(model: Path) -> None:
    first = template_hash(model)
    assert first.startswith("fw1:template:")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert template_hash(model) == first
    (model / "chat_template.jinja").write_text("{{ messages }} ")
    assert template_hash(model) != first


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("config.json", None, "is not a model: it has no config.json"),
        ("config.json", "{", "is not JSON"),
        ("config.json", "[]", "does not hold a JSON object"),
        ("model.safetensors.index.json", "{", "is not JSON"),
    ],
)
def test_a_folder_that_is_no_model(model: Path, file: str, text: str | None, said: str) -> None:
    if text is None:
        (model / file).unlink()
    else:
        (model / file).write_text(text)
    with pytest.raises(ConfigError, match=said):
        base_fingerprint(model)


def test_a_model_without_a_template(model: Path) -> None:
    (model / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="has no chat template"):
        template_hash(model)
