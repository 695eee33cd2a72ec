"""The base model's end tokens, and the machine that trains on it.

No model is loaded here; torch is imported only to ask for a device.
"""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ledger.errors import ConfigError
from ledger.settings import Train


def stop_ids(folder: Path) -> set[int]:
    """The ids at which a server ends an answer, as the model's generation_config says.

    Raises:
        ConfigError: the file is not JSON.
    """
    file = folder / "generation_config.json"
    if not file.exists():
        return set()
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}") from error
    return set(found) if isinstance(found, list) else set() if found is None else {found}


def device(train: Train, dtype: str) -> str:
    """`cpu` or `cuda`.

    Raises:
        ConfigError: the machine or the number format does not allow what is set.
    """
    import torch

    available = torch.cuda.is_available()
    if train.device == "cuda" and not available:
        raise ConfigError(
            "train.device is cuda, and PyTorch sees no CUDA device here",
            remedy="Set train.device to auto or cpu, or start on a machine with a GPU.",
        )
    chosen = "cuda" if available and train.device != "cpu" else "cpu"
    if chosen == "cpu" and dtype == "float16":
        raise ConfigError(
            "model.dtype is float16, which trains on CUDA only",
            remedy="Set model.dtype to bfloat16 or float32.",
        )
    return chosen


def use_physical_cores() -> int:
    """Let PyTorch use each physical core that it may use once; OMP_NUM_THREADS overrules.

    Two threads on one core's vector units slow matrix products down. Returns the threads used.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        files = (
            Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
            for number in os.sched_getaffinity(0)
        )
        cores = {file.read_text() for file in files if file.exists()}
        if cores:
            torch.set_num_threads(len(cores))
    return torch.get_num_threads()


def hardware(chosen: str) -> dict[str, Any]:
    """What trained: processor or GPU, threads, memory in GiB."""
    import torch

    found: dict[str, Any] = {
        "device": chosen,
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }
    if chosen == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["gpu_memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
    return found


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
