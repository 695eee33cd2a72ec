"""The adapter that is trained: PEFT's LoraConfig from the settings, if vLLM can serve it.

Imports peft; the check needs no model and is made before the first step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.errors import ConfigError
from ledger.registry import unservable
from ledger.settings import Settings
from train.recipe import Recipe

if TYPE_CHECKING:
    from peft import LoraConfig

# Options with a setting of their own; given twice, nobody could say which holds.
_OURS = {
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "use_rslora": "rslora",
    "target_modules": "target_modules",
}
# What vLLM could serve, but plain training does not set up: PEFT wants a pass over data first.
_UNPREPARED = ("eva", "lora_ga", "mica")


def lora_config(settings: Settings, recipe: Recipe) -> LoraConfig:
    """The configuration of the adapter.

    Raises:
        ConfigError: PEFT does not know an option, or vLLM could not serve the adapter; each
            thing is named.
    """
    from peft import LoraConfig

    given, modules = settings.train.lora, settings.train.target_modules
    if twice := [f"{name} (set train.{_OURS[name]})" for name in given if name in _OURS]:
        raise ConfigError(
            f"train.lora has {', '.join(twice)}", rule="Each of these has a setting of its own."
        )
    if settings.train.lora.get("task_type", "CAUSAL_LM") != "CAUSAL_LM":
        raise ConfigError("train.lora.task_type is not CAUSAL_LM", rule="Answers are generated.")
    options: dict[str, Any] = {
        **given,
        "task_type": "CAUSAL_LM",
        "r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": settings.train.dropout,
        "use_rslora": settings.train.rslora,
        "target_modules": modules if isinstance(modules, str) else list(modules),
    }
    # Before PEFT sees them: some need packages that are not there, which would be the error then.
    _servable(options, settings.serve.max_lora_rank)
    try:
        return LoraConfig(**options)
    except TypeError as error:
        raise ConfigError(
            f"train.lora: PEFT's LoraConfig refuses it: {error}",
            remedy="PEFT's documentation lists its options.",
        ) from error
    except (ValueError, ImportError) as error:
        raise ConfigError(f"train.lora: PEFT refuses it: {error}") from error


def _servable(options: dict[str, Any], max_rank: int) -> None:
    refused = unservable(options)
    start = options.get("init_lora_weights")
    if start in _UNPREPARED and not refused:
        raise ConfigError(
            f"train.lora.init_lora_weights is {start}",
            rule="It must be prepared from data before training, which is not done here.",
            remedy="Leave it out, or set gaussian or orthogonal.",
        )
    if refused:
        raise ConfigError(
            f"vLLM cannot serve an adapter with {', '.join(refused)}",
            rule="What cannot be served is not trained.",
            remedy="Plain LoRA or train.rslora, on linear layers (q_proj, down_proj, … or "
            "all-linear).",
        )
    ranks = {"rank": options["r"], **(options.get("rank_pattern") or {})}
    above = [f"{name}: {rank}" for name, rank in ranks.items() if rank > max_rank]
    if above:
        raise ConfigError(
            f"the rank is above serve.max_lora_rank {max_rank} ({', '.join(above)})",
            rule="The server would refuse the adapter.",
            remedy="Raise serve.max_lora_rank, or lower the rank.",
        )
