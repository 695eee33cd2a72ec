"""What a training takes of the memory, asked beforehand: against what PyTorch then keeps."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ledger.errors import ConfigError
from train.fast import attention, memory, setup
from train.fast.memory import estimate, fits
from train.fast.passes import Collate, Cut

GIB = 2**30
# Qwen2.5-7B.
SEVEN = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}
#: How far an estimate may be off: measured is at most this many times it, and at least a this-th.
FACTOR = 1.3


def shape(kind: str = "Qwen2", **options: Any) -> Any:
    import transformers

    return getattr(transformers, f"{kind}Config")(**options)


def of_seven(**options: Any) -> memory.Estimate:
    given: dict[str, Any] = {"dtype": "bfloat16", "rank": 16, "longest": 2048} | options
    return estimate(shape(**SEVEN), **given)


def small(kind: str, **options: Any) -> Any:
    return shape(
        kind,
        **{
            "vocab_size": 1000,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "tie_word_embeddings": False,
        }
        | options,
    )


def kept(config: Any, sizes: list[int], dtype: str) -> tuple[int, dict[str, int]]:
    """Bytes of storages that a packed forward pass keeps for its backward pass; and all parameters.

    Each storage counts once, and those of weights and inputs not at all.
    """
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    config._attn_implementation = attention.NAME
    attention.register()
    base = getattr(transformers, type(config).__name__.replace("Config", "ForCausalLM"))(config)
    lora = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear")
    model = get_peft_model(base.to(getattr(torch, dtype)), lora)
    setup.prepare(model, kind="none")
    draw = random.Random(1)
    rows = []
    for size in sizes:
        ids = [draw.randrange(900) for _ in range(size)]
        rows.append({"input_ids": ids, "labels": [-100] * (size - 8) + ids[-8:]})
    (one,) = Collate(Cut(sum(sizes)))(rows)["passes"]
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**one)
    assert loss.item() > 0
    sizes_of = {name: p.numel() * p.element_size() for name, p in model.named_parameters()}
    return sum(found.values()), sizes_of


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Llama"])
@pytest.mark.parametrize("sizes", [[400, 300, 200], [100] * 8], ids=["long", "short"])
def test_the_estimate_is_near_what_is_kept(kind: str, dtype: str, sizes: list[int]) -> None:
    config = small(kind)
    said = estimate(config, dtype=dtype, rank=8, longest=max(sizes), device="cpu")
    measured, parameters = kept(config, sizes, dtype)
    estimated = said.activations_per_token * sum(sizes)
    assert 1 / FACTOR < measured / estimated < FACTOR, measured / estimated
    base = sum(size for name, size in parameters.items() if "lora_" not in name)
    assert said.weights == pytest.approx(base, rel=0.02)
    trained = sum(size for name, size in parameters.items() if "lora_" in name)
    assert said.optimizer == 3 * trained  # gradient and two moments, float32 as the weights


def test_a_7b_model_on_an_80_gb_gpu() -> None:
    said = of_seven()
    assert said.weights / 1e9 == pytest.approx(15.2, abs=0.1)
    found = fits(said, 78 * GIB)
    assert not found.checkpointing
    assert 7000 < found.tokens < 12000
    assert found.peak * memory.MARGIN <= 78 * GIB
    # Fused kernels keep less.
    assert fits(of_seven(kernels="liger"), 78 * GIB).tokens > found.tokens
    # More memory is used, up to what is of use.
    assert fits(said, 139 * GIB).tokens == 16384


def test_checkpointing_is_turned_on_only_where_nothing_else_fits() -> None:
    said = of_seven()
    tight = fits(said, 28 * GIB)
    assert tight.checkpointing
    assert tight.tokens >= 2048
    assert fits(said, 78 * GIB, checkpointing=True).checkpointing


def test_what_cannot_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError) as refused:
        fits(of_seven(), 12 * GIB)
    text = str(refused.value)
    assert "12.0 GiB are free" in text
    assert "14.2 GiB" in text  # the base
    assert "train.processes" in text
    # Shared by four, it fits on each.
    shared = of_seven(processes=4, sharded=True)
    assert fits(shared, 12 * GIB).tokens >= 2048


def test_a_setting_bounds_a_pass_and_the_longest_row_always_goes() -> None:
    said = of_seven()
    assert fits(said, 78 * GIB, tokens=4096).tokens == 4096
    assert fits(said, 78 * GIB, tokens=100).tokens == 2048
    assert fits(said, 28 * GIB, tokens=10**6).tokens < 10**5


def test_a_longer_row_needs_more_and_a_smaller_format_less() -> None:
    assert of_seven(longest=8192).peak(8192) > of_seven().peak(2048)
    assert of_seven(dtype="float32").weights == 2 * of_seven().weights
    assert of_seven(rank=64).optimizer == 4 * of_seven().optimizer
