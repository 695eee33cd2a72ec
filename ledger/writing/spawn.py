"""Starting the writer process, on the event loop's behalf but not on its time."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

_KERNEL_BUFFER = 4 << 20  # bytes asked for; the kernel may grant less


WRITER = (sys.executable, "-m", "ledger.writing.writer")


class Spawner:
    """Starts writers, one after another.

    Args:
        config: the configuration file that a writer opens the ledger by.
        program: what to start; it gets the arguments of `ledger.writing.writer`.
    """

    def __init__(self, config: Path, program: Sequence[str] = WRITER) -> None:
        self._config, self._program = config, program
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: list[subprocess.Popen[bytes]] = []  # closed their end, and still go on
        self._thread: threading.Thread | None = None
        self._made: socket.socket | OSError | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the last writer that was started."""
        return None if self._process is None else self._process.pid

    def start(self, one_by_one: int) -> socket.socket:
        """A new writer process; returns our end of the way to it, which does not block.

        Args:
            one_by_one: how many of the first records it commits each by itself.

        Raises:
            OSError: no process or file handle is to be had.
        """
        if self._process is not None:
            self._ending.append(self._process)
        # Takes the exit status of the dead, so that no zombie stays.
        self._ending = [process for process in self._ending if process.poll() is None]
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as on_failure, theirs:
            on_failure.callback(ours.close)
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BUFFER)
            ours.setblocking(False)
            command = [*self._program, "--config", str(self._config)]
            command += ["--fd", str(theirs.fileno()), "--one-by-one", str(one_by_one)]
            # A session of its own: Ctrl-C in the server's terminal must not end the writer
            # before it has written what the server accepted.
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            on_failure.pop_all()
        return ours

    def start_aside(self, one_by_one: int, tell: Callable[[], object]) -> None:
        """Start one in a thread, since that reads the disk; `take` has it once `tell` is called.

        `tell` is called in that thread.
        """

        def work() -> None:
            try:
                self._made = self.start(one_by_one)
            except OSError as error:
                self._made = error
            tell()

        self._thread = threading.Thread(target=work, name="flywheel-spawn", daemon=True)
        self._thread.start()

    def take(self) -> socket.socket | None:
        """What the thread made, once; None where there is none or it was taken.

        Raises:
            OSError: no writer could be started.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        made, self._made = self._made, None
        if isinstance(made, OSError):
            raise made
        return made

    def wait(self, seconds: float) -> bool:
        """Wait for the last writer's end; whether it came."""
        if self._process is None:
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True
