"""Whether vLLM can serve an adapter: no pickles, only what its LoRA loader reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ledger.errors import RegistryError

WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
# What vLLM's lora/peft_helper.py refuses (0.32), or would apply as if it were not there.
_UNSERVABLE = (
    "use_dora",
    "modules_to_save",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "use_bdlora",
    "use_qalora",
    "trainable_token_indices",
)
# vLLM applies an adapter to linear layers only, not to the embedding or the LM head.
_NOT_LINEAR = {"lm_head", "embed_tokens", "wte", "embed_out"}
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal")
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def check_adapter(folder: Path, *, max_rank: int | None = None) -> dict[str, Any]:
    """Whether vLLM can serve the adapter in a folder.

    Args:
        max_rank: the server's largest rank; None leaves the rank unchecked.

    Returns:
        The adapter's configuration.

    Raises:
        RegistryError: naming the file or field, and what would work.
    """
    pickled = [p.name for p in sorted(folder.rglob("*")) if p.suffix in PICKLED]
    if pickled:
        raise RegistryError(
            f"{folder} holds pickled weights: {', '.join(pickled)}",
            rule="A pickle can run any program when it is read, so only safetensors are served.",
            remedy="Save the adapter again with safe_serialization=True.",
        )
    if not (folder / WEIGHTS).is_file():
        raise RegistryError(f"{folder} has no {WEIGHTS}")
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RegistryError(f"{folder} has no {ADAPTER_CONFIG}") from None
    except ValueError as error:
        raise RegistryError(f"{folder / ADAPTER_CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise RegistryError(f"{folder / ADAPTER_CONFIG} does not hold a JSON object")
    if refused := unservable(config):
        raise RegistryError(
            f"the adapter in {folder} uses {', '.join(refused)}, which vLLM cannot serve",
            remedy="Train plain LoRA or rsLoRA.",
        )
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(type(rank) is int and rank > 0 for rank in ranks):
        raise RegistryError(
            f"{folder / ADAPTER_CONFIG} gives the rank(s) {ranks}",
            rule="`r` and the values of `rank_pattern` are whole numbers above 0.",
        )
    rank = max(ranks)
    if max_rank is not None and rank > max_rank:
        raise RegistryError(
            f"the adapter in {folder} has rank {rank}, the server accepts up to {max_rank}",
            remedy="Raise serve.max_lora_rank and restart the server, or train with a lower rank.",
        )
    return config


def unservable(config: Mapping[str, Any]) -> list[str]:
    """What vLLM cannot serve in an adapter's configuration, by PEFT's names; empty where it can.

    One rule for what is trained (`train.lora`) and for what is published.
    """
    start = config.get("init_lora_weights")
    named = config.get("target_modules") or ()
    modules = {named} if isinstance(named, str) else set(named)
    found = {
        **{name: config.get(name) for name in _UNSERVABLE},
        "bias": config.get("bias") not in (None, "none"),
        # The others (PiSSA, OLoRA, CorDA, LoftQ, …) change the base model's weights.
        f"init_lora_weights={start}": isinstance(start, str) and start not in _PLAIN_STARTS,
    }
    outside = sorted({name.rpartition(".")[2] for name in modules} & _NOT_LINEAR)
    names = [name for name, value in found.items() if value]
    return names + [f"target_modules={name}" for name in outside]
