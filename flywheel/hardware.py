"""What this machine has, and which configuration fits it. Loads no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from ledger.errors import ConfigError
from ledger.settings import CONFIG_VARIABLE, Settings, load

CPU_CONFIG, GPU_CONFIG = "configs/demo.yaml", "configs/gpu.yaml"


@cache
def has_cuda() -> bool:
    """Whether an NVIDIA driver answers and a device is visible."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    command = shutil.which("nvidia-smi")
    if command is None:
        return Path("/proc/driver/nvidia/version").exists()
    try:
        listed = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU" in listed.stdout


def default_config() -> str:
    """The configuration that FLYWHEEL_CONFIG names, else the one that fits the hardware."""
    return os.environ.get(CONFIG_VARIABLE) or (GPU_CONFIG if has_cuda() else CPU_CONFIG)


def load_fitting(config: str | None) -> tuple[Settings, str]:
    """Read a configuration (by default the one that fits) and check it against the hardware.

    Raises:
        ConfigError: it is malformed, or needs a device that this machine lacks.
    """
    name = config or default_config()
    settings = load(name)
    if settings.needs == "cuda" and not has_cuda():
        raise ConfigError(
            f"{name} needs a CUDA device and this machine shows none",
            rule="Neither `nvidia-smi -L` nor the driver's file in /proc names one.",
            remedy=f"{CPU_CONFIG} works here: make serve CONFIG={CPU_CONFIG}",
        )
    return settings, name
