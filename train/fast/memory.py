"""What a training takes of the memory, by the model's shape, before anything is loaded.

    weights       of the base, in its number format
    adapter       float32: the weights, their gradients and AdamW's two moments, 16 bytes a
                  parameter, and the copy in the base's format that enters the products
    activations   what the backward pass needs of each token: kept by every layer, or with gradient
                  checkpointing by one layer and the borders of the others
    passing       what exists for a moment: gradients inside one layer, one block of logits

From it follows how many tokens a forward pass may have. That changes no result
(`train.fast.passes`), so a machine with less memory trains the same adapter, more slowly.

Not counted: CUDA's own context (some hundred MiB) and the allocator's fragments, hence `MARGIN`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ledger.errors import ConfigError

#: What an estimate is multiplied with before it is held against what is free.
MARGIN = 1.15
#: Tokens of a forward pass beyond which nothing gets faster.
MOST_TOKENS = {"cuda": 16384, "cpu": 2048}
_GIB = 2**30
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Logits of one block of `train.fast.head`: in the base's format, as float32, and back.
_BLOCK = 1 << 27


class Estimate(NamedTuple):
    """What a training takes, bytes.

    Attributes:
        weights: of the base model.
        adapter: weights of the adapter, float32, and their copy in the base's format.
        optimizer: their gradients and moments.
        activations_per_token: kept from the forward to the backward pass, without checkpointing.
        checkpointed_per_token: the same with checkpointing.
        passing_per_token: inside one layer for a moment, beside what is kept.
        logits: one block.
        longest: tokens of the longest row.
        most: of `MOST_TOKENS`.
        kernels: that the run will have.
    """

    weights: int
    adapter: int
    optimizer: int
    activations_per_token: int
    checkpointed_per_token: int
    passing_per_token: int
    logits: int
    longest: int
    most: int
    kernels: str

    @property
    def fixed(self) -> int:
        """What does not depend on a pass, bytes."""
        return self.weights + self.adapter + self.optimizer + self.logits

    def peak(self, tokens: int, *, checkpointing: bool = False) -> int:
        """Bytes at the worst moment of a step with passes of that many tokens."""
        kept = self.checkpointed_per_token if checkpointing else self.activations_per_token
        return self.fixed + tokens * (kept + self.passing_per_token)


class Fit(NamedTuple):
    """What fits: `tokens` of a forward pass, with checkpointing or without; `peak` bytes of it.

    `kernels` are those that the estimate was for.
    """

    tokens: int
    checkpointing: bool
    peak: int
    kernels: str = "none"


def estimate(
    config: Any,
    *,
    dtype: str,
    rank: int,
    longest: int,
    device: str = "cuda",
    kernels: str = "none",
    parameters: int | None = None,
    processes: int = 1,
    sharded: bool = False,
) -> Estimate:
    """Estimate a training.

    Args:
        config: transformers' configuration of the model.
        dtype: of the base: float32, bfloat16 or float16.
        rank: of the adapter, on all linear layers of the decoder.
        longest: tokens of the longest row.
        device: `cuda` or `cpu`.
        kernels: of `train.fast.kernels`.
        parameters: of the base; counted from the shape where not given.
        processes, sharded: with several processes and a sharded base each holds its part.
    """
    text = config.get_text_config()
    size = _BYTES[dtype]
    hidden, wide = text.hidden_size, getattr(text, "intermediate_size", 4 * text.hidden_size)
    layers = text.num_hidden_layers
    heads = text.num_attention_heads
    queries, keys = _attended(text)
    shapes = linear_shapes(config)
    embeddings = 1 if getattr(text, "tie_word_embeddings", False) else 2
    counted = layers * sum(a * b for a, b in shapes) + embeddings * text.vocab_size * hidden
    weights = size * (parameters or counted)
    if sharded:
        weights = weights // processes + 2 * size * sum(a * b for a, b in shapes)
    trained = layers * rank * sum(a + b for a, b in shapes)
    kept = _kept(hidden, wide, queries, keys, heads, rank, longest, size, device, kernels)
    border = size * hidden
    return Estimate(
        weights=weights,
        adapter=trained * (4 + size),
        optimizer=trained * 12,
        activations_per_token=layers * kept,
        checkpointed_per_token=layers * border + kept,
        # In the MLP's backward pass: gradients of its three wide inputs, and what they are made of.
        passing_per_token=size * (6 * wide + 8 * hidden),
        logits=min(_BLOCK, longest * text.vocab_size) * (size + 4 + size),
        longest=longest,
        most=MOST_TOKENS[device],
        kernels=kernels,
    )


def linear_shapes(config: Any) -> list[tuple[int, int]]:
    """(inputs, outputs) of one decoder layer's linear layers: attention and a gated MLP."""
    text = config.get_text_config()
    hidden, wide = text.hidden_size, getattr(text, "intermediate_size", 4 * text.hidden_size)
    queries, keys = _attended(text)
    return [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden),
            (hidden, wide), (hidden, wide), (wide, hidden)]  # fmt: skip


def _attended(text: Any) -> tuple[int, int]:
    """Values of all queries of a token, and of all its keys."""
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return heads * width, (getattr(text, "num_key_value_heads", None) or heads) * width


def _kept(
    hidden: int,
    wide: int,
    queries: int,
    keys: int,
    heads: int,
    rank: int,
    longest: int,
    size: int,
    device: str,
    kernels: str,
) -> int:
    """Bytes that one decoder layer keeps of a token for its backward pass."""
    # The norms keep their input as float32, fused ones in its own format; and their outputs.
    norms = 2 * (4 if kernels == "none" else size) * hidden + 2 * size * hidden
    # Queries, keys and values after the rotation, the values that were seen, twice where laid out
    # anew for the output layer; a float32 sum for each head.
    attention = size * (3 * queries + 2 * keys) + 4 * heads
    if device == "cpu" and longest <= 128:
        attention += heads * longest * (4 + size)  # weights of the plain products
    # gate, up, their product, and without a fused kernel silu(gate).
    mlp = size * wide * (4 if kernels == "none" else 3)
    low = 7 * rank * size
    return norms + attention + mlp + low


def fits(
    wanted: Estimate,
    available_bytes: int,
    *,
    tokens: int | None = None,
    checkpointing: bool = False,
) -> Fit:
    """How a training fits into what is there.

    Args:
        wanted: of `estimate`.
        available_bytes: free on the device, before the model is loaded.
        tokens: most tokens of a forward pass; unset: as many as fit, up to what is of use.
        checkpointing: checkpoint in any case; otherwise only where nothing else fits.

    Raises:
        ConfigError: not even the longest row alone fits; with the numbers.
    """
    room = available_bytes / MARGIN
    for checkpoint in (True,) if checkpointing else (False, True):
        most = _tokens(wanted, room, checkpoint)
        if tokens is not None and most >= wanted.longest:
            most = min(most, max(tokens, wanted.longest))
        if most >= wanted.longest:
            peak = wanted.peak(most, checkpointing=checkpoint)
            return Fit(most, checkpoint, peak, wanted.kernels)
    least = wanted.peak(wanted.longest, checkpointing=True) * MARGIN
    raise ConfigError(
        f"training needs about {least / _GIB:.1f} GiB for one row of {wanted.longest} tokens even "
        f"with gradient checkpointing, {available_bytes / _GIB:.1f} GiB are free",
        rule=f"The base takes {wanted.weights / _GIB:.1f} GiB, the adapter with its optimiser "
        f"{(wanted.adapter + wanted.optimizer) / _GIB:.2f} GiB, a block of logits "
        f"{wanted.logits / _GIB:.2f} GiB, a token "
        f"{(wanted.checkpointed_per_token + wanted.passing_per_token) / 2**20:.2f} MiB.",
        remedy="Lower train.max_length or train.rank, free memory (train.beside_server: pause or "
        "elsewhere), or share the base over several GPUs: train.processes with train.sharded.",
    )


def measured(device: str) -> int:
    """The most memory that this process has had so far, bytes.

    On CUDA what its tensors took. On the CPU all of the process: Python, the libraries and what
    they keep for themselves come to some hundred MiB that no estimate has.
    """
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    import resource
    import sys

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _tokens(wanted: Estimate, room: float, checkpoint: bool) -> int:
    each = wanted.checkpointed_per_token if checkpoint else wanted.activations_per_token
    found = int((room - wanted.fixed) // (each + wanted.passing_per_token))
    return min(found, max(wanted.most, wanted.longest))
