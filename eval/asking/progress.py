"""How far a pass is: a bar on a terminal, lines in a log, with the rate and the time left."""

from __future__ import annotations

import time
from typing import NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_LINES = 10  # in a log, over the whole pass
_QUIET = 30.0  # longest silence in a log, seconds


class Told(NamedTuple):
    """How far it is. `rate` is answers a second of those asked now, `left` seconds; NaN-free."""

    done: int
    total: int
    cached: int
    rate: float | None
    left: float | None


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        """Answers a second."""
        rate = task.fields.get("rate")
        return Text(f"{rate:.1f}/s" if rate else "", style="progress.data.speed")


class Bar:
    """Shows a pass; use it in `with` and hand `update` to `eval.asking.ask`."""

    def __init__(self, console: Console, name: str = "gate") -> None:
        self._console, self._name = console, name
        self._bar = Progress(
            TextColumn(f"{name}: asking"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("asking", total=None)
        self._started = self._said = 0.0
        self._wanted: int | None = None  # of the pass that is shown: a judge's comes after it

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int, total: int, cached: int = 0) -> None:
        """There are so many answers of so many; those of earlier gates are among them."""
        at = time.monotonic()
        if total != self._wanted:
            self._wanted, self._started, self._said = total, at, at
            if cached:
                known = f"{self._name}: {cached} of {total} answers are known from earlier gates"
                self._console.print(known, highlight=False)
        told = self.told(done, total, cached, at - self._started)
        self._bar.update(self._task, completed=done, total=total, rate=told.rate)
        if self._console.is_terminal or not total or done == cached < total:
            return
        tenth = done * _LINES // total > (done - 1) * _LINES // total
        if tenth or at - self._said > _QUIET:
            self._said = at
            line = f"{self._name}: {done} of {total} answers"
            if told.rate is not None and told.left is not None and done < total:
                line += f", {told.rate:.1f}/s, {_clock(told.left)} left"
            self._console.print(line, highlight=False)

    @staticmethod
    def told(done: int, total: int, cached: int, seconds: float) -> Told:
        """What a line says; the rate is None as long as nothing was asked."""
        new = done - cached
        rate = new / seconds if new > 0 and seconds > 0 else None
        left = None if rate is None else (total - done) / rate
        return Told(done, total, cached, rate, left)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
