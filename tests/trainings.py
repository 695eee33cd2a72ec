"""Runs of `train.sft` in tests: begun, killed and compared."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tiny import freeze_open, write_config

from ledger.dataset import Pair
from ledger.settings import Settings

ROOT = Path(__file__).parents[1]


def new_run(folder: Path, pairs: list[Pair]) -> Path:
    """The folder of a run that has its dataset, and nothing else."""
    freeze_open(folder, alias="support", pairs=pairs, created=0.0)
    return folder


def start(
    settings: Settings,
    run: Path,
    folder: Path,
    *,
    launcher: Sequence[str] = (sys.executable, "-m"),
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """`python -m train.sft` in a process of its own; its configuration lies in a folder."""
    config = write_config(settings, folder / "config.yaml")
    return subprocess.Popen(
        [*launcher, "train.sft", "--config", str(config), "--run", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def weights(run: Path) -> dict[str, object]:
    """The tensors of a run's adapter, by name."""
    from safetensors.torch import load_file

    return load_file(run / "adapter" / "adapter_model.safetensors")


def same(one: Path, other: Path) -> bool:
    """Whether two runs came to the same adapter."""
    import torch

    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return all(torch.allclose(first[name], second[name], rtol=1e-4, atol=1e-6) for name in first)
