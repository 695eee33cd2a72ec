"""Packed passes, a loss without logits of prompts, LoRA layers of one node: same, only faster."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest

from train.fast import attention, head, kernels, linear, setup
from train.fast.passes import Collate, Cut, cut

pytestmark = [
    pytest.mark.usefixtures("one_threaded"),
    pytest.mark.filterwarnings("default"),  # the libraries' own, under training
]


def some_rows(*sizes: int) -> list[dict[str, Any]]:
    draw = random.Random(5)
    rows = []
    for size in sizes:
        ids = [draw.randrange(3, 500) for _ in range(size)]
        rows.append({"input_ids": ids, "labels": [-100] * (size // 2) + ids[size // 2 :]})
    return rows


def adapted(kind: str = "Qwen3", **options: Any) -> Any:
    """A small model in float32 with a LoRA adapter that is not zero."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = getattr(transformers, f"{kind}Config")(
        **{
            "vocab_size": 512,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "initializer_range": 0.2,
        }
        | options
    )
    config._attn_implementation = setup.implementation(config, "auto")
    model = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    model = get_peft_model(model, lora)
    for name, weights in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weights, std=0.1)
    return model


def gradients(model: Any) -> dict[str, Any]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def one_by_one(model: Any, rows: list[dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    """Loss and gradients of transformers' and PEFT's own layers, a row at a time."""
    import torch

    plain = copy.deepcopy(model)
    plain.get_base_model().config._attn_implementation = "sdpa"
    items = sum(label != -100 for row in rows for label in row["labels"][1:])
    total = 0.0
    for row in rows:
        logits = plain(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / items
        loss.backward()
        total += loss.item()
    return total, gradients(plain)


def in_passes(model: Any, rows: list[dict[str, Any]], how: Cut) -> tuple[float, dict[str, Any]]:
    given = Collate(how)(rows)
    total = 0.0
    for one in given["passes"]:
        loss = model(**one) / given["items"]
        loss.backward()
        total += loss.item()
    return total, gradients(model)


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    import torch

    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Llama"])
@pytest.mark.parametrize("tokens", [64, 4096])
def test_packed_rows_have_the_loss_and_the_gradient_of_rows_alone(kind: str, tokens: int) -> None:
    """130 tokens: longer ones take another way through the attention on the CPU."""
    model, rows = adapted(kind), some_rows(13, 7, 30, 130, 2, 30)
    wanted = one_by_one(model, rows)
    found = setup.prepare(model, kind="none")
    assert (found.packed, found.fused, found.adapted, found.notes) == (True, 14, 14, [])
    loss, grads = in_passes(model, rows, Cut(tokens, multiple=16))
    assert loss == pytest.approx(wanted[0], rel=1e-5)
    assert_same(grads, wanted[1])


def test_a_sliding_window_holds_in_packed_rows() -> None:
    model = adapted(
        "Qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1, head_dim=8
    )
    assert "sliding_attention" in model.get_base_model().config.layer_types
    rows = some_rows(40, 5, 25)
    wanted = one_by_one(model, rows)
    setup.prepare(model, kind="none")
    loss, grads = in_passes(model, rows, Cut(4096))
    assert loss == pytest.approx(wanted[0], rel=1e-5)
    assert_same(grads, wanted[1])


HYBRID = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "head_dim": 16,
}


def test_a_model_whose_layers_carry_a_state_is_not_packed_and_says_why() -> None:
    model, rows = adapted("Qwen3_5Text", **HYBRID), some_rows(9, 9, 20)
    base = model.get_base_model()
    assert attention.unplain_layers(base.config) == ["linear_attention"]
    # The danger is real: without kernels for it, a packed row sees the one before.
    assert not attention.keeps_rows_apart(base)
    wanted = one_by_one(model, rows)
    found = setup.prepare(model, kind="none")
    assert not found.packed
    assert "would see each other (it has linear_attention)" in found.notes[0]
    loss, grads = in_passes(model, rows, Cut(4096, packed=found.packed))
    assert loss == pytest.approx(wanted[0], rel=1e-4)
    assert_same(grads, wanted[1])


def test_what_a_model_does_is_believed_more_than_its_configuration() -> None:
    model = adapted("Qwen3_5Text", **HYBRID)
    attention.register()
    model.get_base_model().config._attn_implementation = attention.NAME
    found = setup.prepare(model, kind="none")
    assert not found.packed
    assert "tried out" in found.notes[0]


def test_state_space_models_are_known_by_their_configuration() -> None:
    import transformers

    assert attention.unplain_layers(transformers.MambaConfig()) != []
    assert attention.unplain_layers(transformers.JambaConfig()) != []
    assert attention.unplain_layers(transformers.Qwen3Config()) == []
    assert setup.implementation(transformers.Qwen3Config(), "never") == "sdpa"
    assert setup.implementation(transformers.MambaConfig(), "auto") == "sdpa"


def test_a_head_of_another_kind_goes_its_own_way() -> None:
    """Gemma's caps, scaled logits, a bias: the model's own head, at the answers alone."""
    model, rows = adapted("Cohere", use_qk_norm=False, logit_scale=0.5), some_rows(9, 30)
    assert not head.plain(model.get_base_model())
    wanted = one_by_one(model, rows)
    setup.prepare(model, kind="none")
    loss, grads = in_passes(model, rows, Cut(4096))
    assert loss == pytest.approx(wanted[0], rel=1e-4)
    assert_same(grads, wanted[1])


def test_blocks_of_logits_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = adapted(), some_rows(40, 50)
    wanted = one_by_one(model, rows)
    setup.prepare(model, kind="none")
    monkeypatch.setattr(head, "_BLOCK", 512 * 7)  # seven positions at once
    loss, grads = in_passes(model, rows, Cut(4096))
    assert loss == pytest.approx(wanted[0], rel=1e-5)
    assert_same(grads, wanted[1])


# -- LoRA layers -------------------------------------------------------------------------


def test_lora_layers_agree_with_pefts_in_half_precision() -> None:
    import torch

    one = adapted().to(torch.bfloat16)
    for name, weights in one.named_parameters():
        if "lora_" in name:
            weights.data = weights.data.float()
    other = copy.deepcopy(one)
    assert linear.fuse(one) == (14, 14)
    assert linear.fuse(other, "expression") == (14, 14)
    peft = copy.deepcopy(adapted()).to(torch.bfloat16)
    ids = torch.tensor([some_rows(30)[0]["input_ids"]])
    found = []
    for model in (one, other, peft):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        found.append((loss.item(), gradients(model)))
    assert found[0][0] == pytest.approx(found[2][0], rel=1e-2)
    for (name, grad), exact in zip(found[0][1].items(), found[1][1].values(), strict=True):
        assert grad.dtype == torch.float32
        size = exact.norm()
        assert (grad - exact).norm() < 0.05 * size, name


def test_layers_that_read_one_input_are_one_node_and_others_are_not() -> None:
    import torch

    model = adapted()
    layer = model.get_base_model().base_model.layers[0]
    attend, mlp = layer.self_attn, layer.mlp
    x, y = torch.randn(1, 5, 32), torch.randn(1, 5, 32)
    wanted = [attend.q_proj(x), attend.k_proj(x), attend.v_proj(y), attend.k_proj(y)]
    linear.fuse(model)
    # As models call them; then one with another input, and one alone.
    found = [attend.q_proj(x), attend.k_proj(x), attend.v_proj(y), attend.k_proj(y)]
    for ours, pefts in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, pefts, rtol=1e-4, atol=1e-5)

    def node(result: Any) -> Any:
        return result.grad_fn.next_functions[0][0]  # behind the view

    assert node(found[0]) is node(found[1])
    assert node(found[0]) is not node(found[3])
    assert node(mlp.gate_proj(x)) is node(mlp.up_proj(x))


def test_copies_for_a_step_are_of_the_weights_as_they_are_and_go_with_it() -> None:
    import torch

    model = adapted().to(torch.bfloat16)
    for name, weights in model.named_parameters():
        if "lora_" in name:
            weights.data = weights.data.float()
    linear.fuse(model)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = model(input_ids=ids).logits
    with linear.copied(model):
        assert torch.equal(model(input_ids=ids).logits, before)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.mul_(3)
    after = model(input_ids=ids).logits
    assert not torch.equal(after, before)
    with linear.copied(model):
        assert torch.equal(model(input_ids=ids).logits, after)


def test_an_adapter_can_be_switched_off_saved_and_read_as_before(tmp_path: Path) -> None:
    import torch
    from peft import PeftModel

    model = adapted()
    before = set(model.state_dict())
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        on = model(input_ids=ids).logits
        with model.disable_adapter():
            off = model(input_ids=ids).logits
        linear.fuse(model)
        assert set(model.state_dict()) == before
        torch.testing.assert_close(model(input_ids=ids).logits, on, rtol=1e-4, atol=1e-5)
        with model.disable_adapter():
            torch.testing.assert_close(model(input_ids=ids).logits, off)
        model.save_pretrained(tmp_path)
        fresh = adapted().unload()
        again = PeftModel.from_pretrained(fresh, tmp_path)
        torch.testing.assert_close(again(input_ids=ids).logits, on, rtol=1e-4, atol=1e-5)


def test_what_is_not_plain_lora_is_left_to_peft() -> None:
    from peft import LoraConfig, get_peft_model
    from peft.utils.warning import PeftWarning

    def refused(**options: Any) -> bool:
        base = adapted("Llama").unload()
        lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], **options)
        return linear.fuse(get_peft_model(base, lora)) == (0, 2)

    assert refused(lora_dropout=0.1)
    assert refused(use_dora=True)
    with pytest.warns(PeftWarning, match="has no bias"):
        assert refused(lora_bias=True)


# -- passes ------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("packed", [True, False])
def test_a_step_is_cut_without_losing_a_row(processes: int, packed: bool) -> None:
    draw = random.Random(processes)
    for count in (1, 2, 7, 40):
        sizes = [draw.randrange(2, 300) for _ in range(count)]
        how = Cut(tokens=320, packed=packed, processes=processes)
        found = cut(sizes, how)
        assert len(found) == processes
        assert len({len(passes) for passes in found}) == 1  # they wait for each other
        flat = [i for passes in found for group in passes for i in group]
        assert sorted(flat) == list(range(count))
        for passes in found:
            for group in passes:
                assert sum(sizes[i] for i in group) <= 320
                assert packed or len({sizes[i] for i in group}) <= 1
        assert found == cut(sizes, how)


def test_packing_wastes_nothing_and_passes_are_alike() -> None:
    sizes = [100, 90, 80, 70, 60, 50, 40, 30]
    (passes,) = cut(sizes, Cut(tokens=270))
    assert len(passes) == 2
    assert {sum(sizes[i] for i in group) for group in passes} == {260}
    (alone,) = cut([500, 10], Cut(tokens=100))  # longer than a pass: alone
    assert sorted(alone) == [[0], [1]]


def test_a_pass_with_nothing_to_do_costs_and_changes_nothing() -> None:
    model, rows = adapted(), some_rows(9)
    setup.prepare(model, kind="none")
    losses = []
    for rank in (0, 1):
        given = Collate(Cut(4096, processes=2, rank=rank))(rows)
        assert given["items"] == 5
        loss = model(**given["passes"][0])
        loss.backward()
        losses.append(loss.item())
    assert losses[0] > 0
    assert losses[1] == 0


# -- kernels -----------------------------------------------------------------------------


def test_kernels_follow_the_device_and_the_length_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "liger_is_there", lambda: True)
    assert kernels.choose("auto", device="cpu", tokens=10**9) == "none"
    assert kernels.choose("auto", device="cuda", tokens=10**9) == "liger"
    assert kernels.choose("compile", device="cuda", tokens=10**5) == "compile"
    assert kernels.choose("none", device="cuda", tokens=10**9) == "none"
    monkeypatch.setattr(kernels, "liger_is_there", lambda: False)
    assert kernels.choose("auto", device="cuda", tokens=10**9) == "compile"
    assert kernels.choose("auto", device="cuda", tokens=10**5) == "none"
    assert kernels.apply(adapted().get_base_model(), "liger") == "none"


# -- the trainer -------------------------------------------------------------------------


def test_the_trainers_loss_is_trls(model: Path, tmp_path: Path) -> None:
    """A whole step of ours against TRL's own loss of the same rows in one padded batch."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from train.trainer import Trainer

    rows = some_rows(13, 7, 30, 21, 2, 30)
    found = []
    attention.register()
    for ours in (True, False):
        loaded = AutoModelForCausalLM.from_pretrained(
            model, attn_implementation=attention.NAME if ours else "sdpa"
        )
        given: dict[str, Any] = {
            "model": loaded,
            "args": SFTConfig(
                output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, max_length=None,
                per_device_train_batch_size=6, gradient_checkpointing=False, max_steps=3,
                learning_rate=1e-2, logging_steps=1, save_strategy="no", report_to="none",
                disable_tqdm=True, train_sampling_strategy="sequential",
            ),
            "train_dataset": Dataset.from_list(rows),
            "processing_class": AutoTokenizer.from_pretrained(model),
            "peft_config": LoraConfig(
                task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear"
            ),
        }  # fmt: skip
        if ours:
            trainer: Any = Trainer(**given, cut=Cut(40), step_rows=6)
        else:
            trainer = SFTTrainer(**given)
        trainer.train()
        found.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert len(found[0]) == 3
    assert float(found[0][0]) > float(found[0][2])
    assert [float(x) for x in found[0]] == pytest.approx([float(x) for x in found[1]], rel=1e-3)
