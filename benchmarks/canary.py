"""How often a canary is judged rightly, by simulation with the shipped settings.

Answers come in, users react, and after every 25 answers of the canary the very functions of
`eval.canary` look. Counted is how many good canaries are rolled back at any of these looks, how
many bad ones, and after how many answers. Beside it, on the same answers, what one would use
instead: a z-test of the two rates at each look.

Good means as many negatives and edits as the control. Users who write much, and whose answers
are alike, are simulated too: each has a rate of their own (beta-binomial), and how much they
write is Pareto distributed.
"""

from __future__ import annotations

import math
import sys
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import finish, parser
from eval.canary.evidence import Moments, excluded, harm, seen
from eval.canary.signals import FEWEST, alpha
from eval.stats import share_interval
from ledger.settings.rollout import Rollout

Floats = NDArray[np.float64]

LOOK = 25


class World(NamedTuple):
    """What is simulated.

    Attributes:
        stage: position of the shipped stage.
        control, canary: rates of negatives.
        edits: rate of edits, on both sides.
        horizon: answers of the canary after which one stops looking.
        alike: correlation of the answers of one user; 0: every answer by another user.
        users: of both sides together, where `alike` is above 0.
    """

    stage: int
    control: float
    canary: float
    edits: float = 0.05
    horizon: int = 4000
    alike: float = 0.0
    users: int = 3000


class Outcome(NamedTuple):
    """At how many answers of the canary each repetition ended; infinity where it did not.

    Attributes:
        back: rolled back, by negatives or edits.
        on: expanded: time and number of answers left aside, harm was excluded for both.
        naive: a z-test of negatives, 5 % two-sided, was below zero at a look.
    """

    back: Floats
    on: Floats
    naive: Floats


def simulate(world: World, repetitions: int, seed: int, rollout: Rollout | None = None) -> Outcome:
    """Live a stage many times."""
    rollout = rollout or Rollout()
    share = rollout.stages[world.stage].share / 100
    rng = np.random.default_rng(seed)
    if world.alike:
        parts = [_of_users(world, share, rollout, rng) for _ in range(repetitions)]
        steps = [_stack([one[at] for one in parts]) for at in range(len(parts[0]))]
    else:
        steps = _independent(world, share, repetitions, rng)
    back, on, naive = (np.full(repetitions, np.inf) for _ in range(3))
    stage = rollout.stages[world.stage]
    safe_from = -math.log(rollout.false_expansions)
    for number, metrics in enumerate(steps, start=1):
        answers = float(number * LOOK)
        safe = np.ones(repetitions, dtype=bool)
        harmful = np.zeros(repetitions, dtype=bool)
        for name, (canary, control) in zip(("negatives", "edits"), metrics, strict=True):
            found = seen(canary, control)
            rate = (control.hits + 0.5) / (control.answers + 1)
            most = np.maximum(1 + stage.tolerance, 1 + rollout.tolerance_points / rate)
            fine = excluded(canary, control, most, rollout.tolerance_points) >= safe_from
            shown = harm(found) >= -math.log(alpha(rollout, world.stage, name))
            harmful |= shown & ~fine
            safe &= fine
        if answers >= FEWEST:
            back[harmful & np.isinf(back) & np.isinf(on)] = answers
            on[safe & ~harmful & np.isinf(on) & np.isinf(back)] = answers
            canary, control = metrics[0]
            error = np.sqrt(
                canary.rate * (1 - canary.rate) / canary.answers
                + control.rate * (1 - control.rate) / control.answers
            )
            z = (canary.rate - control.rate) / np.maximum(error, 1e-9)
            naive[(z > 1.96) & np.isinf(naive)] = answers
    return Outcome(back, on, naive)


def still_back(world: World, repetitions: int, seed: int) -> Floats:
    """When harm is shown if nobody ever expands: the worst case for a good canary."""
    rollout = Rollout()
    never = rollout.model_copy(update={"false_expansions": 1e-300})
    return simulate(world, repetitions, seed, never).back


def _independent(
    world: World, share: float, repetitions: int, rng: np.random.Generator
) -> list[list[tuple[Moments, Moments]]]:
    looks = world.horizon // LOOK
    beside = round(LOOK * (1 - share) / share)
    shape = (looks, repetitions)
    hits = [
        (
            rng.binomial(LOOK, canary, shape).cumsum(axis=0).astype(np.float64),
            rng.binomial(beside, control, shape).cumsum(axis=0).astype(np.float64),
        )
        for canary, control in ((world.canary, world.control), (world.edits, world.edits))
    ]
    return [
        [
            (
                Moments.independent(float((at + 1) * LOOK), canary[at]),
                Moments.independent(float((at + 1) * beside), control[at]),
            )
            for canary, control in hits
        ]
        for at in range(looks)
    ]


def _of_users(
    world: World, share: float, rollout: Rollout, rng: np.random.Generator
) -> list[list[list[float]]]:
    """Moments of both sides at each look: [look][metric][side's sums, one after the other]."""
    writes = rng.pareto(1.3, world.users) + 0.2
    writes = writes / writes.sum()
    sides = rng.random(world.users) < share
    answers = round(world.horizon / max(writes[sides].sum(), 1e-3))
    answers = min(answers, round(3 * world.horizon / share))
    of = rng.choice(world.users, answers, p=writes)
    # What one user writes on one day counts for `user_day` at most; 14 days pass.
    day = (np.arange(answers) * 14 // answers) * world.users + of
    _, where, many = np.unique(day, return_inverse=True, return_counts=True)
    weights = np.minimum(1.0, rollout.user_day / many[where])
    spread = (1 - world.alike) / world.alike
    found = []
    for canary, control in ((world.canary, world.control), (world.edits, world.edits)):
        rates = np.where(
            sides,
            rng.beta(canary * spread, (1 - canary) * spread, world.users),
            rng.beta(control * spread, (1 - control) * spread, world.users),
        )
        found.append((rng.random(answers) < rates[of]).astype(np.float64))
    own = np.flatnonzero(sides[of])
    looks = []
    for number in range(1, world.horizon // LOOK + 1):
        at = own[number * LOOK - 1] + 1 if own.size >= number * LOOK else answers
        looks.append([_sums(of[:at], sides, weights[:at], hits[:at]) for hits in found])
    return looks


def _sums(
    of: NDArray[np.intp], sides: NDArray[np.bool_], weights: Floats, hits: Floats
) -> list[float]:
    """The fields of both sides' `Moments`, the canary's first."""
    size = sides.size
    all_, hit = np.bincount(of, weights, size), np.bincount(of, weights * hits, size)
    squares = np.bincount(of, weights**2, size)
    hit_squares = np.bincount(of, weights**2 * hits, size)
    found = []
    for side in (sides, ~sides):
        found += [
            float(all_[side].sum()),
            float(hit[side].sum()),
            float(squares[side].sum()),
            0.0,
            float((all_[side] ** 2 - squares[side]).sum()),
            float((all_[side] * hit[side] - hit_squares[side]).sum()),
            float((hit[side] ** 2 - hit_squares[side]).sum()),
        ]
    return found


def _stack(parts: list[list[list[float]]]) -> list[tuple[Moments, Moments]]:
    values = np.array(parts)  # (repetitions, metrics, 14)
    return [
        (
            Moments(*(values[:, metric, field] for field in range(7))),
            Moments(*(values[:, metric, field] for field in range(7, 14))),
        )
        for metric in range(values.shape[1])
    ]


def _percent(hits: int, of: int) -> str:
    low, high = share_interval(hits, of)
    return f"{hits / of:.2%} ({low:.2%} to {high:.2%})"


def _median(values: Floats, rng: np.random.Generator) -> str:
    """The median with a bootstrap interval; `never` beyond half."""
    draws = np.sort(values)[np.sort(rng.integers(0, values.size, (400, values.size)), axis=1)]
    medians = np.sort(draws[:, values.size // 2])
    shown = [
        f"{one:.0f}" if math.isfinite(one) else "never"
        for one in (np.sort(values)[values.size // 2], medians[10], medians[389])
    ]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


WORLDS = {
    "good, 10 % negatives, at 5 %": World(0, 0.10, 0.10),
    "good, 10 % negatives, at 50 %": World(1, 0.10, 0.10, horizon=6000),
    "good, 2 % negatives, at 5 %": World(0, 0.02, 0.02, edits=0.01),
    "good, 1 % negatives, no edits, at 5 %": World(0, 0.01, 0.01, edits=0.0),
    "good, 30 % negatives, at 5 %": World(0, 0.30, 0.30, edits=0.2),
    "better, 10 → 7 %, at 5 %": World(0, 0.10, 0.07),
    "better, 10 → 7 %, at 50 %": World(1, 0.10, 0.07, horizon=6000),
    "bad, 10 → 15 %, at 5 %": World(0, 0.10, 0.15),
    "bad, 10 → 15 %, at 50 %": World(1, 0.10, 0.15, horizon=6000),
    "bad, 10 → 20 %, at 5 %": World(0, 0.10, 0.20),
    "good, heavy users alike (.1), at 5 %": World(0, 0.10, 0.10, horizon=1500, alike=0.1),
    "bad 10 → 15 %, heavy users alike (.1), at 5 %": World(0, 0.10, 0.15, horizon=1500, alike=0.1),
}


def main() -> int:
    """Run the simulation and print the table."""
    arguments = parser("benchmarks.canary", __doc__)
    arguments.add_argument("--repetitions", type=int, default=4000)
    given = arguments.parse_args()
    started, rng = time.monotonic(), np.random.default_rng(1)
    numbers: dict[str, float | int | str] = {"repetitions": given.repetitions}
    lines = [
        "| canary | rolled back | by a z-test at each look | canary's answers until back, median "
        "| until harm above the tolerance is excluded, median | expanded within |",
        "|---|---|---|---|---|---|",
    ]
    for number, (name, world) in enumerate(WORLDS.items()):
        many = given.repetitions if not world.alike else max(50, given.repetitions // 10)
        out = simulate(world, many, seed=number)
        back, on = np.isfinite(out.back), np.isfinite(out.on)
        naive = np.isfinite(out.naive)
        bad = world.canary > world.control
        lines.append(
            f"| {name} | {_percent(int(back.sum()), many)} | {naive.mean():.0%} "
            f"| {_median(out.back, rng) if bad else '–'} "
            f"| {_median(out.on, rng) if not bad else '–'} "
            f"| {on.mean():.1%} of {world.horizon} |"
        )
        key = name.replace(" ", "_")
        numbers |= {
            f"{key}/back": float(back.mean()),
            f"{key}/back_median": float(np.median(out.back)) if back.mean() > 0.5 else "never",
            f"{key}/on": float(on.mean()),
            f"{key}/on_median": float(np.median(out.on)) if on.mean() > 0.5 else "never",
            f"{key}/naive": float(naive.mean()),
        }
        print(lines[-1], file=sys.stderr)
    for name in ("good, 10 % negatives, at 5 %", "good, 10 % negatives, at 50 %"):
        worst = np.isfinite(still_back(WORLDS[name], given.repetitions, seed=99))
        lines.append(
            f"| {name}, never expanded | {_percent(int(worst.sum()), given.repetitions)} "
            f"| – | – | – | – |"
        )
        numbers[f"{name.replace(' ', '_')}/back_never_expanded"] = float(worst.mean())
    finish(
        given,
        name="canary",
        title="Judging a canary",
        numbers=numbers,
        table="\n".join(lines),
        notes=(
            f"Looks every {LOOK} answers of the canary, shipped settings, {given.repetitions} "
            "repetitions (a tenth of it with users who are alike), 95 % intervals, "
            f"{time.monotonic() - started:.0f} s. Time and number of answers that a stage needs "
            "are left aside: they come on top. Edits 5 % on both sides unless the rates say "
            "otherwise. The tolerance is half as many again at 5 % and a quarter at 50 %."
        ),
        command="python -m benchmarks.canary",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
