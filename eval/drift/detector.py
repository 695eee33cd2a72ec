"""Has a rate changed, asked again each hour, with a bound on how often the answer is wrong.

A signal is watched as so many observations an hour, each from 0 to 1, and their sum: n and s.
Whatever is watched is brought into that form: negative feedback is 0 or 1, an answer's length
is its place in the lengths of the warm-up, so that a half is usual.

    warm-up   the first days give the baseline: the rate, its bounds, how much hours and days
              scatter beyond chance, and what the time of the day does to it
    watching  each hour the evidence is brought up to date: Σ over all hours at which a change
              might have begun, of the likelihood ratio of everything since. That is the
              Shiryaev-Roberts form of an e-detector: as long as the mean of what comes does not
              exceed the bound of the baseline, the mean time until it reaches A is at least A
              hours, whenever and however often anybody looks. That bound is a wide one, so the
              warm-up ends with simulated quiet months of the same volume, scatter and
              uncertainty, and the level is what few enough of them reach
    drift     the evidence reached its level, and since the likeliest beginning of the change
              there were enough observations, the rate is beyond its limit, and its interval
              leaves the baseline out. Both are needed: sure of a change, and a change that matters
    recovered the likelihood ratio of the baseline against the limit, by Page's CUSUM

Likelihood ratios are Bernoulli's. For observations between 0 and 1 they are a bet that cannot
win on average (log is concave), so the bound holds for these too. Observations of one hour may
hang together: ratios are taken to the power of one over the dispersion that the warm-up had.
With a dispersion above 1 that makes a bet smaller, so it stays one that cannot win.

Knows no ledger and no time but whole hours.

Sources:
    e-detectors, their average run length: Shin, Ramdas & Rinaldo, "E-detectors: a nonparametric
        framework for sequential change detection", New England J. Stat. Data Sci. 2 (2023),
        arXiv 2203.03532
    bets on bounded means: Waudby-Smith & Ramdas, "Estimating means of bounded random variables
        by betting", JRSS B 86 (2024), arXiv 2010.09686
    many starts: Shiryaev, Theory Probab. Appl. 8 (1963); Roberts, Technometrics 8 (1966)
    recovery: Page, Biometrika 41 (1954); interval: Wilson, JASA 22 (1927)
    dispersion: McCullagh & Nelder, "Generalized Linear Models" (1989), section 4.5
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from eval.drift.rules import (
    HOURS_A_DAY,
    LARGEST,
    MONTH,
    MOST,
    Baseline,
    Hour,
    Line,
    Rule,
    block,
    limit_of,
    lines,
)
from eval.drift.windows import Window, over, since_change

#: Hours of the past that are remembered, to find where a change began.
MEMORY = 14 * HOURS_A_DAY
#: Hours that a signal is told from where nothing has changed.
WINDOW = 24

_RECOVERED = math.log(1000)


@dataclass
class Watch:
    """What is remembered of one signal between two hours. Changed in place by `step`.

    Attributes:
        hour: the last one that was taken in.
        version: that the baseline belongs to, or will.
        warm: hours of a warm-up under way; None where there is none.
        evidence: of each line (`up`, `down`, `ceiling`), by alternative.
        recent: the last hours, as corrected for the time of the day.
        drift: since which hour, and what made it one; None where there is none.
        recovery: of Page's CUSUM.
        reference: for places, the histogram that they are places in.
    """

    hour: int | None = None
    version: str | None = None
    warm: list[list[float]] | None = field(default_factory=list)
    baseline: Baseline | None = None
    evidence: dict[str, list[float]] = field(default_factory=dict)
    recent: list[list[float]] = field(default_factory=list)
    drift: dict[str, Any] | None = None
    recovery: float = 0.0
    reference: dict[str, int] | None = None

    def dump(self) -> dict[str, Any]:
        """For a JSON column."""
        return asdict(self)

    @classmethod
    def load(cls, dumped: dict[str, Any]) -> Watch:
        """The inverse of `dump`."""
        known = dict(dumped)
        if known["baseline"] is not None:
            blocks = tuple(known["baseline"]["blocks"])
            known["baseline"] = Baseline(**{**known["baseline"], "blocks": blocks})
        return cls(**known)


class Change(NamedTuple):
    """What an hour brought: `drift`, `recovered` or `replaced` (another version answers now)."""

    kind: str
    window: Window | None
    line: str


def warmed(watch: Watch, *, days: float, events: int) -> bool:
    """Whether a warm-up under way has enough days and observations."""
    warm = watch.warm
    if not warm or watch.hour is None:
        return False
    return (
        watch.hour + 1 - warm[0][0] >= days * HOURS_A_DAY and sum(one[1] for one in warm) >= events
    )


def adopt(watch: Watch, baseline: Baseline, version: str | None) -> None:
    """Take a baseline: the warm-up is over, and evidence is counted from here."""
    watch.baseline, watch.version, watch.warm = baseline, version, None
    watch.evidence = {name: ms for name, ms in watch.evidence.items() if name == "ceiling"}
    watch.recent = []


def step(watch: Watch, rule: Rule, hour: Hour, version: str | None = None) -> Change | None:
    """Take in the next hour; hours in which nothing came are taken in as well.

    Args:
        version: the pinned name that was live at its end.
    """
    watch.hour = hour.hour
    replaced = _version(watch, rule, version)
    if watch.warm is not None and hour.n > 0:
        watch.warm.append([hour.hour, hour.n, hour.s])
        del watch.warm[: -4 * MONTH]
    if rule.shift is not None and watch.baseline is None:
        return replaced  # there is nothing yet that it could be a place in
    hour = _corrected(hour, watch.baseline)
    watch.recent.append([hour.hour, round(hour.n, 4), round(hour.s, 4)])
    while watch.recent and watch.recent[0][0] <= hour.hour - MEMORY:
        del watch.recent[0]
    if watch.drift is not None:
        return _recovering(watch, hour) or replaced
    return _gather(watch, rule, hour) or replaced


def _version(watch: Watch, rule: Rule, version: str | None) -> Change | None:
    """Begin a warm-up where another version answers."""
    if version is None or version == watch.version:
        return None
    first, watch.version = watch.version is None, version
    if first:
        return None
    if not rule.per_version:
        if watch.baseline is not None:
            watch.warm = []  # judged by the old baseline until there is a new one
        return None
    watch.warm = []
    had = watch.drift
    watch.baseline, watch.reference, watch.evidence = None, None, {}
    watch.recent, watch.drift, watch.recovery = [], None, 0.0
    return None if had is None else Change("replaced", None, str(had["line"]))


def _corrected(hour: Hour, baseline: Baseline | None) -> Hour:
    """Without what the time of the day does."""
    if baseline is None or not hour.n:
        return hour
    s = hour.s - hour.n * baseline.blocks[block(hour.hour)]
    return hour._replace(s=min(max(s, 0.0), hour.n))


def _gather(watch: Watch, rule: Rule, hour: Hour) -> Change | None:
    baseline = watch.baseline
    power = 1 / (baseline.dispersion if baseline else max(rule.least_dispersion, 1.0))
    bets = lines(rule, baseline)
    for line in bets:
        s = hour.n - hour.s if line.name == "down" else hour.s
        ms = watch.evidence.get(line.name) or [0.0] * len(line.alternatives)
        for k, q in enumerate(line.alternatives):
            win = power * (
                s * math.log(q / line.null) + (hour.n - s) * math.log((1 - q) / (1 - line.null))
            )
            ms[k] = min((ms[k] + 1) * math.exp(min(win, LARGEST)), MOST)
        watch.evidence[line.name] = ms
    whole = evidence(watch, bets)
    if whole < (baseline.level if baseline else rule.level):
        return None
    strongest = max(bets, key=lambda line: line.weight * sum(watch.evidence[line.name]))
    window = since_change(watch.recent, strongest.null, power, down=strongest.name == "down")
    if window is None or not _matters(window, strongest, rule, baseline):
        return None
    watch.drift = {
        "line": strongest.name,
        "since": window.since,
        "noticed": hour.hour,
        "limit": limit_of(rule, baseline, down=True)
        if strongest.name == "down" and baseline
        else strongest.limit,
    }
    watch.evidence, watch.recovery = {}, 0.0
    return Change("drift", window, strongest.name)


def evidence(watch: Watch, bets: Sequence[Line]) -> float:
    """For a change, over all lines; believed from the baseline's level on."""
    return sum(
        line.weight * sum(ms) / len(ms) for line in bets if (ms := watch.evidence.get(line.name))
    )


def score(watch: Watch, rule: Rule) -> float:
    """How near to drift a signal is, 0 to 1: logarithm of the evidence over that of its level."""
    if watch.drift is not None:
        return 1.0
    level = watch.baseline.level if watch.baseline else rule.level
    whole = evidence(watch, lines(rule, watch.baseline))
    return min(math.log1p(whole) / math.log1p(level), 1.0)


def _matters(window: Window, line: Line, rule: Rule, baseline: Baseline | None) -> bool:
    if window.n < rule.minimum:
        return False
    if line.name == "down":
        return baseline is not None and (
            window.rate <= 1 - line.limit and window.high < baseline.rate
        )
    limits = [line.limit] if rule.ceiling is None else [line.limit, rule.ceiling]
    usual = rule.ceiling if line.name == "ceiling" else baseline.rate if baseline else None
    return window.rate >= min(limits) and window.low > (usual or 0.0)


def _recovering(watch: Watch, hour: Hour) -> Change | None:
    assert watch.drift is not None
    baseline, bad = watch.baseline, float(watch.drift["limit"])
    down = watch.drift["line"] == "down"
    good = bad * 2 / 3 if baseline is None else baseline.rate
    if watch.drift["line"] == "ceiling":
        good = min(good, bad * 2 / 3)
    if down:
        good, bad = max(good, bad * 1.1), max(bad, 1e-6)
    good, bad = (min(max(x, 1e-6), 1 - 1e-6) for x in (good, bad))
    power = 1 / (baseline.dispersion if baseline else 1.0)
    win = power * (
        hour.s * math.log(good / bad) + (hour.n - hour.s) * math.log((1 - good) / (1 - bad))
    )
    watch.recovery = max(watch.recovery + win, 0.0)
    if watch.recovery < _RECOVERED:
        return None
    line, watch.drift, watch.recovery = str(watch.drift["line"]), None, 0.0
    window = over(watch.recent, hour.hour - WINDOW, power)
    watch.recent = []
    return Change("recovered", window, line)
