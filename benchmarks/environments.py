"""Environments for what a benchmark compares with, beside our own: their pins contradict ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.tiny import ROOT
from ledger.errors import FlywheelError


def make(folder: Path, needs: str) -> None:
    """Make an environment and install a requirements file of this project into it.

    Raises:
        FlywheelError: it cannot be made.
    """
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [*pip, "install", "--quiet", "--requirement", str(ROOT / needs)],
    ):
        if subprocess.run(command).returncode:
            raise FlywheelError(f"this failed: {' '.join(command)}")
