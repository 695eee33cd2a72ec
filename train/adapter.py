"""The trained weights of an adapter on disk: written whole or not at all, and read back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ledger.registry import WEIGHTS
from train.fast.launch import first, full


def write(model: Any, folder: Path, base_name: str) -> int:
    """Write the adapter that is trained; returns how many parameters it has.

    Of several processes all must call it, and the first one writes.

    Args:
        model: a PEFT model; its adapter `default` is written.
        base_name: the base as the server calls it, not where it lies on this machine.
    """
    whole = {name: full(p) for name, p in model.named_parameters() if p.requires_grad}
    trained = sum(weights.numel() for weights in whole.values())
    if not first():
        return trained
    building = folder.with_name(f".{folder.name}")
    shutil.rmtree(building, ignore_errors=True)
    config = model.peft_config["default"]
    before, config.base_model_name_or_path = config.base_model_name_or_path, base_name
    try:
        model.save_pretrained(
            building,
            safe_serialization=True,
            save_embedding_layers=False,
            selected_adapters=["default"],
            state_dict=whole,
        )
    finally:
        config.base_model_name_or_path = before
    (building / "README.md").unlink(missing_ok=True)  # PEFT's draft; ours is made on publishing
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)
    return trained


def read(model: Any, folder: Path) -> None:
    """Put the weights in a folder into the adapter `default` of a model.

    Raises:
        ValueError: they are not those of this adapter.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    found = set_peft_model_state_dict(model, load_file(folder / WEIGHTS), adapter_name="default")
    if found.unexpected_keys:
        raise ValueError(f"{folder} has weights that the model has not: {found.unexpected_keys}")
