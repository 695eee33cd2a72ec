"""Versions change while users talk: nothing fails, and no answer is a mixture of two.

    python -m benchmarks.swap [--json FILE] [--seconds 30] [--users 16]

Two random adapters of the tiny model stand behind one alias; which is live alternates by events
in the ledger, each as soon as the server follows the one before. Meanwhile users ask greedy
questions by the alias, streaming and not. Every answer must be what the version that it names
answers when it is alone, and that version must have been live between the question and the
answer. Prefix caching is on and the questions share a long beginning, so that a cache which
mixed the versions up would show.

`swap_seconds` is the time from just before an event is appended until `GET /v1/deployments`
shows it: what comes in from then on is answered by the new version (`stale` counts what is not).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import httpx

from benchmarks.adapters import publish_random_adapter
from benchmarks.report import finish, markdown, parser
from benchmarks.tiny import fresh_folder, write_tiny_config
from flywheel.running import RunningServer, free_port
from flywheel.server import Server
from ledger.deployments import Deployments, version_name
from ledger.errors import FlywheelError
from ledger.settings import Settings, load
from ledger.store import Store

ALIAS = "support"
WHO = "benchmark:swap"
# Longer than the blocks of vLLM's prefix cache (128 tokens on a CPU).
BEGINNING = "You sort messages. " + " ".join(f"Queue {n} takes matter {n}." for n in range(40))
QUESTIONS = [
    f"Where does {matter} go?"
    for matter in (
        "a lost card",
        "a late parcel",
        "a double charge",
        "a new address",
        "a broken screen",
        "a forgotten password",
        "a wrong colour",
        "a refund",
        "a complaint",
        "an invoice",
        "a question on fees",
        "a closed account",
    )
]
MAX_TOKENS = 16


class Answer(NamedTuple):
    """What came back: every version that the answer names, and its text."""

    versions: frozenset[str]
    text: str


class Answered(NamedTuple):
    """One question under load; `first` and `last` bound the changes it may have been under."""

    question: int
    answer: Answer | None
    first: int
    last: int


class Swapper(threading.Thread):
    """Makes two versions live in turn, as fast as the server follows.

    Attributes:
        live: the pinned name that each change makes live, oldest first; the last one may be
            still under way.
        followed: index of the last change that the server has shown.
        seconds: how long each took, from just before its event was appended.
        error: what ended it early.
    """

    def __init__(self, deployments: Deployments, server: Server) -> None:
        super().__init__(name="swapper")
        self._deployments, self._server = deployments, server
        self._stop_now = threading.Event()
        self.live: list[str] = []
        self.followed = -1
        self.seconds: list[float] = []
        self.error: FlywheelError | None = None

    def stop(self) -> None:
        """End after the change that is under way."""
        self._stop_now.set()
        self.join()

    def run(self) -> None:
        """Swap until stopped."""
        try:
            for version in itertools.cycle((2, 1)):
                if self._stop_now.is_set():
                    return
                self.swap(version)
        except FlywheelError as error:
            self.error = error

    def swap(self, version: int) -> None:
        """One change: append the event, wait until the server shows it."""
        started = time.perf_counter()
        self.live.append(version_name(ALIAS, version, ""))
        seq = self._deployments.promote(ALIAS, version, who=WHO, why="benchmark").event.seq
        while self._server.deployments()["aliases"][ALIAS]["event"] < seq:
            if time.perf_counter() - started > 30:
                raise FlywheelError(f"the server does not follow event {seq} of {ALIAS}")
            time.sleep(0.005)
        self.seconds.append(time.perf_counter() - started)
        self.followed = len(self.live) - 1

    def allowed(self, answered: Answered) -> set[str]:
        """Names of the versions that were live while a question was under way."""
        return set(self.live[answered.first : answered.last + 1])


async def ask(client: httpx.AsyncClient, model: str, question: int, *, stream: bool) -> Answer:
    """One greedy answer.

    Raises:
        httpx.HTTPError: it failed, or broke off.
    """
    body = {
        "model": model,
        "messages": [
            {"role": "system", "content": BEGINNING},
            {"role": "user", "content": QUESTIONS[question]},
        ],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "stream": stream,
    }
    if not stream:
        response = (await client.post("chat/completions", json=body)).raise_for_status()
        found = response.json()
        text = found["choices"][0]["message"]["content"]
        return Answer(frozenset({found["model"]}), text)
    versions, parts, done = set(), [], False
    async with client.stream("POST", "chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                done = True
            elif data:
                chunk = json.loads(data)
                if "error" in chunk:
                    raise httpx.ReadError(str(chunk["error"]))
                versions.add(chunk["model"])
                parts += [c["delta"].get("content") or "" for c in chunk["choices"]]
    if not done:
        raise httpx.ReadError("the stream broke off")
    return Answer(frozenset(versions), "".join(parts))


async def load_alias(url: str, swapper: Swapper, users: int, seconds: float) -> list[Answered]:
    """Have users ask by the alias for a while."""
    until = time.perf_counter() + seconds
    answered: list[Answered] = []

    async def user(number: int, client: httpx.AsyncClient) -> None:
        for turn in itertools.count(number):
            if time.perf_counter() > until:
                return
            question, first = turn % len(QUESTIONS), swapper.followed
            try:
                answer = await ask(client, ALIAS, question, stream=turn % 2 == 0)
            except httpx.HTTPError as error:
                print(f"failed: {type(error).__name__} {error}", file=sys.stderr)
                answer = None
            answered.append(Answered(question, answer, first, len(swapper.live) - 1))

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        await asyncio.gather(*(user(number, client) for number in range(users)))
    return answered


async def ask_each_alone(url: str) -> dict[str, list[str]]:
    """What each version answers to each question, one at a time.

    Raises:
        FlywheelError: a question is answered alike by both, so that it would prove nothing.
    """
    found: dict[str, list[str]] = {}
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        for version in (1, 2):
            name = version_name(ALIAS, version, "")
            answers = [await ask(client, name, q, stream=False) for q in range(len(QUESTIONS))]
            found[name] = [answer.text for answer in answers]
    one, two = found.values()
    if alike := [QUESTIONS[n] for n, text in enumerate(one) if text == two[n]]:
        raise FlywheelError(f"both versions answer alike to: {alike}")
    return found


def measure(folder: Path, *, seconds: float, users: int) -> dict[str, float]:
    """Run it all in an empty folder; returns the numbers."""
    config = write_tiny_config(folder, alias=ALIAS)
    settings = load(config)
    for seed in (1, 2):
        publish_random_adapter(settings, ALIAS, folder / "model", seed)
    store = Store.open(settings)
    deployments = Deployments(store)
    for version in (1, 2):
        deployments.promote(ALIAS, version, who=WHO, why="benchmark")
    with RunningServer.flywheel(config, free_port(), folder / "server.log") as running:
        alone = asyncio.run(ask_each_alone(running.url))
        server = Server(running.url, None)
        swapper = Swapper(deployments, server)
        swapper.swap(1)
        swapper.seconds.clear()
        swapper.start()
        try:
            answered = asyncio.run(load_alias(running.url, swapper, users, seconds))
        finally:
            swapper.stop()
        cached = cached_tokens(running.url)
        numbers = server.numbers()
    if swapper.error:
        raise swapper.error
    logged = rows(settings)
    answers = [a for a in answered if a.answer is not None]
    return {
        "requests": len(answered),
        "failed": len(answered) - len(answers),
        "mixed": sum(is_mixed(a, alone) for a in answers),
        "stale": sum(not a.answer.versions <= swapper.allowed(a) for a in answers if a.answer),
        "swaps": len(swapper.seconds),
        "swap_seconds_p50": round(statistics.median(swapper.seconds), 4),
        "swap_seconds_p99": round(percentile(swapper.seconds, 0.99), 4),
        "rows_logged": logged,
        "rows_dropped": numbers["dropped_records"],
        "prefix_cached_tokens": cached,
        "users": users,
        "seconds": seconds,
    }


def is_mixed(answered: Answered, alone: dict[str, list[str]]) -> bool:
    """Whether an answer is not what the one version that it names answers alone."""
    assert answered.answer is not None
    versions, text = answered.answer
    return not any(
        versions == {name} and texts[answered.question] == text for name, texts in alone.items()
    )


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def cached_tokens(url: str) -> float:
    """Prompt tokens that vLLM's prefix cache has answered for so far."""
    text = httpx.get(f"{url.removesuffix('/v1')}/metrics").raise_for_status().text
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("vllm:prefix_cache_hits_total")
    )


def rows(settings: Settings) -> int:
    """Answers in the ledger that were asked for by the alias."""
    store = Store.open(settings)
    count = sum(store.counts(ALIAS).values())
    store.close()
    return count


def main() -> None:
    """Measure and report."""
    arguments = parser("benchmarks.swap", __doc__)
    arguments.add_argument("--seconds", type=float, default=30, help="how long users ask")
    arguments.add_argument("--users", type=int, default=16, help="how many ask at once")
    given = arguments.parse_args()
    numbers = measure(fresh_folder("swap"), seconds=given.seconds, users=given.users)
    finish(
        given,
        name="swap",
        title="Changing versions under load",
        numbers=numbers,
        table=markdown(
            ("", "measured"),
            [
                ("requests", numbers["requests"]),
                ("failed", numbers["failed"]),
                ("mixed: not what the named version answers alone", numbers["mixed"]),
                ("stale: a version that was no longer live when asked", numbers["stale"]),
                ("rows logged", numbers["rows_logged"]),
                ("version changes", numbers["swaps"]),
                ("seconds until a change is obeyed, p50", numbers["swap_seconds_p50"]),
                ("seconds until a change is obeyed, p99", numbers["swap_seconds_p99"]),
            ],
        ),
        notes=f"{given.users} users for {given.seconds:g} s, every second request streaming, "
        "greedy, float32, prefix caching on; all 12 questions are answered differently by the "
        "two versions. A change counts from just before its event is appended until the server "
        "shows it.",
        command=f"python -m benchmarks.swap --seconds {given.seconds:g} --users {given.users}",
    )
    wrong = [name for name in ("failed", "mixed", "stale") if numbers[name]]
    if wrong or numbers["rows_logged"] != numbers["requests"]:
        sys.exit(f"not as it must be: {', '.join(wrong) or 'rows_logged'}")


if __name__ == "__main__":
    main()
