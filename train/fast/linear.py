"""LoRA layers that compute in the base's number format, with one autograd node each.

PEFT's own layer keeps the adapter in float32 and casts each input to it and each result back,
scales the low-rank result and adds it: five passes over the layer's output where the product
itself writes it once. Here the adapter's weights stay float32 for the optimiser, a copy in the
base's format enters the product (what autocast would make of them), and the low-rank product adds
itself to the base's.

    y = x Wᵀ + b + s (x Aᵀ) Bᵀ          [LoRA, arXiv 2106.09685]

Layers with dropout, DoRA or another variant, or a quantised base are left to PEFT.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch


class _LoraLinear(torch.autograd.Function):
    """`x` [n, in], `weight` [out, in], `down` A [r, in], `up` B [out, r] → [n, out]."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, down: Any, up: Any, scale: float) -> Any:
        low_down, low_up = down.to(x.dtype), up.to(x.dtype)
        result = torch.nn.functional.linear(x, weight, bias)
        inner = torch.matmul(x, low_down.t())
        result.addmm_(inner, low_up.t(), alpha=scale)
        ctx.save_for_backward(x, weight, low_down, low_up, inner)
        ctx.scale, ctx.kept = scale, (down.dtype, up.dtype)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        x, weight, down, up, inner = ctx.saved_tensors
        outer = torch.matmul(gradient, up).mul_(ctx.scale)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = torch.matmul(gradient, weight)
            to_x.addmm_(outer, down)
        to_down = torch.matmul(outer.t(), x).to(ctx.kept[0])
        # The transpose of the wanted product: its long side is then the inner one's row.
        to_up = torch.matmul(inner.t(), gradient).t().to(ctx.kept[1]).mul_(ctx.scale)
        return to_x, None, None, to_down, to_up, None


def plainly(layer: Any, x: Any) -> Any:
    """The same as an expression, for a compiler that fuses it with what comes next."""
    low_down, low_up = layer.fast_down.weight.to(x.dtype), layer.fast_up.weight.to(x.dtype)
    linear = torch.nn.functional.linear
    base = layer.base_layer
    inner = linear(x, low_down) * layer.fast_scale
    return linear(x, base.weight, base.bias) + linear(inner, low_up)


def _whole(layer: Any, x: Any) -> Any:
    base = layer.base_layer
    found = _LoraLinear.apply(
        x.flatten(0, -2),
        base.weight,
        base.bias,
        layer.fast_down.weight,
        layer.fast_up.weight,
        layer.fast_scale,
    )
    return found.view(*x.shape[:-1], -1)


def fits(layer: Any, adapter: str = "default") -> bool:
    """Whether a PEFT layer is plain LoRA on a plain linear layer."""
    from peft.tuners.lora import Linear

    return (
        type(layer) is Linear
        and type(layer.base_layer) is torch.nn.Linear
        and not layer.fan_in_fan_out
        and list(layer.lora_A) == [adapter]
        and adapter not in layer.lora_variant
        and not layer.lora_bias[adapter]
        and isinstance(layer.lora_dropout[adapter], torch.nn.Identity)
        and layer.base_layer.weight.is_floating_point()
    )


def fuse(model: Any, how: str = "node", adapter: str = "default") -> tuple[int, int]:
    """Give each plain LoRA layer of a PEFT model the forward of this module.

    The layers stay PEFT's: saving, loading and switching the adapter off work as before.

    Args:
        how: `node`, one autograd node a layer; `expression`, for layers that go through
            torch.compile; `peft`, nothing is changed.

    Returns:
        How many layers were changed, and how many adapted layers there are.
    """
    from peft.tuners.lora import LoraLayer

    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    fitting = [layer for layer in layers if fits(layer, adapter)]
    if how == "peft":
        return 0, len(layers)
    for layer in fitting:
        # Plain attributes: found faster than PEFT's dictionaries, and by a compiler at all. They
        # bypass Module.__setattr__, so that no weight is registered, and saved, twice.
        object.__setattr__(layer, "fast_down", layer.lora_A[adapter])
        object.__setattr__(layer, "fast_up", layer.lora_B[adapter])
        layer.fast_scale = layer.scaling[adapter]
        layer.forward = MethodType(_compiled if how == "expression" else _eager, layer)
    return len(fitting), len(layers)


def _off(layer: Any, x: Any) -> bool:
    """Whether a call is PEFT's business: the adapter is off or merged, or formats differ."""
    return layer.disable_adapters or layer.merged or x.dtype != layer.base_layer.weight.dtype


def _eager(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return type(self).forward(self, x, *args, **kwargs) if _off(self, x) else _whole(self, x)


def _compiled(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return type(self).forward(self, x, *args, **kwargs) if _off(self, x) else plainly(self, x)
