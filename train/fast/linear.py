"""LoRA layers that compute in the base's number format, in as few products as there can be.

PEFT's own layer keeps the adapter in float32 and casts each input to it and each result back,
scales the low-rank result and adds it: five passes over the layer's output where the product
itself writes it once. Here the adapter's weights stay float32 for the optimiser, a copy in the
base's format enters the product (what autocast would make of them), and the low-rank product adds
itself to the base's. Layers that read the same input (queries, keys and values; gate and up) are
one node: their A are one product, and their gradients for the input add up inside of the products.

    y = x Wᵀ + b + s (x Aᵀ) Bᵀ          [LoRA, arXiv 2106.09685]

Layers with dropout, DoRA or another variant, or a quantised base are left to PEFT.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch

# Layers that read one input, as Qwen, Llama, Mistral and others call them.
_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class _Lora(torch.autograd.Function):
    """LoRA layers that read one `x` [n, in], each with its `y` [n, out].

    Their A lie under each other in one product, and their gradients for `x` add up inside of the
    products.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, layers: Any, *weights: Any) -> Any:
        # `weights` are A and B of each layer, for autograd; what enters the products are copies.
        count = len(layers)
        lows = [_low(layer, x.dtype) for layer in layers]
        down = lows[0][0] if count == 1 else torch.cat([low[0] for low in lows])
        inner = torch.matmul(x, down.t())
        ranks = [len(low[0]) for low in lows]
        bases = [layer.base_layer for layer in layers]
        scales = [layer.fast_scale for layer in layers]
        results = []
        for base, low, part, scale in zip(bases, lows, inner.split(ranks, 1), scales, strict=True):
            result = torch.nn.functional.linear(x, base.weight, base.bias)
            results.append(result.addmm_(part, low[1].t(), alpha=scale))
        ctx.save_for_backward(
            x, down, inner, *(base.weight for base in bases), *(low[1] for low in lows)
        )
        ctx.ranks, ctx.scales, ctx.dtype = ranks, scales, weights[0].dtype
        return results[0] if count == 1 else tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, down, inner, *rest = ctx.saved_tensors
        count = len(gradients)
        bases, ups = rest[:count], rest[count:]
        outers, to_ups = [], []
        parts = inner.split(ctx.ranks, 1)
        for gradient, up, part, scale in zip(gradients, ups, parts, ctx.scales, strict=True):
            outers.append(torch.matmul(gradient, up).mul_(scale))
            # The transpose of the wanted product: its long side is then the inner one's row.
            to_up = torch.matmul(part.t(), gradient).t()
            to_ups.append(to_up.to(ctx.dtype).mul_(scale))
        outer = outers[0] if count == 1 else torch.cat(outers, 1)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = torch.matmul(gradients[0], bases[0])
            for gradient, base in zip(gradients[1:], bases[1:], strict=True):
                to_x.addmm_(gradient, base)
            to_x.addmm_(outer, down)
        to_downs = torch.matmul(outer.t(), x).to(ctx.dtype).split(ctx.ranks)
        found = [weights for pair in zip(to_downs, to_ups, strict=True) for weights in pair]
        return to_x, None, *found


def _low(layer: Any, dtype: Any) -> tuple[Any, Any]:
    """A and B of a layer in the base's number format."""
    if layer.fast_low is not None:
        low: tuple[Any, Any] = layer.fast_low
        return low
    return layer.fast_down.weight.to(dtype), layer.fast_up.weight.to(dtype)


def plainly(layer: Any, x: Any) -> Any:
    """The same as an expression, for a compiler that fuses it with what comes next."""
    low_down, low_up = layer.fast_down.weight.to(x.dtype), layer.fast_up.weight.to(x.dtype)
    linear = torch.nn.functional.linear
    base = layer.base_layer
    inner = linear(x, low_down) * layer.fast_scale
    return linear(x, base.weight, base.bias) + linear(inner, low_up)


def _whole(layers: list[Any], x: Any) -> list[Any]:
    """What some layers make of one input."""
    weights = [w for layer in layers for w in (layer.fast_down.weight, layer.fast_up.weight)]
    found = _Lora.apply(x.flatten(0, -2), layers, *weights)
    results = found if len(layers) > 1 else (found,)
    return [result.view(*x.shape[:-1], -1) for result in results]


class _Siblings:
    """Layers that a model calls one after the other with the same input: all are done at once.

    The first one called computes for all. The others take what is theirs if they are asked with
    the very same tensor, and otherwise compute for themselves.
    """

    def __init__(self, layers: list[Any]) -> None:
        self.layers = layers
        self._x: Any = None
        self._ready: dict[int, Any] = {}

    def __call__(self, layer: Any, x: Any) -> Any:
        if layer is self.layers[0]:
            results = _whole(self.layers, x)
            self._x = x
            self._ready = {
                id(one): result for one, result in zip(self.layers[1:], results[1:], strict=True)
            }
            return results[0]
        if x is self._x and id(layer) in self._ready:
            result = self._ready.pop(id(layer))
            if not self._ready:
                self._x = None
            return result
        return _whole([layer], x)[0]


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
        layer.fast_low = None
        object.__setattr__(layer, "fast_together", None)
        layer.forward = MethodType(_compiled if how == "expression" else _eager, layer)
    if how == "node":
        _join(model, fitting)
    return len(fitting), len(layers)


def _join(model: Any, fitting: list[Any]) -> None:
    """Join layers that read the same input, by the names that models give them."""
    known = {id(layer) for layer in fitting}
    for module in model.modules():
        children = dict(module.named_children())
        for names in _TOGETHER:
            layers = [children[name] for name in names if id(children.get(name)) in known]
            if len(layers) == len(names):
                together = _Siblings(layers)
                for layer in layers:
                    object.__setattr__(layer, "fast_together", together)


@contextmanager
def copied(model: Any) -> Iterator[None]:
    """Copy all adapters into the base's number format once, for all passes of a step.

    Weights must not change meanwhile.
    """
    layers = [layer for layer in model.modules() if getattr(layer, "fast_up", None) is not None]
    layers = [
        layer
        for layer in layers
        if layer.fast_down.weight.dtype != layer.base_layer.weight.dtype
        and not hasattr(layer.fast_down.weight, "full_tensor")  # sharded: whole only in its layer
    ]
    with torch.no_grad():
        for layer in layers:
            dtype = layer.base_layer.weight.dtype
            layer.fast_low = (layer.fast_down.weight.to(dtype), layer.fast_up.weight.to(dtype))
    try:
        yield
    finally:
        for layer in layers:
            layer.fast_low = None


def _off(layer: Any, x: Any) -> bool:
    """Whether a call is PEFT's business: the adapter is off or merged, or formats differ."""
    return layer.disable_adapters or layer.merged or x.dtype != layer.base_layer.weight.dtype


def _eager(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    if _off(self, x):
        return type(self).forward(self, x, *args, **kwargs)
    return self.fast_together(self, x) if self.fast_together else _whole([self], x)[0]


def _compiled(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return type(self).forward(self, x, *args, **kwargs) if _off(self, x) else plainly(self, x)
