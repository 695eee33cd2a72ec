"""What the settings leave open, decided by the size of the data and of the model.

    setting        unset means
    rank           8 below 20,000 tokens that carry loss, 16 below 1M, 32 below 10M, else 64; never
                   above serve.max_lora_rank. An adapter keeps up with full fine-tuning while it
                   has more parameters than there are tokens to learn; these have by far
    alpha          32: with alpha / rank as the scale the best learning rate hardly depends on the
                   rank. With rsLoRA 8, which is the same scale at rank 16
    learning_rate  5e-5 · 10 · (2000 / hidden size)^P, P 0.0775 for Qwen and 0.781 for others:
                   ten times what full fine-tuning wants; fifteen times in runs of under 100 steps
    epochs         8 below 100 pairs, 4 below 500, 3 below 5,000, 2 below 50,000, else 1. These are
                   the most; the held-out slice ends a run earlier (`train.looks`)
    eval_steps     a tenth of the run

Sources: Schulman et al., "LoRA Without Regret" (Thinking Machines, 2025) for rank, alpha and the
factors ten and fifteen; the fit of the learning rate over Llama and Qwen models is that of
the tinker-cookbook. The numbers of epochs are practice, not theory: few pairs need some hundred
steps to be learned, many are learned in one pass. What is set in the configuration always holds.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from ledger.errors import ConfigError
from ledger.settings import Train

_RANKS = ((20_000, 8), (1_000_000, 16), (10_000_000, 32))
_EPOCHS = ((100, 8), (500, 4), (5_000, 3), (50_000, 2))
_SHORT_RUN = 100  # steps
_LOOKS = 10
#: The learning rate of the second stage as a share of the first's: TRL's own defaults are 2e-5 for
#: SFT and 1e-6 for preferences.
_SECOND = 1 / 20


class Recipe(NamedTuple):
    """Every number that a run is trained with.

    Attributes:
        why: for each that was left open, what decided it.
    """

    rank: int
    alpha: float
    learning_rate: float
    epochs: float
    eval_steps: int
    preference_learning_rate: float
    why: dict[str, str]


def resolve(
    train: Train, *, max_rank: int, pairs: int, tokens: int, model: dict[str, Any]
) -> Recipe:
    """Decide what the settings leave open; see the module.

    Args:
        max_rank: serve.max_lora_rank.
        pairs: examples that are trained on.
        tokens: of these, tokens that carry loss.
        model: the model's config.json.
    """
    why: dict[str, str] = {}
    rank = train.rank
    if rank is None:
        wanted = _tier(_RANKS, tokens, 64)
        rank = min(wanted, max_rank)
        why["rank"] = f"{tokens} tokens carry loss" + (
            f"; {wanted} would be above serve.max_lora_rank" if wanted > max_rank else ""
        )
    alpha = train.alpha
    if alpha is None:
        alpha = 8.0 if train.rslora else 32.0
        why["alpha"] = "rsLoRA" if train.rslora else "plain LoRA"
    epochs = train.epochs
    if epochs is None:
        epochs = float(_tier(_EPOCHS, pairs, 1))
        why["epochs"] = f"{pairs} pairs"
    steps = math.ceil(round(epochs * pairs) / (train.batch_size * train.accumulation))
    rate = train.learning_rate
    if rate is None:
        rate, why["learning_rate"] = _rate(model, steps)
    every = train.eval_steps
    if every is None:
        every = max(1, math.ceil(steps / _LOOKS))
        why["eval_steps"] = f"a tenth of {steps} steps"
    second = train.preference_learning_rate
    if second is None:
        second = float(f"{rate * _SECOND:.2e}")
        if train.preference != "none":
            why["preference_learning_rate"] = "a twentieth of the first stage's"
    return Recipe(rank, alpha, rate, epochs, every, second, why)


def model_config(folder: Path) -> dict[str, Any]:
    """config.json of a model.

    Raises:
        ConfigError: it is not there, or not JSON.
    """
    file = folder / "config.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    return found


def _tier(tiers: tuple[tuple[int, int], ...], size: int, largest: int) -> int:
    return next((value for below, value in tiers if size < below), largest)


def _rate(model: dict[str, Any], steps: int) -> tuple[float, str]:
    """The learning rate for a model, and why."""
    text = model.get("text_config") or model
    width, family = text.get("hidden_size"), str(model.get("model_type", ""))
    times = 15 if steps < _SHORT_RUN else 10
    why = f"{times} times full fine-tuning's in a run of {steps} steps"
    if not isinstance(width, int) or width < 1:
        return 5e-5 * times, why
    power = 0.0775 if "qwen" in family else 0.781
    rate = float(f"{5e-5 * times * (2000 / width) ** power:.2e}")
    return rate, f"{why}, hidden size {width}"
