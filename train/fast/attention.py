"""Attention over packed rows: each row sees itself and nothing else.

`NAME` is an attention of ours in transformers' registry, for models whose layers all are plain or
sliding-window attention. It takes the bounds of rows that a packed pass carries:

- on CUDA, `torch.nn.attention.varlen` (FlashAttention's kernels, part of PyTorch from 2.10);
- elsewhere, PyTorch's scaled dot product attention row by row. No mask is built, and no score is
  computed that a mask would throw away.

Layers that carry a state from token to token (Qwen3.5's gated delta net, Mamba, short
convolutions) know no bounds without special kernels, and would let a row see the one before it.
`keeps_rows_apart` asks the model itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

#: The name of this attention in transformers' registry.
NAME = "flywheel_packed"
_PLAIN = {"full_attention", "sliding_attention", "attention"}
# Rows up to this length, tokens, where two plain products beat the fused attention on the CPU.
_SHORT = 128
# What `register` found on this process's CUDA device, once.
_flash: Callable[..., Any] | None = None
_said = ""


def unplain_layers(config: Any) -> list[str]:
    """Kinds of layers in a model's configuration that are not plain attention, by name.

    Args:
        config: transformers' configuration of a model.
    """
    text = config.get_text_config()
    kinds: set[str] = set()
    for field in ("layer_types", "layers_block_type", "block_types"):
        kinds |= {str(kind) for kind in getattr(text, field, None) or ()}
    if not kinds:  # the configuration does not name its layers: a state's size gives them away
        fields = ("ssm_cfg", "mamba_d_state", "ssm_state_size", "state_size", "conv_L_cache")
        kinds |= {field for field in fields if getattr(text, field, None)}
    if not kinds and getattr(text, "num_attention_heads", None) is None:
        kinds.add(str(getattr(text, "model_type", "unknown")))
    if getattr(text, "attn_logit_softcapping", None):
        kinds.add("soft-capped attention")
    return sorted(kinds - _PLAIN)


def usable(config: Any) -> bool:
    """Whether a model can run with this attention."""
    from transformers import AutoModelForCausalLM

    if unplain_layers(config):
        return False
    kind = AutoModelForCausalLM._model_mapping.get(type(config), None)
    kind = kind[0] if isinstance(kind, tuple) else kind
    return bool(getattr(kind, "_supports_attention_backend", False))


def register() -> None:
    """Make `NAME` known to transformers. Doing it again changes nothing."""
    import torch
    from transformers import AttentionInterface

    global _flash, _said
    AttentionInterface.register(NAME, attend)
    # No entry in the registry of masks: transformers then builds none.
    if not _said and torch.cuda.is_available():
        _flash, _said = _probe()


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Any = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Any = None,
    **_: Any,
) -> tuple[Any, None]:
    """Causal attention within rows; shapes as transformers' registry has them.

    Args:
        query: [batch, heads, tokens, width]; `key`, `value` likewise, perhaps with fewer heads.
        cu_seq_lens_q: bounds of the packed rows; None where each batch entry is one row.

    Returns:
        [batch, tokens, heads, width], and None.

    Raises:
        NotImplementedError: the model asks for something that is not computed here.
    """
    if softcap is not None or s_aux is not None or (dropout and query.is_cuda):
        raise NotImplementedError("soft caps, sinks and attention dropout are not for packed rows")
    if cu_seq_lens_q is not None and query.is_cuda and _flash is not None:
        packed = (query[0], key[0], value[0])
        found = _flash(*packed, cu_seq_lens_q, max_length_q, scaling, sliding_window)
        return found.unsqueeze(0), None
    if cu_seq_lens_q is None:
        rows = [_one(query, key, value, scaling, dropout, sliding_window)]
    else:
        sizes = cu_seq_lens_q.diff().tolist()
        parts = (query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2))
        rows = [_one(*row, scaling, dropout, sliding_window) for row in zip(*parts, strict=True)]
    import torch

    whole = rows[0] if len(rows) == 1 else torch.cat(rows, dim=2)
    return whole.transpose(1, 2).contiguous(), None


def _one(
    query: Any, key: Any, value: Any, scaling: float | None, dropout: float, window: int | None
) -> Any:
    """Rows that each see themselves: [batch, heads, tokens, width]."""
    import torch

    tokens = query.shape[2]
    mask = None
    if window is not None and tokens > window:
        distance = torch.arange(tokens, device=query.device)
        distance = distance[:, None] - distance[None, :]
        mask = (distance >= 0) & (distance < window)
    if query.device.type == "cpu" and tokens <= _SHORT and not dropout:
        return _plainly(query, key, value, scaling, mask)
    return torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )


def _plainly(query: Any, key: Any, value: Any, scaling: float | None, mask: Any) -> Any:
    import torch

    batch, heads, tokens, width = query.shape
    group = heads // key.shape[1]
    # Query heads that share a key head lie under each other: one product for all of them.
    stacked = query.reshape(batch, key.shape[1], group * tokens, width)
    scores = torch.matmul(stacked, key.transpose(2, 3)).view(batch, key.shape[1], group, tokens, -1)
    if mask is None:
        hidden = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).triu(1)
    else:
        hidden = ~mask
    scores = scores.float() * (width**-0.5 if scaling is None else scaling)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1).to(query.dtype)
    seen = torch.matmul(weights.view(batch, key.shape[1], group * tokens, tokens), value)
    return seen.view(batch, heads, tokens, -1)


def _flash_with(*, repeat: bool) -> Callable[..., Any]:
    """FlashAttention over one packed sequence, as this PyTorch's version of it is called.

    Args:
        repeat: give each query head a key head of its own, for builds that take no groups.
    """
    from torch.nn.attention.varlen import varlen_attn

    known = frozenset(inspect.signature(varlen_attn).parameters)
    windows, groups, scales = (name in known for name in ("window_size", "enable_gqa", "scale"))

    def flash(
        query: Any,
        key: Any,
        value: Any,
        bounds: Any,
        longest: int,
        scaling: float | None,
        window: int | None,
    ) -> Any:
        group = query.shape[0] // key.shape[0]
        if repeat and group > 1:
            key, value = key.repeat_interleave(group, 0), value.repeat_interleave(group, 0)
        query, key, value = (part.transpose(0, 1).contiguous() for part in (query, key, value))
        options: dict[str, Any] = {}
        if windows:
            options["window_size"] = (-1 if window is None else window - 1, 0)
        elif window is None:
            options["is_causal"] = True
        else:
            raise NotImplementedError("sliding windows over packed rows need PyTorch 2.11")
        if groups:
            options["enable_gqa"] = query.shape[1] != key.shape[1]
        width = query.shape[-1]
        if scales:
            options["scale"] = width**-0.5 if scaling is None else scaling
        elif scaling is not None and scaling != width**-0.5:
            query = query * (scaling * width**0.5)
        return varlen_attn(query, key, value, bounds, bounds, longest, longest, **options)

    return flash


def _probe() -> tuple[Callable[..., Any] | None, str]:
    """FlashAttention as it works here, and in words; None where it does not.

    Asked by computing something small forth and back: what a version, a build and a GPU can do
    together is written nowhere.
    """
    import torch

    said = ""
    for repeat in (False, True):
        try:
            flash = _flash_with(repeat=repeat)
            torch.manual_seed(0)
            parts = [
                torch.randn(heads, 48, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
                for heads in (4, 2, 2)
            ]
            bounds = torch.tensor([0, 16, 48], dtype=torch.int32, device="cuda")
            found = flash(*parts, bounds, 32, None, None)
            found.float().square().sum().backward()
            got = [found.detach(), *(part.grad for part in parts)]
            alone = [part.detach().clone().requires_grad_() for part in parts]
            q, k, v = alone
            rows = [
                _one(
                    q[None, :, start:end],
                    k[None, :, start:end],
                    v[None, :, start:end],
                    None,
                    0.0,
                    None,
                )
                for start, end in ((0, 16), (16, 48))
            ]
            whole = torch.cat(rows, 2)[0].transpose(0, 1)
            whole.float().square().sum().backward()
            wanted = [whole.detach(), *(part.grad for part in alone)]
            off = max(float((g - w).abs().max()) for g, w in zip(got, wanted, strict=True))
            if off < 0.2:
                return flash, "FlashAttention varlen" + ", repeated heads" * repeat
            said = f"varlen is off by {off:.2g}"
        except (ImportError, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            said = f"{type(error).__name__}: {error}".partition("\n")[0]
    return None, f"scaled dot product, row by row ({said})"


def on_cuda() -> str:
    """In words, how packed rows are computed on this CUDA device; `register` has been called."""
    return _said


def keeps_rows_apart(model: Any) -> bool:
    """Whether in a packed pass a row comes out the same whatever lies before it.

    The model is asked with two packs that differ only in the first row. Where the second row's
    outputs differ, a state or a score went from one to the other.

    Args:
        model: a causal language model, loaded; it is not changed.
    """
    import torch

    from train.fast.passes import Collate, Cut

    size = model.config.get_text_config().vocab_size
    second = [(7 * i + 3) % size for i in range(12)]
    was_training = model.training
    model.eval()
    outputs = []
    try:
        for step in (1, 5):
            first = [(step * i + 2) % size for i in range(12)]
            rows = [{"input_ids": row, "labels": row} for row in (first, second)]
            given = Collate(Cut(tokens=64))(rows)["passes"][0]
            given = {name: value.to(model.device) if hasattr(value, "to") else value
                     for name, value in given.items() if not name.startswith("answer")}  # fmt: skip
            with torch.no_grad():
                found = model(**given, use_cache=False, logits_to_keep=12)
            outputs.append(found.logits.float())
    finally:
        model.train(was_training)
    return bool(torch.equal(*outputs))
