"""What a gate costs: 500 questions to two versions, against scoring one after the other.

    python -m benchmarks.gate [--json FILE] [--questions 500] [--rounds 3] [--peer lm-eval|inspect]

One vLLM server, without the plugin so that nothing but the asking differs, holds two random
adapters of the tiny model. `python -m eval.gate` asks both in one pass; the peer scores one, then
the other, in a process each, as one does who compares two models with it. All have the same
number of requests under way, greedy sampling and the same longest answer, and each round has
another order. Compared are wall times of processes, from the command to its end: what a user
waits. The part of the peer that is there whatever is asked (`seconds_peer_fixed`) is measured with
one question. All must count the same answers as right.

`seconds_by_question` and `seconds_by_version` are of the asking alone in two orders: all versions
of a question side by side, as the gate asks, or one version after the other. A gate of a new
candidate against a live version that an earlier gate asked (`seconds_live_known`), as each gate but
the first one is, runs in each round, too; `seconds_again` is a gate whose answers are all known.

`ratio` is of the first gate, in which nothing is known; `ratio_live_known` of all later ones.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
import yaml

from benchmarks import environments, gate_peers
from benchmarks.adapters import publish_random_adapter
from benchmarks.gate_peers import Asked
from benchmarks.report import finish, markdown, parser
from benchmarks.tiny import fresh_folder, write_tiny_config
from eval.client import Client, Question
from flywheel.hardware import has_cuda
from flywheel.running import RunningServer, free_port
from ledger.database import tables
from ledger.errors import FlywheelError, GateRefused
from ledger.files import read_json, write_jsonl
from ledger.registry import Version
from ledger.settings import Settings, load
from ledger.store import Store
from serve.launch import prepare

ALIAS = "support"
CANDIDATE, LIVE = f"{ALIAS}@v2", f"{ALIAS}@v1"
SYSTEM = "You sort messages of customers. Answer with the name of one queue only. "
SYSTEM += " ".join(f"Queue {n} takes matter {n}." for n in range(20))
MAX_TOKENS = 16
AT_ONCE = 24


class Gated(NamedTuple):
    """One gate: wall time of the process, of the asking in it, and answers that are right."""

    seconds: float
    asking: float
    right: dict[str, int]
    cached: int


def server(config: Path, log: Path, versions: Sequence[Version]) -> RunningServer:
    """vLLM with the versions in it, and nothing of ours."""
    port = free_port()
    modules = [f"{one.name}={one.path}" for one in versions]
    plan = prepare(
        load(config), str(config), ["--lora-modules", *modules], cuda=has_cuda(), port=port
    )
    return RunningServer(
        plan.command, port, log, environment={**plan.environment, "VLLM_PLUGINS": ""}
    )


def questions(count: int) -> list[str]:
    """As many different ones, with a beginning in common as a product's have."""
    return [
        f"Message {n}: where does the matter of number {n * 7919 % 1000} go, please?"
        for n in range(count)
    ]


def _messages(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


async def answers(url: str, asked: Sequence[str]) -> dict[str, list[str]]:
    """What each version says to each question; it warms the server up, too."""
    found = {}
    async with Client(url, "none", concurrency=AT_ONCE) as client:
        for model in (CANDIDATE, LIVE):
            listed = [Question(model, _messages(text), MAX_TOKENS) for text in asked]
            found[model] = [answer.text for answer in await client.ask_all(listed)]
    return found


async def orders(url: str, asked: Sequence[str]) -> dict[str, float]:
    """Seconds of asking in each order: all versions of a question side by side, or one version
    after the other; forth and back, so that a machine that gets slower hits both."""
    by_question = [(model, text) for text in asked for model in (CANDIDATE, LIVE)]
    by_version = [(model, text) for model in (CANDIDATE, LIVE) for text in asked]
    spent: dict[str, list[float]] = {"by_question": [], "by_version": []}
    async with Client(url, "none", concurrency=AT_ONCE) as client:
        for name, pairs in (
            *(("by_question", by_question), ("by_version", by_version)),
            *(("by_version", by_version), ("by_question", by_question)),
        ):
            started = time.perf_counter()
            await client.ask_all([Question(m, _messages(text), MAX_TOKENS) for m, text in pairs])
            spent[name].append(time.perf_counter() - started)
    return {f"seconds_{name}": round(statistics.mean(each), 2) for name, each in spent.items()}


def gate(config: Path, url: str, run: Path, count: int) -> Gated:
    """One gate, in a process of its own.

    Raises:
        FlywheelError: it broke.
    """
    command = [sys.executable, "-m", "eval.gate", "--config", str(config), "--alias", ALIAS]
    command += ["--candidate", CANDIDATE, "--baseline", LIVE, "--base-url", url, "--run", str(run)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode not in (0, GateRefused.exit_code):
        raise FlywheelError(f"the gate broke:\n{done.stderr[-2000:]}")
    results = read_json(run / "eval_results.json")
    (one,) = results["report"]["sets"]
    right = {CANDIDATE: round(one["candidate"] * count), LIVE: round(one["baseline"] * count)}
    return Gated(seconds, results["seconds"], right, results["cached"])


def forget(settings: Settings, version: str | None = None) -> None:
    """Forget the answers of earlier gates, of one version or of all."""
    store = Store.open(settings)
    table = tables.gate_answers
    gone = (
        sa.delete(table) if version is None else sa.delete(table).where(table.c.version == version)
    )
    with store.transaction() as connection:
        connection.execute(gone)
    store.close()


def measure(folder: Path, *, count: int, rounds: int, peers: Sequence[str]) -> dict[str, Any]:
    """Run it all in an empty folder; returns the numbers.

    Raises:
        FlywheelError: two count different answers as right.
    """
    config = write_tiny_config(folder, alias=ALIAS)
    raw = yaml.safe_load(config.read_text())
    raw["aliases"][ALIAS] = {
        "gate": {
            "gold": [str(folder / "gold.jsonl")],
            "concurrency": AT_ONCE,
            "max_tokens": MAX_TOKENS,
            "base": False,
        }
    }
    config.write_text(yaml.safe_dump(raw))
    settings = load(config)
    versions = [publish_random_adapter(settings, ALIAS, folder / "model", n) for n in (1, 2)]
    texts = questions(count)
    with server(config, folder / "server.log", versions) as running:
        said = asyncio.run(answers(running.url, texts))
        # Some that only one gets right, so that a mixed-up answer would show in the counts.
        right = [said[LIVE if n % 3 else CANDIDATE][n] for n in range(count)]
        write_jsonl(
            folder / "gold.jsonl",
            (
                {
                    "id": f"q{n}",
                    "messages": _messages(text),
                    "checks": [{"type": "exact", "value": answer}],
                }
                for n, (text, answer) in enumerate(zip(texts, right, strict=True))
            ),
        )
        asked = Asked(
            running.url, SYSTEM, list(zip(texts, right, strict=True)), MAX_TOKENS, AT_ONCE
        )
        expected = {
            model: sum(a == b for a, b in zip(said[model], right, strict=True)) for model in said
        }
        times: dict[str, list[float]] = {}
        counts: dict[str, dict[str, int]] = {"asked one by one": expected}

        def ours() -> None:
            forget(settings)
            found = gate(config, running.url, fresh(folder / "runs" / "gate"), count)
            times.setdefault("ours", []).append(found.seconds)
            times.setdefault("asking", []).append(found.asking)
            counts["ours"] = found.right
            forget(settings, CANDIDATE)
            known = gate(config, running.url, fresh(folder / "runs" / "known"), count)
            times.setdefault("known", []).append(known.seconds)
            times.setdefault("asking_known", []).append(known.asking)
            counts["ours, the live version known"] = known.right

        def theirs(name: str) -> None:
            ran = {
                model: gate_peers.run(name, asked, model, folder / name)
                for model in (CANDIDATE, LIVE)
            }
            times.setdefault(name, []).append(sum(one.seconds for one in ran.values()))
            counts[name] = {model: one.right for model, one in ran.items()}

        for number in range(rounds):
            for name in ("ours", *peers)[:: 1 if number % 2 else -1]:
                if name == "ours":
                    ours()
                else:
                    theirs(name)
        ordered = asyncio.run(orders(running.url, texts))
        again = gate(config, running.url, fresh(folder / "runs" / "again"), count)
        few = asked._replace(questions=asked.questions[:1])
        fixed = {name: 2 * gate_peers.run(name, few, LIVE, folder / name).seconds for name in peers}
    if len({tuple(sorted(one.items())) for one in counts.values()}) != 1:
        raise FlywheelError(f"not all count the same answers as right: {counts}")
    numbers: dict[str, Any] = {
        "questions": count,
        "seconds": round(statistics.median(times["ours"]), 2),
        "seconds_asking": round(statistics.median(times["asking"]), 2),
        "seconds_again": round(again.seconds, 2),
        "seconds_live_known": round(statistics.median(times["known"]), 2),
        "seconds_live_known_asking": round(statistics.median(times["asking_known"]), 2),
        "cached_again": again.cached,
        "right_candidate": expected[CANDIDATE],
        "right_live": expected[LIVE],
        **ordered,
    }
    for name in peers:
        numbers[f"seconds_{name}"] = round(statistics.median(times[name]), 2)
        numbers[f"seconds_{name}_fixed"] = round(fixed[name], 2)
        for key, which in (("ratio", "ours"), ("ratio_live_known", "known")):
            ratios = [a / b for a, b in zip(times[which], times[name], strict=True)]
            numbers[f"{key}_{name}"] = round(statistics.median(ratios), 3)
    best = min(peers, key=lambda name: numbers[f"seconds_{name}"])
    return numbers | {
        "peer": gate_peers.version(best),
        "seconds_peer": numbers[f"seconds_{best}"],
        "seconds_peer_fixed": numbers[f"seconds_{best}_fixed"],
        "ratio": numbers[f"ratio_{best}"],
        "ratio_live_known": numbers[f"ratio_live_known_{best}"],
    }


def fresh(run: Path) -> Path:
    """A run's folder that is not there yet."""
    shutil.rmtree(run, ignore_errors=True)
    return run


def table_of(numbers: dict[str, Any], peers: Sequence[str]) -> str:
    """The numbers as Markdown."""
    known = "one pass, the live version known from an earlier gate"
    rows: list[tuple[object, ...]] = [
        ("one pass, nothing known", numbers["seconds"], numbers["seconds_asking"], 1),
        (known, numbers["seconds_live_known"], numbers["seconds_live_known_asking"], "", 1),
        *(
            (
                f"{gate_peers.version(name)}, one after the other",
                numbers[f"seconds_{name}"],
                round(numbers[f"seconds_{name}"] - numbers[f"seconds_{name}_fixed"], 2),
                numbers[f"ratio_{name}"],
                numbers[f"ratio_live_known_{name}"],
            )
            for name in peers
        ),
        ("one pass, all known", numbers["seconds_again"]),
        ("asking alone, versions side by side", "", numbers["seconds_by_question"]),
        ("asking alone, one version after the other", "", numbers["seconds_by_version"]),
    ]
    head = (
        "",
        "seconds, command to end",
        "of it asking",
        "ours, nothing known, against it",
        "ours, live known, against it",
    )
    return markdown(head, [(*row, *[""] * (len(head) - len(row))) for row in rows])


def main() -> None:
    """Measure and report."""
    arguments = parser("benchmarks.gate", __doc__)
    arguments.add_argument("--questions", type=int, default=500)
    arguments.add_argument("--rounds", type=int, default=3, help="how often each is run")
    arguments.add_argument(
        "--peer", choices=gate_peers.NAMES, action="append", help="by default both"
    )
    arguments.add_argument(
        "--make-peers", action="store_true", help="make the peers' environments where absent"
    )
    given = arguments.parse_args()
    peers = tuple(given.peer or gate_peers.NAMES)
    for name in peers:
        folder = gate_peers.environment(name)
        if not folder.is_dir():
            if not given.make_peers:
                sys.exit(
                    f"No {folder.name} to compare with. To have one: `python -m benchmarks.gate "
                    f"--make-peers` (installs {gate_peers.needs(name)} there)"
                )
            environments.make(folder, gate_peers.needs(name))
    numbers = measure(fresh_folder("gate"), count=given.questions, rounds=given.rounds, peers=peers)
    chosen = "".join(f" --peer {name}" for name in given.peer or ())
    finish(
        given,
        name="gate",
        title="One gate",
        numbers=numbers,
        table=table_of(numbers, peers),
        notes=f"{given.questions} questions to two adapters of the tiny model in float32, up to "
        f"{MAX_TOKENS} tokens each, {AT_ONCE} at once, greedy; medians of {given.rounds} rounds in "
        "alternating order, on one server. All count the same answers as right "
        f"({numbers['right_candidate']} and {numbers['right_live']}). Wall time of the commands, "
        "start and reports included; `ratio` is against the faster peer.",
        command=f"python -m benchmarks.gate --questions {given.questions} --rounds {given.rounds}"
        f"{chosen}",
    )


if __name__ == "__main__":
    main()
