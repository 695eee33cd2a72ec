"""Kernels that do in one pass over the memory what a layer's Python does in many, on CUDA.

- `liger`: Liger's kernels for RMSNorm, SwiGLU and rotary positions, where they are installed and
  know the model. The fastest on an H100 (benchmarks/RESULTS.md), and no wait.
- `compile`: each decoder layer goes through torch.compile. All layers share what was compiled. Half
  a minute of compiling: worth it for models that Liger does not know.
- `none`: the layers as transformers has them.

The loss and the LoRA layers have their own (`train.fast.head`, `train.fast.linear`).
"""

from __future__ import annotations

import importlib.util
from typing import Any

# Tokens of a run from which on compiling is paid back: a tenth faster than plain layers, it takes
# some 30 s, in which an H100 trains half a million tokens of a 7B model.
_WORTH_COMPILING = 5_000_000


def choose(wanted: str, *, device: str, tokens: int) -> str:
    """The kernels for a run.

    Args:
        wanted: `auto` or a name.
        tokens: that the run will see.
    """
    if wanted != "auto":
        return wanted
    if device != "cuda":
        return "none"
    if liger_is_there():
        return "liger"
    return "compile" if tokens >= _WORTH_COMPILING else "none"


def liger_is_there() -> bool:
    """Whether Liger's kernels are installed, and Triton, which they need."""
    return all(importlib.util.find_spec(name) for name in ("liger_kernel", "triton"))


def apply(model: Any, kind: str) -> str:
    """Give a model its kernels; returns what it got.

    Args:
        model: the causal language model itself, inside of PEFT's wrapper.
        kind: of `choose`.
    """
    if kind == "liger":
        return "liger" if _liger(model) else "none"
    if kind == "compile":
        import torch._dynamo

        # Scales and epsilons are constants of a model; as inputs of the graph they would only cost.
        torch._dynamo.config.specialize_float = True
        # The first layer's input then needs a gradient as all others' do: one graph for all.
        model.enable_input_require_grads()
        for layer in model.base_model.layers:
            layer.compile(dynamic=True)
    return kind


def _liger(model: Any) -> bool:
    if not liger_is_there():
        return False
    from liger_kernel.transformers.monkey_patch import (
        MODEL_TYPE_TO_APPLY_LIGER_FN,
        _apply_liger_kernel_to_instance,
    )

    if model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        return False
    _apply_liger_kernel_to_instance(
        model=model, rope=True, rms_norm=True, swiglu=True,
        cross_entropy=False, fused_linear_cross_entropy=False,
    )  # fmt: skip
    return True
