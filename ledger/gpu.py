"""The memory of this machine's NVIDIA GPUs and who has it, as `nvidia-smi` says. No CUDA context.

Asking the driver through CUDA would itself take some hundred MiB in each process that asks.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

_MIB = 2**20


class Gpu(NamedTuple):
    """One GPU; memory in bytes."""

    number: int
    uuid: str
    total: int
    free: int


class User(NamedTuple):
    """A process that has memory on a GPU, in bytes; 0 where the driver does not say."""

    uuid: str
    pid: int
    name: str
    used: int


def gpus(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs that a process with this environment may use, in the driver's order."""
    found = [
        Gpu(int(index), uuid, _bytes(total), _bytes(free))
        for index, uuid, total, free in _ask("--query-gpu=index,uuid,memory.total,memory.free")
    ]
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    words = [word.strip() for word in visible.split(",") if word.strip()]
    return [
        gpu
        for gpu in found
        if any(word == str(gpu.number) or gpu.uuid.startswith(word) for word in words)
    ]


def users() -> list[User]:
    """Processes with memory on a GPU, the largest first. In a container only its own are seen."""
    rows = _ask("--query-compute-apps=gpu_uuid,pid,process_name,used_memory")
    found = [User(uuid, int(pid), name, _bytes(used)) for uuid, pid, name, used in rows]
    return sorted(found, key=lambda user: -user.used)


def free_bytes() -> int | None:
    """Free memory of all GPUs that this process may use; None where there is none."""
    found = gpus()
    return sum(gpu.free for gpu in found) if found else None


def _ask(query: str) -> list[list[str]]:
    """Rows of an answer; none where there is no driver, or it does not answer."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        done = subprocess.run(
            [command, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
    return [row for row in rows if row]


def _bytes(mebibytes: str) -> int:
    return int(mebibytes) * _MIB if mebibytes.isdigit() else 0
