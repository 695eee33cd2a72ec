"""How much memory a training may have beside what runs there already, and keeping it to that.

Whoever serves must not die because a training wants more than there is. So what is free is
measured before the model is loaded, a training that needs more is refused with the numbers, and
one that needs more than it said runs into a cap of its own: on CUDA the allocator's, on the CPU
the process's data segment (`RLIMIT_DATA`, which counts what is allocated, not what is mapped
from files). Should the kernel run out of memory all the same, it ends the training first.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ledger import gpu
from ledger.errors import ConfigError, FlywheelError
from ledger.settings import Train

_GIB = 2**30
# How many of those that hold memory are named.
_NAMED = 3
_CGROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT = 2**60
_REMEDIES = {
    "cuda": "Lower train.batch_size (and raise train.accumulation as much), set "
    "train.gradient_checkpointing, or give training more room: a lower train.server_share "
    "(restart the server), or train.beside_server: pause or elsewhere.",
    "cpu": "Lower train.batch_size (and raise train.accumulation as much), set "
    "train.gradient_checkpointing, end what holds the memory, or set train.beside_server to "
    "elsewhere and train on another machine.",
}


class OutOfRoom(FlywheelError):
    """The training needed more memory than it may have. The same command resumes."""


class Room(NamedTuple):
    """What a training may have on a device, in bytes.

    Attributes:
        free: what nobody uses now, less the reserve.
        total: what the device has, or what this process's control group may have.
        holders: who has the most of the rest, for people.
    """

    device: str
    free: int
    total: int
    holders: tuple[str, ...]

    def require(self, needed: int, what: str = "this training") -> None:
        """Refuse what cannot fit.

        Args:
            needed: an estimate, bytes.

        Raises:
            ConfigError: with what is needed, what is free, who has the rest and what to do.
        """
        if needed > self.free:
            raise ConfigError(
                f"{what} needs about {needed / _GIB:.1f} GiB, {self}",
                rule="A training that does not fit beside the server is not begun.",
                remedy=_REMEDIES[self.device],
            )

    def __str__(self) -> str:
        of = "GPU memory" if self.device == "cuda" else "memory"
        said = f"{self.free / _GIB:.1f} of {self.total / _GIB:.1f} GiB of {of} are free for it"
        return said + (f"; held by {', '.join(self.holders)}" if self.holders else "")


def measure(options: Train, device: str) -> Room:
    """What a training may have here now.

    Args:
        device: `cpu` or `cuda`.
    """
    reserve = round(options.reserve_gib * _GIB)
    if device == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info()
        holders = tuple(
            f"{user.name} (process {user.pid}): {user.used / _GIB:.1f} GiB"
            for user in gpu.users()[:_NAMED]
        )
    else:
        free, total = _free_ram()
        holders = _largest()
    return Room(device, max(0, free - reserve), total, holders)


@contextmanager
def kept(options: Train, device: str) -> Iterator[Room]:
    """Measure the room, and keep this process within it while the block runs.

    Raises:
        OutOfRoom: it ran out of memory in the block; the machine did not.
    """
    room = measure(options, device)
    before = _cap(room)
    try:
        yield room
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfRoom(
            f"training ran out of memory: {room}",
            rule="It is kept to what was free when it began, so that the server beside it lives.",
            remedy=f"{_REMEDIES[device]} Then run the same command: it resumes.",
        ) from error
    finally:
        if before is not None:
            resource.setrlimit(resource.RLIMIT_DATA, before)


def _cap(room: Room) -> tuple[int, int] | None:
    """Set the cap; the limit that was there before, where it is to be set back."""
    if room.device == "cuda":
        import torch

        share = min(1.0, max(0.01, room.free / room.total))
        torch.cuda.set_per_process_memory_fraction(share)
        return None
    with suppress(OSError):
        # For the kernel's choice of whom to end; raising it is allowed to everybody.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    has = _data_bytes()
    if has is None:
        return None  # not Linux
    before = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = has + room.free
    if before[1] != resource.RLIM_INFINITY:
        wanted = min(wanted, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, before[1]))
    return before


def _is_out_of_memory(error: BaseException) -> bool:
    """PyTorch's CPU allocator raises a plain RuntimeError."""
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in text
        or "not enough memory" in text
        or "Cannot allocate memory" in text
    )


# -- what is free ------------------------------------------------------------------------


def _free_ram() -> tuple[int, int]:
    """What can be had without swapping, and how much there is; control groups counted."""
    import psutil

    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    for limit, used in _groups():
        free, total = min(free, limit - used), min(total, limit)
    return max(0, free), total


def _groups() -> Iterator[tuple[int, int]]:
    """(limit, used) of each control group that this process is in and that has a limit, bytes.

    What can be dropped at once, files that were read, is not counted as used.
    """
    if (_CGROUPS / "cgroup.controllers").exists():
        own = _own_group("")
        names = ("memory.max", "memory.current", "inactive_file")
        root = _CGROUPS
    else:
        own = _own_group("memory")
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        root = _CGROUPS / "memory"
    folder = root / own.lstrip("/")
    for group in (folder, *folder.parents):
        if not group.is_relative_to(root):
            break
        limit, used = _number(group / names[0]), _number(group / names[1])
        if limit is not None and used is not None and limit < _NO_LIMIT:
            yield limit, max(0, used - _from_stat(group / "memory.stat", names[2]))


def _own_group(controller: str) -> str:
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return ""
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return ""


def _number(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _from_stat(file: Path, name: str) -> int:
    with suppress(OSError):
        for line in file.read_text(encoding="ascii").splitlines():
            word, _, value = line.partition(" ")
            if word == name:
                return int(value)
    return 0


def _data_bytes() -> int | None:
    """What of this process RLIMIT_DATA counts now."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return None


def _largest() -> tuple[str, ...]:
    import psutil

    found = []
    for process in psutil.process_iter(["pid", "name", "memory_info"]):
        memory = process.info["memory_info"]
        if memory is not None:
            found.append((memory.rss, process.info["name"], process.info["pid"]))
    return tuple(
        f"{name} (process {pid}): {rss / _GIB:.1f} GiB"
        for rss, name, pid in sorted(found, reverse=True)[:_NAMED]
        if rss > _GIB / 10
    )
