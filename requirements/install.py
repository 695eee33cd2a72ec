"""Make `.venv` and install exactly what the lock for this machine lists.

Run by the Makefile with any Python; needs nothing but the standard library. It does nothing
when the environment is up to date already.

    cpu.lock   no NVIDIA driver: vLLM's CPU build. torch is not in it: its CPU wheel has a name
               that PyPI does not carry, so it is asked for by version, first where pip is
               configured to look, then at PyTorch's own index.
    gpu.lock   an NVIDIA driver answers: the official vLLM and torch, from PyPI.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.txt"
OLDEST, NEWEST = (3, 11), (3, 13)
TORCH = "2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def main() -> int:
    """Install, or say what is missing."""
    lock = ROOT / "requirements" / ("gpu.lock" if _has_driver() else "cpu.lock")
    wanted = _wanted(lock)
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return 0
    if platform.system() != "Linux":
        return _fail("vLLM runs on Linux; use a Linux machine, a container or WSL")
    python = _python()
    if python is None:
        return _fail("Python 3.11, 3.12 or 3.13 is needed and none was found: install one")
    print(f"Installing {lock.name} into .venv (some minutes and 3 GB, once) …", flush=True)
    if not (VENV / "bin" / "python").exists():
        _run([python, "-m", "venv", str(VENV)])
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    install = [*pip, "install", "--no-deps", "--progress-bar", "off"]
    if lock.name == "cpu.lock":
        torch = f"torch=={TORCH}+cpu"
        if subprocess.run([*install, torch], capture_output=True).returncode:
            _run([*install, "--index-url", TORCH_CPU_INDEX, torch])
    _run([*install, "--require-hashes", "--requirement", str(lock)])
    _run([*install, "--no-build-isolation", "--editable", str(ROOT)])
    STAMP.write_text(wanted)
    return 0


def _wanted(lock: Path) -> str:
    digest = hashlib.sha256()
    for file in (lock, ROOT / "pyproject.toml", Path(__file__)):
        digest.update(file.read_bytes())
    return f"{lock.name} {digest.hexdigest()}\n"


def _has_driver() -> bool:
    """Whether an NVIDIA driver answers; FLYWHEEL_LOCK=cpu or gpu overrides the look."""
    forced = os.environ.get("FLYWHEEL_LOCK")
    if forced:
        return forced == "gpu"
    command = shutil.which("nvidia-smi")
    if command is None:
        return Path("/proc/driver/nvidia/version").exists()
    return subprocess.run([command, "-L"], capture_output=True).returncode == 0


def _python() -> str | None:
    """This Python where it fits, else the newest that does."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return sys.executable
    names = [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    return next((found for name in names if (found := shutil.which(name))), None)


def _run(command: list[str]) -> None:
    if subprocess.run(command).returncode:
        raise SystemExit(_fail(f"this failed: {' '.join(command)}"))


def _fail(message: str) -> int:
    print(f"flywheel set-up: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
