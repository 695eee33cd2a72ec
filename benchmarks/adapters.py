"""Random LoRA versions in a registry: published like trained ones, with no training.

Written in PEFT's file format without PEFT, for models whose layers are named as Qwen's and
Llama's. The updates are as large as the tiny model's own weights, so that two versions and the
base answer differently; a model that knows a language would talk nonsense with one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ledger.files import read_json, write_json
from ledger.fingerprint import base_fingerprint, template_hash
from ledger.registry import ADAPTER_CONFIG, WEIGHTS, Registry, Version
from ledger.settings import Settings

RANK = 8
ALPHA = 16
# Of the entries of A and B; times sqrt(RANK) * ALPHA / RANK this is an update of about 0.1 an
# entry, what the tiny model's weights were drawn with.
_DEVIATION = 0.13


def publish_random_adapter(
    settings: Settings, alias: str, model_folder: Path, seed: int
) -> Version:
    """Publish a version of `alias` with random weights that depend on `seed` alone.

    Raises:
        RegistryError: the registry does not take it.
    """
    registry = Registry(settings.registry)
    config = read_json(model_folder / "config.json")
    with registry.building(alias) as (number, lora_id, folder):
        _write(folder, config, model_folder, seed)
        return registry.publish(
            folder,
            {
                "alias": alias,
                "version": number,
                "lora_id": lora_id,
                "base_model": settings.model.name,
                "base_fingerprint": base_fingerprint(model_folder),
                "template_hash": template_hash(model_folder),
                "rank": RANK,
                "dataset_id": f"random:{seed}",
                "pairs": 0,
                "run_id": f"random-{seed}",
                "created": time.time(),
            },
        )


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each linear module of a layer."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim") or hidden // heads
    return {
        "self_attn.q_proj": (heads * head, hidden),
        "self_attn.k_proj": (shared * head, hidden),
        "self_attn.v_proj": (shared * head, hidden),
        "self_attn.o_proj": (hidden, heads * head),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


def _write(folder: Path, config: dict[str, Any], base: Path, seed: int) -> None:
    """The two files of an adapter as PEFT saves them."""
    from safetensors.numpy import save_file

    random = np.random.default_rng(seed)

    def drawn(*shape: int) -> np.ndarray:
        return random.normal(0.0, _DEVIATION, shape).astype(np.float32)

    weights, shapes = {}, _shapes(config)
    for layer in range(config["num_hidden_layers"]):
        for module, (outputs, inputs) in shapes.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            weights[f"{prefix}.lora_A.weight"] = drawn(RANK, inputs)
            weights[f"{prefix}.lora_B.weight"] = drawn(outputs, RANK)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(
        folder / ADAPTER_CONFIG,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(base),
            "r": RANK,
            "lora_alpha": ALPHA,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": sorted(module.split(".")[-1] for module in shapes),
            "inference_mode": True,
        },
    )
