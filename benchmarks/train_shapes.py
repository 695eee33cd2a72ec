"""Models of a known shape with random weights, and rows that fill passes: for speed, not language.

Weights are made on the device itself: a 7B model takes seconds, where drawing it on the CPU takes
minutes.
"""

from __future__ import annotations

import random
from typing import Any

#: The shapes by name: arguments of transformers' configuration.
SHAPES: dict[str, dict[str, Any]] = {
    # Qwen2.5-7B
    "qwen2.5-7b": {
        "kind": "Qwen2",
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    },
    # Qwen3-8B
    "qwen3-8b": {
        "kind": "Qwen3",
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    },
    "tiny": {
        "kind": "Qwen2",
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
}


def build(shape: str, *, device: str, dtype: Any, attention: str) -> Any:
    """A causal language model of a shape, with small random weights, on a device.

    Args:
        attention: implementation, by transformers' name for it.
    """
    import torch
    import transformers

    options = dict(SHAPES[shape])
    kind = options.pop("kind")
    config = getattr(transformers, f"{kind}Config")(**options)
    config._attn_implementation = attention
    with torch.device("meta"):
        model = getattr(transformers, f"{kind}ForCausalLM")(config).to(dtype)
    model = model.to_empty(device=device)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.ones_(parameter)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
        else:
            torch.nn.init.normal_(parameter, std=0.02)
    # Not a parameter, and empty after `to_empty`: made anew.
    rotary = type(model.base_model.rotary_emb)(config).to(device)
    model.base_model.rotary_emb = rotary
    return model


def parameters(model: Any) -> tuple[int, int]:
    """Parameters of the base without embeddings and head, and all of them."""
    whole = sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)
    ends = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    return whole - sum({id(w): w.numel() for w in ends}.values()), whole


def rows(
    count: int, *, longest: int, vocabulary: int, seed: int = 0, share: float = 0.25
) -> list[dict[str, list[int]]]:
    """Rows of varied length, as chats are: log-normal, most of them short, cut at the longest.

    Args:
        share: of a row that is answer and carries loss.
    """
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        size = min(longest, max(longest // 32, int(draw.lognormvariate(0.0, 0.7) * longest / 6)))
        ids = [draw.randrange(vocabulary) for _ in range(size)]
        prompt = size - max(2, int(size * share))
        found.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return found
