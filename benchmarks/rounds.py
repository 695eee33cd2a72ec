"""The wheel turns three times, and a version that was taught nonsense is refused.

    python -m benchmarks.rounds --data train.csv --gold test.csv [--json FILE]

A product sorts messages (columns `text,category`) into all their categories with the demo's
model. Each day its users write, correct what is wrong, and in the evening `flywheel retrain` makes
a version from all corrections so far and puts it before the gate against the one that is live; a
version that passes is promoted. Real vLLM, real TRL, the commands that an operator types.

After the last day somebody with an operator's rights corrects a share of all those answers again,
with a wrong category drawn at random. The version trained on that must be refused: exit code 100,
with the answers that it broke.

`pass` of a day is what the command said: 0 means passed, 100 refused.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks.report import finish, markdown, parser
from curate.judging.decisions import correct
from flywheel.demo.product import Product
from flywheel.demo.stream import Message, make_stream, write_gold
from flywheel.model import fetch
from flywheel.rollout import promote
from flywheel.running import RunningServer, free_port
from flywheel.server import Server
from ledger.errors import FlywheelError, GateRefused
from ledger.files import read_json, write_atomic
from ledger.settings import Settings, load
from ledger.store import Store

ALIAS = "support"
_SEED = 23


class Round(NamedTuple):
    """One day, or the attack at the end. Scores are shares of gold questions, 0 to 1."""

    name: str
    messages: int
    right: float | None
    corrections: int
    version: str
    pairs: int
    live: float
    candidate: float
    low: float
    high: float
    verdict: str
    exit_code: int
    fixed: int
    broken: int
    seconds: dict[str, float]


class Wheel:
    """A server on its own folder, and everything that happens to it."""

    def __init__(self, settings: Settings, config: Path, home: Path) -> None:
        self.settings, self.config = settings, config
        self.running = RunningServer.flywheel(config, settings.serve.port, home / "server.log")
        self.store = Store.open(settings)

    def day(self, name: str, messages: list[Message]) -> Round:
        """A day's traffic, its corrections, a retrain, and the promotion of what passed."""
        started = time.monotonic()
        right, corrections = asyncio.run(self._serve(messages))
        traffic = time.monotonic() - started
        print(f"{name}: {right:.1%} of {len(messages)} right, {corrections} corrected", flush=True)
        found = self.retrain(name)
        if found.exit_code == 0:
            change = promote(
                self.settings,
                self.store,
                ALIAS,
                version=found.version,
                share=None,
                because=f"{name}: the gate passed",
            )
            Server(self.running.url, None).wait_for_event(ALIAS, change.event.seq)
        return found._replace(
            messages=len(messages),
            right=right,
            corrections=corrections,
            seconds={"traffic": traffic, **found.seconds},
        )

    async def _serve(self, messages: list[Message]) -> tuple[float, int]:
        product = Product(self.running.url, None, ALIAS)
        try:
            replies = await product.serve(messages, correct=True)
        finally:
            await product.close()
        if product.failures:
            raise FlywheelError(f"requests failed: {product.failures[:3]}")
        return sum(reply.right for reply in replies) / len(replies), product.corrections

    def retrain(self, name: str) -> Round:
        """`flywheel retrain`, in a process of its own."""
        started = time.monotonic()
        words = ["--config", str(self.config), "retrain", ALIAS]
        words += ["--url", self.running.url, "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "flywheel.cli", *words], stdout=subprocess.PIPE, text=True
        )
        if done.returncode not in (0, GateRefused.exit_code):
            raise FlywheelError(f"{name}: flywheel retrain ended with {done.returncode}")
        outcome = json.loads(done.stdout)
        gate = read_json(Path(outcome["run"]) / "eval_results.json")["report"]
        low, high = gate["interval"]
        return Round(
            name=name,
            messages=0,
            right=None,
            corrections=0,
            version=outcome["version"],
            pairs=read_json(Path(outcome["run"]) / "dataset/manifest.json")["pairs"],
            live=gate["gold_baseline"],
            candidate=gate["gold_candidate"],
            low=low,
            high=high,
            verdict=outcome["verdict"],
            exit_code=done.returncode,
            fixed=len(gate["fixed"]),
            broken=len(gate["broken"]),
            seconds={**outcome["seconds"], "retrain": time.monotonic() - started},
        )

    def attack(self, labels: list[str], share: float) -> int:
        """Correct a share of all corrected answers again, wrongly; returns how many."""
        draw = random.Random(_SEED)
        said = {row: c.text for row, c in self.store.corrections(decision="accepted").items()}
        chosen = draw.sample(sorted(said), round(share * len(said)))
        for row_id in chosen:
            # Nor what was answered: that would be no correction.
            taken = (said[row_id], (self.store.interaction(row_id).response or "").strip())
            wrong = draw.choice([label for label in labels if label not in taken])
            correct(self.store, row_id, wrong, "benchmark", "a bad batch")
        return len(chosen)


def prepare(given: Any, home: Path) -> tuple[Settings, Path, list[Message], list[str]]:
    """The configuration of the demo in a folder of its own, and the product's users."""
    stream = make_stream(given.data, given.gold, labels=given.labels, gold_size=given.gold_size)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    write_gold(home / "gold.jsonl", stream.gold)
    raw = yaml.safe_load(Path(given.config).read_text(encoding="utf-8"))
    raw["var"] = str(home)
    raw.setdefault("ledger", {})["url"] = f"sqlite:///{home / 'ledger.db'}"
    raw.setdefault("privacy", {})["key_file"] = str(home / "keys/subject.key")
    raw.setdefault("serve", {})["port"] = free_port()
    raw["aliases"][ALIAS].setdefault("gate", {})["gold"] = [str(home / "gold.jsonl")]
    raw.setdefault("curate", {})["trusted_sources"] = ["user", "operator"]
    config = home / "config.yaml"
    write_atomic(config, yaml.safe_dump(raw, sort_keys=False).encode())
    return load(config), config, stream.traffic, stream.labels


def measure(given: Any) -> list[Round]:
    """All days and the attack."""
    home = Path(given.home)
    settings, config, traffic, labels = prepare(given, home)
    if len(traffic) < given.days * given.messages:
        raise FlywheelError(
            f"{len(traffic)} messages for {given.days} days of {given.messages}",
            remedy="Lower --messages or --days.",
        )
    print(f"{len(labels)} categories, {given.messages} messages a day", flush=True)
    fetch(settings)
    wheel = Wheel(settings, config, home)
    rounds = []
    with wheel.running:
        for day in range(given.days):
            part = traffic[day * given.messages : (day + 1) * given.messages]
            rounds.append(wheel.day(f"day {day + 1}", part))
            print(_line(rounds[-1]), flush=True)
        flipped = wheel.attack(labels, given.flip)
        name = f"{given.flip:.0%} flipped"
        rounds.append(wheel.retrain(name)._replace(corrections=flipped))
        print(_line(rounds[-1]), flush=True)
    wheel.store.close()
    return rounds


def _line(found: Round) -> str:
    return (
        f"{found.name}: {found.version} {found.verdict} (exit {found.exit_code}), "
        f"{found.live:.1%} to {found.candidate:.1%}, {found.broken} broken"
    )


def table_of(rounds: list[Round]) -> str:
    """A row a version."""
    return markdown(
        (
            *("", "users' answers right", "corrected", "pairs", "version"),
            *("gold: live", "candidate", "difference, points", "fixed / broken", "verdict"),
            *("exit code", "train, gate, s"),
        ),
        [
            (
                found.name,
                "" if found.right is None else f"{found.right:.1%} of {found.messages}",
                found.corrections,
                found.pairs,
                found.version,
                f"{found.live:.1%}",
                f"{found.candidate:.1%}",
                f"{100 * found.low:+.1f} to {100 * found.high:+.1f}",
                f"{found.fixed} / {found.broken}",
                found.verdict,
                found.exit_code,
                f"{found.seconds.get('train', 0):.0f}, {found.seconds.get('gate', 0):.0f}",
            )
            for found in rounds
        ],
    )


def main() -> int:
    """The command line; 1 where a day's version was refused or the attack's was not."""
    made = parser("benchmarks.rounds", __doc__)
    made.add_argument("--data", type=Path, help="labelled CSV; by default the demo's messages")
    made.add_argument("--gold", type=Path, help="labelled CSV of the gate; else a fifth of --data")
    made.add_argument("--labels", type=int, help="only so many categories; by default all")
    made.add_argument("--days", type=int, default=3)
    made.add_argument("--messages", type=int, default=500, help="a day")
    made.add_argument("--gold-size", type=int, default=500)
    made.add_argument("--flip", type=float, default=0.3, help="share of labels, 0 to 1")
    made.add_argument("--config", default="configs/demo.yaml")
    made.add_argument("--home", default="var/rounds", help="folder of the run, emptied first")
    given = made.parse_args()
    rounds = measure(given)
    numbers = {"rounds": [found._asdict() for found in rounds]}
    well = all(found.exit_code == 0 for found in rounds[:-1]) and (
        rounds[-1].exit_code == GateRefused.exit_code and rounds[-1].broken > 0
    )
    finish(
        given,
        name="rounds",
        title="Three versions in a row, and one that is refused",
        numbers={**numbers, "well": well},
        table=table_of(rounds),
        notes="Each day the users of a product write to what is live and correct it; each version "
        "is trained from the base on all corrections so far and judged against the live one. "
        "The last was trained after an operator had corrected a share of all answers again, "
        "with a wrong category drawn at random.",
        command="python -m benchmarks.rounds " + " ".join(sys.argv[1:]),
    )
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
