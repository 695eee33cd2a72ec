"""What a bill is made of, and what an answer costs that is served here."""

from __future__ import annotations

from typing import Any, NamedTuple

from ledger import pricing
from ledger.settings import Settings

#: In this order they are shown.
WHATS = ("serving", "training", "gate", "shadow", "teacher", "judge")


class Rate(NamedTuple):
    """Seconds of the box a token, prompt and answer alike; None where no gate measured it."""

    seconds: float | None
    said: str


class Line(NamedTuple):
    """What went into one thing.

    Attributes:
        alias, version: None: no alias was asked for; spent on no version in particular.
        what: see `WHATS`.
        calls: answers, trainings, or questions asked.
        gpu_seconds: of the box; of serving an estimate. None where it is unknown, or where another
            one's box was busy.
        cost: in `prices.currency`; None where it is unknown, and `cost_from` says why.
        by_token: whether it is paid by the token, and so on top of the box.
        per_1000: what 1,000 more of the answers cost; of serving only.
        whole_per_1000: the same with the hours in which the box stood idle.
    """

    alias: str | None
    version: str | None
    what: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    gpu_seconds: float | None
    cost: float | None
    cost_from: str
    by_token: bool = False
    per_1000: float | None = None
    whole_per_1000: float | None = None


class Thousand(NamedTuple):
    """1,000 answers of one model, and its cost as a multiple of the base's and the teacher's.

    Attributes:
        role: live, base or teacher.
        asked: what its answers were to: `gate`, the same questions for all; `served`; `asked`,
            the stored questions of a distillation; "" where it gave none.
    """

    role: str
    model: str
    asked: str
    answers: int
    tokens: float
    cost: float | None
    cost_from: str
    against_base: float | None = None
    against_teacher: float | None = None


class Box(NamedTuple):
    """What the boxes cost by the clock. Costs are None where `prices.gpu_hour` is not set.

    Attributes:
        hours: of the time looked at, from the first thing that was recorded.
        busy: share of their time that serving (estimated), training, gates and shadows took; None
            where a part of it is unknown, or no box is paid for by the clock.
    """

    boxes: int
    a_month: float | None
    hours: float
    paid: float | None
    busy: float | None


class Total(NamedTuple):
    """A sum of costs: `known` of those with a price, `cost` None where one has none."""

    cost: float | None
    known: float


class Costs(NamedTuple):
    """The bill. Times are seconds since the epoch.

    Attributes:
        lines: by alias, version and what.
        totals: of an alias's lines, by alias; the box's idle time is in none of them.
        outlay: what was paid in all: boxes by the clock with what is paid by the token, or where
            no box is paid by the clock all lines. Of all aliases.
        thousands: live version, base and teacher, by alias.
    """

    since: float
    until: float
    currency: str
    box: Box
    outlay: float | None
    rates: dict[str, Rate]
    lines: list[Line]
    totals: dict[str, Total]
    thousands: dict[str, list[Thousand]]

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        return {
            **self._asdict(),
            "box": self.box._asdict(),
            "rates": {alias: one._asdict() for alias, one in self.rates.items()},
            "lines": [one._asdict() for one in self.lines],
            "totals": {alias: one._asdict() for alias, one in self.totals.items()},
            "thousands": {
                alias: [one._asdict() for one in them] for alias, them in self.thousands.items()
            },
        }


def serving_cost(settings: Settings, version: str, use: pricing.Use) -> pricing.Cost:
    """What 1,000 answers of a version cost that took so much."""
    by_time = settings.prices.gpu_hour is not None and not pricing.token_price(settings, version)
    if by_time and use.seconds is None:
        return pricing.Cost(None, "unknown: no gate has measured how long a token takes")
    return pricing.per_thousand(settings, version, use)
