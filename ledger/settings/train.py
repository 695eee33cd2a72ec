"""Settings of training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ledger.settings.section import Section


class Train(Section):
    """How an adapter is trained."""

    rank: int | None = Field(
        None, ge=1, description="LoRA rank; unset: by the tokens that carry loss (`train.recipe`)"
    )
    alpha: float | None = Field(
        None, gt=0, description="LoRA alpha; the update is scaled by alpha / rank, with `rslora` "
        "by alpha / √rank; unset: 32, with `rslora` 8",
    )  # fmt: skip
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout")
    rslora: bool = Field(False, description="rank-stabilised LoRA")
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description="modules that get an adapter"
    )
    lora: dict[str, Any] = Field(
        default_factory=dict,
        description="further options of PEFT's LoraConfig, passed on (`exclude_modules: "
        "[o_proj]`); what vLLM cannot serve (DoRA, PiSSA, …) is refused by name",
    )
    learning_rate: float | None = Field(
        None, gt=0, description="peak learning rate; unset: by the model's width and the steps"
    )
    epochs: float | None = Field(
        None, gt=0, description="most passes over the dataset; unset: by the number of pairs"
    )
    eval_steps: int | None = Field(
        None, ge=1, description="steps between two looks at the held-out pairs; unset: ten looks"
    )
    patience: int = Field(
        3, ge=0, description="looks in a row with a held-out loss clearly above the lowest one "
        "after which training stops; the adapter of the lowest is kept then. 0: train to the end "
        "and keep the last",
    )  # fmt: skip
    preference: Literal["none", "dpo", "kto"] = Field(
        "none", description="second stage on what was edited: `dpo` on edits and the answers that "
        "they replace, `kto` on both by themselves and on answers that were voted down",
    )  # fmt: skip
    preference_beta: float = Field(
        0.1, gt=0, description="how close the second stage stays to the first"
    )
    preference_learning_rate: float | None = Field(
        None, gt=0, description="peak learning rate of the second stage; unset: a twentieth of the "
        "first's",
    )  # fmt: skip
    preference_epochs: float = Field(1, gt=0, description="passes of the second stage")
    batch_size: int = Field(8, ge=1, description="rows a step, times `accumulation`")
    accumulation: int = Field(
        1,
        ge=1,
        description="multiplies the rows of a step; in the second stage, forward passes a step",
    )
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="share of the steps spent warming up")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of the adapter's weights")
    max_length: int | None = Field(
        None, ge=16, description="refuse rows longer than this, tokens; unset: model.max_length"
    )
    seed: int = Field(17, description="seed of initialisation and shuffling")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to train")
    gradient_checkpointing: bool = Field(
        False, description="trade a third of the speed for activation memory in any case; "
        "otherwise only where the longest row would not fit without",
    )  # fmt: skip
    batch_tokens: int | None = Field(
        None, ge=16, description="most tokens of a forward pass; unset: what fits into the memory. "
        "Changes the speed, not the result: a step has `batch_size` × `accumulation` rows",
    )  # fmt: skip
    packing: Literal["auto", "never"] = Field(
        "auto", description="rows end to end in a forward pass, each seeing itself alone; `auto`: "
        "in models that keep them apart. Otherwise rows of one length share a pass",
    )  # fmt: skip
    kernels: Literal["auto", "compile", "liger", "none"] = Field(
        "auto", description="Liger's kernels, layers through torch.compile (half a minute to begin "
        "with), or as they are; `auto`: on CUDA Liger's if installed, else what the run pays for",
    )  # fmt: skip
    processes: int = Field(
        1, ge=1, description="processes that share each step, one a GPU, by `accelerate launch`"
    )
    sharded: bool = Field(
        False, description="share the base's weights over the processes (FSDP) instead of having "
        "them whole in each; for a base that one GPU cannot hold",
    )  # fmt: skip
    checkpoint_steps: int = Field(25, ge=1, description="steps between two checkpoints")
    leave_out_share: float = Field(
        0.05, ge=0, le=1, description="most of the pairs that are left out, each by name, because "
        "they cannot be trained on as they were served; with more of them training refuses",
    )  # fmt: skip
    min_pairs: int = Field(8, ge=1, description="fewest pairs worth a training run")
    report_to: tuple[str, ...] = Field(
        (), description="metric trackers of transformers: tensorboard, trackio, mlflow, wandb"
    )
    beside_server: Literal["side_by_side", "pause", "elsewhere"] = Field(
        "side_by_side",
        description="how training and the server share a machine: at once, each with its part of "
        "the memory; one after the other, clients get 503 meanwhile; or on another machine, "
        "then it is refused on the server's own",
    )
    server_share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="part of the GPU's memory that the server takes where both run side by side, "
        "unless `serve.vllm` has `gpu_memory_utilization`",
    )
    drain_seconds: float = Field(
        120,
        ge=0,
        description="how long answers under way have to finish before the server pauses, seconds; "
        "longer ones are cut off",
    )
    reserve_gib: float = Field(
        0.5, ge=0, description="memory that training leaves free beside itself, GiB"
    )
