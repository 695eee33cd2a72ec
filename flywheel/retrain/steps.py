"""Running the steps of a run: each a process of its own, done once, ended with its parent."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from flywheel import bound
from flywheel.stopping import ASKED
from ledger.errors import FlywheelError
from ledger.files import read_json, write_json
from ledger.store import Lease

#: In the run's folder: a note a finished step, and the lock of the one that runs.
DONE = "steps"
LOCK = ".running"
# How often a running step's lease is looked at, seconds.
_LOOK = 0.5


class Stopped(FlywheelError):
    """A step ended with an error it has printed already."""

    def __init__(self, step: str, code: int, run: Path) -> None:
        self.exit_code = code
        super().__init__(
            f"{step} stopped with exit code {code}",
            remedy=f"Run the same command again: it resumes {run}.",
        )


def noted(run: Path) -> dict[str, float]:
    """Seconds of each step of a run that finished."""
    return {file.stem: read_json(file)["seconds"] for file in sorted((run / DONE).glob("*.json"))}


class Step(NamedTuple):
    """A step and how it is run.

    Attributes:
        words: what follows `python -m`, or the whole command where `launcher` is set.
        made: the file in the run's folder that the step writes last.
        accept: exit codes that mean it did its work.
    """

    name: str
    words: Sequence[str]
    made: str
    accept: tuple[int, ...] = (0,)


class Steps:
    """Runs the steps of one run under its lease.

    Attributes:
        seconds: how long each took, also those of earlier attempts that are done.
    """

    def __init__(self, run: Path, lease: Lease, say: Callable[[str], None]) -> None:
        self._run, self._lease, self._say = run, lease, say
        self.seconds: dict[str, float] = {}

    def is_done(self, step: str, made: str) -> bool:
        """Whether a step finished: its note is there, and what it made."""
        return (self._run / DONE / f"{step}.json").exists() and (self._run / made).exists()

    def do(self, step: Step, *, launcher: Sequence[str] = ()) -> int:
        """Run a step, unless it finished before.

        A step that wrote what it makes and was killed before our note is run again, and finds
        that by itself: all of them can be repeated.

        Args:
            launcher: the command that starts `python -m`'s module instead of Python itself.

        Returns:
            Its exit code.

        Raises:
            FlywheelError: it is not one of `step.accept`.
            LeaseLost: somebody else works on the alias now; the step was ended.
        """
        note = self._run / DONE / f"{step.name}.json"
        if self.is_done(step.name, step.made):
            found = read_json(note)
            self.seconds[step.name] = found["seconds"]
            self._say(f"{step.name:<8} done before")
            return int(found["code"])
        self._lease.still_mine()
        self._say(f"{step.name:<8} …")
        started = time.monotonic()
        command = [*(launcher or (sys.executable, "-m")), *step.words]
        code = self._wait(command)
        self.seconds[step.name] = time.monotonic() - started
        if code not in step.accept:
            raise Stopped(step.name, code, self._run)
        self._lease.still_mine()
        write_json(note, {"code": code, "seconds": self.seconds[step.name]})
        self._say(f"{step.name:<8} {self.seconds[step.name]:.0f} s")
        return code

    def _wait(self, words: list[str]) -> int:
        """Run a command. Ctrl-C reaches it too: it saves what it has, so we wait for that."""
        lock = self._run / LOCK
        with bound.nothing_left(lock):
            pass
        # What a step says is for a person; our own output may be JSON for a program.
        process = subprocess.Popen(
            bound.command(lock, words), stdin=subprocess.PIPE, stdout=sys.stderr
        )
        assert process.stdin is not None

        def end(*_: object) -> None:
            ASKED.set()
            process.terminate()

        before = signal.signal(signal.SIGINT, lambda *_: ASKED.set())
        terminate = signal.signal(signal.SIGTERM, end)
        lost = False
        try:
            while True:
                try:
                    code = process.wait(_LOOK)
                    break
                except subprocess.TimeoutExpired:
                    if self._lease.lost.is_set() and not lost:
                        lost = True
                        process.terminate()  # a training saves a checkpoint
        finally:
            process.stdin.close()  # whatever happened here, nothing goes on without us
            signal.signal(signal.SIGINT, before)
            signal.signal(signal.SIGTERM, terminate)
        if lost:
            self._lease.still_mine()
        return code if code >= 0 else 128 - code
