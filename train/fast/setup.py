"""What a model on this machine gets of this package, decided once before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from train.fast import attention, head, kernels, linear


class Prepared(NamedTuple):
    """What was set up.

    Attributes:
        packed: whether rows may lie end to end in a pass.
        fused: adapted layers that compute by `train.fast.linear`, and `adapted` in all.
        kernels: of `train.fast.kernels`.
        notes: what people should know, a line each.
    """

    packed: bool
    fused: int
    adapted: int
    kernels: str
    notes: list[str]


def implementation(config: Any, packing: str) -> str:
    """The attention to load a model with.

    Args:
        config: transformers' configuration of the model.
        packing: the setting: `auto`, or `never`.
    """
    if packing == "never" or not attention.usable(config):
        return "sdpa"
    attention.register()
    return attention.NAME


def packable(folder: Path, packing: str) -> bool:
    """Whether rows of the model in a folder may lie end to end, by its configuration."""
    from transformers import AutoConfig

    return implementation(AutoConfig.from_pretrained(folder), packing) == attention.NAME


def prepare(model: Any, *, kind: str, packing: str = "auto", lora: str = "auto") -> Prepared:
    """Set up a PEFT model for training; it is changed in place.

    Args:
        model: PEFT's, on its device, its base loaded with the attention of `implementation`.
        kind: kernels, of `kernels.choose`.
        packing: the setting.
        lora: of `linear.fuse`; `auto` is what suits the kernels.
    """
    base = model.get_base_model()
    notes = []
    packed = packing != "never" and base.config._attn_implementation == attention.NAME
    if packing != "never" and not packed:
        names = attention.unplain_layers(base.config)
        why = f"it has {', '.join(names)}" if names else "its code takes no attention of ours"
        notes.append(f"rows are not packed: in this model they would see each other ({why})")
    elif packed and not attention.keeps_rows_apart(base):
        packed = False
        notes.append("rows are not packed: tried out, they see each other in this model")
    head.add(base)
    fused, adapted = linear.fuse(
        model, lora if lora != "auto" else "expression" if kind == "compile" else "node"
    )
    return Prepared(packed, fused, adapted, kernels.apply(base, kind), notes)
