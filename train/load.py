"""What both stages set up alike: the base model, TRL's arguments, quiet libraries."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from ledger.errors import ConfigError
from ledger.settings import Settings

# Longest example, tokens, up to which plain attention beats PyTorch's fused one on the CPU.
_PLAIN_ATTENTION = 128
# The cores count as idle while they are busy for less than this, percent of all their time.
_IDLE_PERCENT = 30


def load_model(
    settings: Settings, folder: Path, chosen: str, longest: int, *, packing: str = "never"
) -> Any:
    """The base model, in the number format of the settings.

    Args:
        chosen: the device, `cpu` or `cuda`.
        longest: tokens of the longest example.
        packing: `auto` gives it an attention for packed rows, if it can have that.

    Raises:
        ConfigError: it cannot be loaded.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from train.fast import setup

    try:
        attention = setup.implementation(AutoConfig.from_pretrained(folder), packing)
        if attention == "sdpa" and chosen == "cpu" and longest <= _PLAIN_ATTENTION:
            attention = "eager"
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, settings.model.dtype), attn_implementation=attention
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"the model in {folder} cannot be loaded: {error}") from error


def load_tokenizer(folder: Path) -> Any:
    """The base model's tokenizer.

    Raises:
        ConfigError: it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the tokenizer in {folder} cannot be read: {error}") from error


def arguments(
    settings: Settings, checkpoints: Path, chosen: str, *, steps: int, rate: float
) -> dict[str, Any]:
    """Arguments that all of TRL's trainers take.

    Args:
        steps: of the run.
        rate: peak learning rate.
    """
    options = settings.train
    return {
        "output_dir": str(checkpoints),
        "use_cpu": chosen == "cpu",
        "bf16": settings.model.dtype == "bfloat16",
        "fp16": settings.model.dtype == "float16",
        # Nothing is cut: `train.data` has refused what is too long.
        "max_length": None,
        "per_device_train_batch_size": options.batch_size,
        "gradient_accumulation_steps": options.accumulation,
        "gradient_checkpointing": options.gradient_checkpointing,
        "max_steps": steps,
        "train_sampling_strategy": "sequential",  # the order is planned
        "learning_rate": rate,
        "warmup_steps": options.warmup_ratio,  # below 1 it is a share of the steps
        "weight_decay": options.weight_decay,
        "seed": options.seed,
        "data_seed": options.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": options.checkpoint_steps,
        "save_total_limit": 2,
        "report_to": list(options.report_to) or "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": chosen == "cuda",
    }


def quiet() -> None:
    """No bars and chatter from the libraries, and no telemetry: what is trained is private."""
    import datasets
    import huggingface_hub.constants
    from transformers.utils import logging as transformers_logging

    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name in ("transformers", "trl", "peft", "accelerate", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)


def half_of_the_cores() -> int:
    """As many threads as leave a server on the same cores room to answer; at least one."""
    import psutil

    cores = psutil.Process().cpu_affinity() if psutil.LINUX else range(os.cpu_count() or 1)
    return max(1, len(cores) // 2)


def set_openmp_waiting() -> None:
    """Let OpenMP's threads spin while they wait, if the cores are idle now; else take half of them.

    On idle cores spinning doubles the speed; when a server uses the same cores, threads that
    spin starve each other and a step takes a minute instead of a second. Even threads that sleep
    wait for each other after every product, and one of them is always preempted: beside a busy
    server two did 4 tokens/s on two cores, one 149. Read by OpenMP when torch is imported, so it
    is decided before; OMP_NUM_THREADS overrules.
    """
    import psutil

    idle = psutil.cpu_percent(interval=1.0) < _IDLE_PERCENT
    os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE" if idle else "PASSIVE")
    if idle:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    else:
        os.environ.setdefault("OMP_NUM_THREADS", str(half_of_the_cores()))
