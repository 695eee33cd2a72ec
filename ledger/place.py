"""Where a process runs, so that another one can tell whether it is still alive.

A process id means something only on the machine that gave it, since its last start, and in one
PID namespace (a container has its own); and ids are used again, so the time of the process's
start belongs to it. Two processes that agree on all of that can look at each other in `/proc`.
"""

from __future__ import annotations

import json
import os
import socket
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Place(NamedTuple):
    """A process on a machine.

    Attributes:
        host: the machine's name, for people.
        space: which boot and PID namespace `pid` belongs to; "" where that cannot be told.
        started: the process's start, in the kernel's clock ticks since the boot.
    """

    host: str
    pid: int
    space: str
    started: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_gone(self) -> bool:
        """Whether the process has certainly ended: it ran here and is not there any more."""
        if not self.space or self.space != _space():
            return False
        return _started(self.pid) != self.started

    def to_text(self) -> str:
        """One line, for a column."""
        return json.dumps(self._asdict())

    @classmethod
    def from_text(cls, text: str) -> Place | None:
        """What `to_text` made; None for anything else, such as a person's name."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None


def here() -> Place:
    """This process."""
    pid = os.getpid()
    return Place(socket.gethostname(), pid, _space(), _started(pid) or 0)


@cache
def _space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""  # not Linux: nobody can be seen to be gone


def _started(pid: int) -> int | None:
    """Start of a process that is alive; None where there is none, or only its exit code waits."""
    try:
        # The name in parentheses may hold anything, so what counts is behind the last one.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
