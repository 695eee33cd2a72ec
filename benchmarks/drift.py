"""How often drift is noticed where there is none, and how soon where there is one.

    python -m benchmarks.drift [--months N] [--json FILE] [--results]

Simulated months with the shipped defaults: a week of warm-up, then 30 days of 1,000 feedback
events a day and five times as many answers, with nights and weekends. Every hour goes through the
code of production from the hour's numbers on (`eval.drift.detector`, `calibration`, `gold`). The
quiet months count false alarms over all signals together; in the others negative feedback doubles
at a random hour. Compared with what is commonly done: the same limits on the last 24 hours,
looked at each hour.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.report import finish, parser
from eval.drift.calibration import calibrate
from eval.drift.detector import Watch, adopt, step, warmed
from eval.drift.rules import HOURS_A_DAY, MONTH, Hour, Rule
from eval.drift.signals import SHARES, rules
from eval.drift.watching import gold_step
from ledger.settings import Settings, parse

#: A Monday, 00:00 UTC, hours since the epoch.
START = 20_003 * HOURS_A_DAY
_NIGHT = (4, 3, 2, 2, 2, 4, 8, 16, 26, 34, 38, 40, 38, 38, 36, 34, 32, 30, 26, 22, 18, 14, 10, 6)
_WEEK = (1.2, 1.2, 1.2, 1.2, 1.1, 0.6, 0.5)


class World(NamedTuple):
    """What is true of a simulated product.

    Attributes:
        events: feedback a day; there are five answers to one.
        negatives: share of the feedback.
        days_differ: standard deviation of each day's rates, as a part of them.
    """

    events: float = 1000.0
    negatives: float = 0.05
    days_differ: float = 0.0


def defaults() -> Settings:
    """The shipped settings."""
    raw = {"model": {"name": "base", "path": "nowhere"}, "aliases": {"support": {}}}
    return parse(raw, name="defaults")


def volumes(draw: np.random.Generator, world: World, hours: int) -> Iterator[tuple[int, int, int]]:
    """Hour, feedback events and answers of each hour."""
    night = [part / sum(_NIGHT) for part in _NIGHT]
    week = [part / sum(_WEEK) * 7 for part in _WEEK]
    for k in range(hours):
        mean = world.events * night[k % 24] * week[k // 24 % 7]
        yield START + k, int(draw.poisson(mean)), int(draw.poisson(5 * mean))


def month(
    draw: np.random.Generator, settings: Settings, world: World, names: tuple[str, ...]
) -> Counter[str]:
    """Alarms of a quiet month, by signal."""
    given, found = settings.drift, Counter[str]()
    wanted = {name: rule for name, rule in rules(settings).items() if name in names}
    watches = {name: Watch() for name in wanted}
    days = given.warmup_days
    truth = {"negatives": world.negatives, "edits": 0.06, "unsure": 0.05}
    truth |= {"refusals": 0.02, "errors": 0.01}
    offsets = dict.fromkeys(wanted, 0.0)
    day_rate = 1.0
    for hour, events, answers in volumes(draw, world, int(days * 24) + MONTH):
        if hour % 24 == 0:
            day_rate = math.exp(world.days_differ * draw.standard_normal())
        for name, rule in wanted.items():
            watch = watches[name]
            n = {"negatives": events, "edits": events, "refusals": min(answers, 60)}.get(
                name, answers
            )
            if rule.shift is None:
                s = float(draw.binomial(n, min(truth[name] * day_rate, 1.0)))
            else:  # places: uniform, but for the error of the histogram that they are places in
                middle = 0.5 + offsets[name]
                s = float(n * middle + math.sqrt(n / 12) * draw.standard_normal())
            change = step(watch, rule, Hour(hour, float(n), s), "base")
            found[name] += change is not None and change.kind == "drift"
            own = given.version_warmup_days if rule.per_version else days
            if warmed(watch, days=own, events=given.warmup_events):
                warm = watch.warm or []
                if rule.shift is not None:
                    seen = sum(one[1] for one in warm)
                    offsets[name] = math.sqrt(1 / 12 / seen) * draw.standard_normal()
                    warm = [_places(draw, one) for one in warm]
                adopt(watch, calibrate(warm, rule), "base")
    if "gold" in names:
        found["gold"] += gold_month(draw, settings)
    return found


def _places(draw: np.random.Generator, one: list[float]) -> list[float]:
    return [one[0], one[1], one[1] / 2 + math.sqrt(one[1] / 12) * draw.standard_normal()]


def gold_month(draw: np.random.Generator, settings: Settings, *, flips: float = 0.02) -> int:
    """Alarms of 30 passes over 100 questions, of which a few change by chance each time."""
    right = draw.random(100) < 0.8
    state, alarms = None, 0
    for day in range(31):
        now = right ^ (draw.random(100) < flips)
        scores = {f"q{k}": float(value) for k, value in enumerate(now)}
        state, noticed = gold_step(settings, state, "base", scores, now=day * 86_400.0)
        alarms += sum(one.kind == "drift" for one in noticed)
    return alarms


def noticed(
    draw: np.random.Generator, rule: Rule, settings: Settings, world: World, times: float = 2.0
) -> int | None:
    """Hours until a rise of negative feedback is noticed; None within ten days."""
    given, watch = settings.drift, Watch()
    begun = int(given.warmup_days * 24 + draw.integers(24, 24 * 15))
    for hour, events, _ in volumes(draw, world, begun + 240):
        rate = world.negatives * (times if hour - START >= begun else 1.0)
        s = float(draw.binomial(events, rate))
        change = step(watch, rule, Hour(hour, float(events), s), "base")
        if warmed(watch, days=given.warmup_days, events=given.warmup_events):
            adopt(watch, calibrate(watch.warm or [], rule), "base")
        if change is not None and change.kind == "drift" and hour - START >= begun:
            return hour - START - begun + 1
    return None


def threshold_month(draw: np.random.Generator, settings: Settings, world: World) -> int:
    """Alarms of the bare limits on negatives over the last 24 hours, one an excursion."""
    given = settings.drift
    hours = list(volumes(draw, world, int(given.warmup_days * 24) + MONTH))
    n = np.array([events for _, events, _ in hours])
    s = draw.binomial(n, world.negatives)
    warm = int(given.warmup_days * 24)
    usual = s[:warm].sum() / n[:warm].sum()
    over = np.convolve(s, np.ones(24), "valid") / np.convolve(n, np.ones(24), "valid")
    above = (over > min(given.negatives_ratio * usual, given.negatives_rate))[warm - 23 :]
    return int(np.sum(above[1:] & ~above[:-1]) + above[0])


def _mean(values: list[int]) -> tuple[float, float]:
    """Mean, and upper end of its one-sided 95 % interval."""
    found = np.asarray(values, dtype=float)
    # Where nothing happened in N months: the rule of three.
    reach = max(1.645 * found.std(ddof=1) / math.sqrt(found.size), 3.0 / found.size)
    return float(found.mean()), float(found.mean() + reach)


def main() -> None:
    """Run it."""
    command_line = parser("benchmarks.drift", __doc__)
    command_line.add_argument("--months", type=int, default=200, help="simulated of each kind")
    arguments = command_line.parse_args()
    settings, months = defaults(), arguments.months
    rule = rules(settings)["negatives"]
    names = tuple(SHARES)
    numbers: dict[str, Any] = {}
    lines = ["| quiet months | false alarms in 30 days, all signals | at most (95 %) | by signal |"]
    lines.append("| --- | --- | --- | --- |")
    worlds = {
        "5 % negatives": World(),
        "2 % negatives": World(negatives=0.02),
        "12 % negatives": World(negatives=0.12),
        "50 events a day": World(events=50),
        "days differ by 10 %": World(days_differ=0.10),
    }
    for title, world in worlds.items():
        draw = np.random.default_rng(7)
        runs = [month(draw, settings, world, names) for _ in range(months)]
        value, most = _mean([run.total() for run in runs])
        by = sum(runs, Counter[str]())
        told = ", ".join(f"{name} {count}" for name, count in by.most_common() if count) or "none"
        lines.append(f"| {title} | {value:.3f} | {most:.3f} | {told} |")
        numbers[f"false_alarms_{title}"] = value
    draw = np.random.default_rng(8)
    bare, _ = _mean([threshold_month(draw, settings, World()) for _ in range(months)])
    small, _ = _mean([threshold_month(draw, settings, World(events=50)) for _ in range(months)])
    numbers |= {"false_alarms_bare_limit": bare, "false_alarms_bare_limit_50": small}
    lines.append(f"| bare limits on negatives alone, 1,000 events a day | {bare:.3f} | | |")
    lines.append(f"| bare limits on negatives alone, 50 events a day | {small:.3f} | | |")
    lines += ["", "| negatives double | noticed within 24 h | median, h | 90 % within, h |"]
    lines.append("| --- | --- | --- | --- |")
    for rate in (0.02, 0.05, 0.08, 0.12):
        draw = np.random.default_rng(9)
        found = [
            noticed(draw, rule, settings, World(negatives=rate)) or 9999 for _ in range(months)
        ]
        within = float(np.mean(np.asarray(found) <= 24))
        middle, late = float(np.median(found)), float(np.quantile(found, 0.9))
        lines.append(f"| {rate:.0%} to {2 * rate:.0%} | {within:.1%} | {middle:.0f} | {late:.0f} |")
        numbers[f"within_24h_{rate}"], numbers[f"median_hours_{rate}"] = within, middle
    finish(
        arguments,
        name="drift",
        title="Drift: false alarms, and how soon a doubling is noticed",
        numbers=numbers,
        table="\n".join(lines),
        notes=f"{months} simulated months of each kind, shipped defaults: a budget of one false "
        "alarm in 30 quiet days over all signals. Weekdays have 1,170 feedback events, Sundays "
        "500. `questions` and `new_clusters` look at texts and are not simulated here; they may "
        "use 14 % of the budget.",
        command=f"python -m benchmarks.drift --months {months}",
    )


if __name__ == "__main__":
    main()
