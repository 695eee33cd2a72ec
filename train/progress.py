"""How training shows itself and how it is stopped: a bar on a terminal, a line a step in a log."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType, TracebackType
from typing import NamedTuple, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class StepReport(NamedTuple):
    """One finished step of `steps`; `loss` in nats a token, `seconds_left` an estimate."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float


class Show(AbstractContextManager["Show"]):
    """Shows steps: `with Show() as show: show.step(report)`.

    Args:
        stream: where to; a bar if it is a terminal, else one line a step.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._bar: Progress | None = None
        if self._stream.isatty():
            self._bar = Progress(
                TextColumn("training {task.completed}/{task.total}"),
                BarColumn(),
                TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:.0f} tokens/s"),
                TimeRemainingColumn(),
                console=Console(file=self._stream),
            )
            self._task = self._bar.add_task("training", total=None, loss=float("nan"), speed=0.0)

    def __enter__(self) -> Show:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """One line."""
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=self._stream, flush=True)

    def step(self, report: StepReport) -> None:
        """One step."""
        if self._bar:
            self._bar.update(
                self._task,
                completed=report.step,
                total=report.steps,
                loss=report.loss,
                speed=report.tokens_per_second,
            )
        else:
            self.say(
                f"step {report.step}/{report.steps}  loss {report.loss:.4f}  "
                f"{report.tokens_per_second:.0f} tokens/s  {report.seconds_left:.0f} s left"
            )


class Stop:
    """Whether somebody asked to stop. `between_steps` is True while a step can be finished."""

    def __init__(self) -> None:
        self.asked = False
        self.between_steps = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Wait for the end of the step; before the first step or when asked twice, stop now."""
        if self.asked or not self.between_steps:
            raise KeyboardInterrupt("stopped before a checkpoint could be saved")
        self.asked = True


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn SIGINT and SIGTERM into a request to stop at the end of the step.

    Signals are left alone outside the main thread, where Python cannot catch them.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # The handler only sets a flag: printing from one can cut into another print.
    before = {
        number: signal.signal(number, stop.on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
