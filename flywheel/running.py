"""A server as a child process: started, waited for, ended by its own pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import httpx

from ledger.errors import ServerError


def free_port() -> int:
    """A TCP port on loopback that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class RunningServer:
    """A server in a process of its own, for the demo, tests and benchmarks.

    Args:
        command: what to run; it must answer `/health` on `port` when it is ready.
        log: file that takes its output.
        environment: variables on top of ours.

    Attributes:
        start_seconds: how long it took to be ready.
    """

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        log: Path,
        *,
        environment: dict[str, str] | None = None,
        health: str = "/health",
    ) -> None:
        self.port, self.log = port, log
        self.url = f"http://127.0.0.1:{port}/v1"
        self._health = f"http://127.0.0.1:{port}{health}"
        self._command = list(command)
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.start_seconds = 0.0

    @classmethod
    def flywheel(
        cls, config: Path | str, port: int, log: Path, *options: str, **environment: str
    ) -> RunningServer:
        """`flywheel serve` on a configuration."""
        command = [sys.executable, "-m", "flywheel.cli", "--config", str(config), "serve"]
        command += ["--port", str(port), *options]
        return cls(command, port, log, environment=environment)

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None
        return self._process.pid

    def start(self, seconds: float = 300.0) -> RunningServer:
        """Start it and wait until it is ready.

        Raises:
            ServerError: it ended, or was not ready in time; with the end of its log.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with open(self.log, "ab") as log:
            # A group of its own, so that Ctrl-C reaches us first and we end it in order.
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        while not self._ready():
            code = self._process.poll()
            if code is not None or time.monotonic() - started > seconds:
                self.stop()
                said = f"ended with code {code}" if code is not None else f"not up in {seconds:g} s"
                raise ServerError(f"the server {said}; its log {self.log} ends:\n{self._tail()}")
            time.sleep(0.2)
        self.start_seconds = time.monotonic() - started
        return self

    def _ready(self) -> bool:
        try:
            return httpx.get(self._health, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def _tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, seconds: float = 60.0) -> int | None:
        """End it with SIGTERM, with SIGKILL where that does not do; returns its exit code."""
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        return process.returncode

    def kill(self) -> None:
        """Kill it and its engine at once, as a crash would; the log's writer lives on."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> RunningServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
