"""A command that does not outlive who started it.

    python -m flywheel.bound LOCK COMMAND…

Runs COMMAND and ends with its exit code. Standard input is a pipe from the parent: when the
parent is gone, however it ended, everything that COMMAND started is killed. LOCK is a file that is
locked until the last of these processes has ended, so that a successor can wait for that: a
killed trainer may hold memory for seconds. Under memory pressure the kernel is to end these
processes first and not the server beside them. Linux; elsewhere grandchildren may stay.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ledger.errors import UsageError

_SUBREAPER, _DEATH_SIGNAL = 36, 1  # prctl(2)
_POLL = 0.02


def command(lock: Path, words: list[str]) -> list[str]:
    """The command line that binds another; give it a pipe as standard input."""
    return [sys.executable, "-m", "flywheel.bound", str(lock), *words]


@contextmanager
def nothing_left(lock: Path, *, seconds: float = 60.0) -> Iterator[None]:
    """Wait until what ran under a lock file has ended. It may run again when the block begins.

    Raises:
        UsageError: it still runs after so long.
    """
    deadline = time.monotonic() + seconds
    with open(lock, "a", encoding="utf-8") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UsageError(
                        f"a process of an earlier attempt still runs: it holds {lock}",
                        remedy=f"`fuser {lock}` names it; end it, then run the same command.",
                    ) from None
                time.sleep(_POLL)
    yield


def main(words: list[str]) -> int:
    """Run a command bound to our parent; returns its exit code."""
    lock, wanted = words[0], words[1:]
    libc = _libc()
    if libc is not None:
        # Orphans of the command become our children, so that none is missed.
        libc.prctl(_SUBREAPER, 1, 0, 0, 0)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with open(lock, "a", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        # Ctrl-C reaches the command by itself; SIGTERM is passed on. We wait for what it does.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child = subprocess.Popen(
            wanted, stdin=subprocess.DEVNULL, preexec_fn=lambda: _set_up_child(libc)
        )
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        threading.Thread(target=_kill_when_orphaned, daemon=True).start()
        code = child.wait()
        _end_all()
    return code if code >= 0 else 128 - code


def _set_up_child(libc: ctypes.CDLL | None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if libc is not None:
        libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)  # should somebody kill us alone


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _kill_when_orphaned() -> None:
    while os.read(0, 4096):
        pass
    _kill_all()


def _kill_all() -> list[int]:
    """Kill all that descends from us; their ids."""
    import psutil

    found = psutil.Process().children(recursive=True)
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return [process.pid for process in found]


def _end_all() -> None:
    """Nothing that the command started lives on: its workers are of no use without it."""
    while _kill_all():
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        time.sleep(_POLL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
