"""Settings of training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ledger.settings.section import Section


class Train(Section):
    """How an adapter is trained."""

    rank: int = Field(16, ge=1, description="LoRA rank")
    alpha: float = Field(32, gt=0, description="LoRA alpha; the update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout")
    target_modules: str | tuple[str, ...] = Field(
        "all-linear", description="modules that get an adapter"
    )
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate")
    epochs: float = Field(3, gt=0, description="passes over the dataset")
    batch_size: int = Field(8, ge=1, description="rows a forward pass")
    accumulation: int = Field(1, ge=1, description="forward passes a step")
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="share of the steps spent warming up")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of the adapter's weights")
    max_length: int | None = Field(
        None, ge=16, description="refuse rows longer than this, tokens; unset: model.max_length"
    )
    seed: int = Field(17, description="seed of initialisation and shuffling")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to train")
    gradient_checkpointing: bool = Field(
        False, description="trade a third of the speed for activation memory"
    )
    checkpoint_steps: int = Field(25, ge=1, description="steps between two checkpoints")
    min_pairs: int = Field(8, ge=1, description="fewest pairs worth a training run")
    report_to: tuple[str, ...] = Field(
        (), description="metric trackers of transformers: tensorboard, trackio, mlflow, wandb"
    )
