"""What routing and capturing cost: vLLM alone, with the plugin, and behind a LiteLLM proxy.

    python -m benchmarks.capture [--json FILE] [--rounds 5] [--no-litellm]

They stand side by side on the tiny model, whose answers take milliseconds, so that every cost
besides the model's shows. vLLM alone has the same options and environment as the server with the
plugin, but for the plugin; it is also asked for logprobs, which is what a client would have to do
to learn the confidence that the plugin logs. Each round loads them in turn, in another order each
time, with `vllm bench serve`: one request at a time for the latency, with answers of one token
and of several, then many at once for the throughput. Compared are the servers within a round; the
medians of these ratios and differences count, so that a machine that gets slower meanwhile hits
all alike.

The plugin's server is asked by an alias and logs every answer: its writer process shares the
cores with everything else here, the client included.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from benchmarks import environments
from benchmarks.load import Load, VllmBench
from benchmarks.report import finish, markdown, parser
from benchmarks.tiny import ROOT, fresh_folder, write_tiny_config
from flywheel.hardware import has_cuda
from flywheel.running import RunningServer, free_port
from flywheel.server import Server
from ledger.settings import load
from serve.launch import prepare

ALIAS = "support"
LITELLM = ROOT / ".venv-litellm"
LITELLM_NEEDS = "requirements/litellm.txt"
PROMPT_TOKENS, ANSWER_TOKENS = 64, 8


class Target(NamedTuple):
    """A server under load, the name it is asked for, and whether logprobs are asked for."""

    name: str
    server: RunningServer
    model: str
    logprobs: bool = False


class Round(NamedTuple):
    """One server in one round: one request at a time, the same for one token, many at once."""

    alone: Load
    one_token: Load
    together: Load


def bare(config: Path, log: Path) -> RunningServer:
    """vLLM as the plugin's server runs it, without the plugin."""
    port = free_port()
    plan = prepare(load(config), str(config), [], cuda=has_cuda(), port=port)
    return RunningServer(
        plan.command, port, log, environment={**plan.environment, "VLLM_PLUGINS": ""}
    )


def litellm(behind: RunningServer, folder: Path) -> RunningServer:
    """A LiteLLM proxy in front of a server."""
    config, port = folder / "litellm.yaml", free_port()
    route = {"model": "hosted_vllm/tiny", "api_base": behind.url, "api_key": "none"}
    config.write_text(
        yaml.safe_dump({"model_list": [{"model_name": "tiny", "litellm_params": route}]})
    )
    command = [str(LITELLM / "bin" / "litellm"), "--config", str(config)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        # It listens on loopback for minutes, and vLLM asks for no key here either.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    log = folder / "litellm.log"
    return RunningServer(command, port, log, environment=environment, health="/health/liveliness")


def rounds_of(
    targets: list[Target], bench: VllmBench, *, rounds: int, alone: int, together: int, at_once: int
) -> dict[str, list[Round]]:
    """Load the servers in turn.

    Args:
        alone, together: requests in a round, one at a time and `at_once`.
    """

    def one(target: Target) -> Round:
        def asked(requests: int, at_once: int, answer: int) -> Load:
            return bench.run(
                target.server.url,
                target.model,
                requests=requests,
                at_once=at_once,
                prompt=PROMPT_TOKENS,
                answer=answer,
                logprobs=target.logprobs,
            )

        return Round(
            asked(alone, 1, ANSWER_TOKENS),
            asked(alone, 1, 1),
            asked(together, at_once, ANSWER_TOKENS),
        )

    found: dict[str, list[Round]] = {target.name: [] for target in targets}
    for target in targets:
        one(target)  # warms up server and client; not counted
    for number in range(rounds):
        first = number % len(targets)
        for target in targets[first:] + targets[:first]:
            found[target.name].append(one(target))
            last = found[target.name][-1]
            print(
                f"round {number + 1}, {target.name}: {last.alone.p50_ms:.2f} ms, "
                f"{last.together.requests_per_second:.0f} requests/s",
                file=sys.stderr,
            )
    return found


def compare(found: dict[str, list[Round]]) -> dict[str, float | None]:
    """The numbers, from every server's rounds; those of an absent one are None."""
    numbers: dict[str, float | None] = {}
    for name in ("logprobs", "plugin", "litellm"):
        pairs = list(zip(found.get(name, []), found["bare"], strict=False))
        ratios = [a.together.requests_per_second / b.together.requests_per_second for a, b in pairs]
        added = [a.alone.p50_ms - b.alone.p50_ms for a, b in pairs]
        brief = [a.one_token.p50_ms - b.one_token.p50_ms for a, b in pairs]
        for key, values in (
            ("throughput_ratio", ratios),
            ("added_p50_ms", added),
            ("added_p50_ms_one_token", brief),
        ):
            numbers[f"{key}_{name}"] = round(statistics.median(values), 3) if values else None
            numbers[f"{key}_{name}_lowest"] = round(min(values), 3) if values else None
            numbers[f"{key}_{name}_highest"] = round(max(values), 3) if values else None
    for name, results in found.items():
        for key, values in (
            ("p50_ms", [r.alone.p50_ms for r in results]),
            ("p50_ms_one_token", [r.one_token.p50_ms for r in results]),
            ("p99_ms", [r.alone.p99_ms for r in results]),
            ("requests_per_second", [r.together.requests_per_second for r in results]),
        ):
            numbers[f"{key}_{name}"] = round(statistics.median(values), 3)
    return numbers


def table_of(numbers: dict[str, Any], at_once: int) -> str:
    """The numbers as Markdown."""
    rows = []
    for name, words in (
        ("bare", "vLLM"),
        ("logprobs", "vLLM, asked for logprobs"),
        ("plugin", "vLLM with the plugin"),
        ("litellm", "vLLM behind LiteLLM"),
    ):
        if f"p50_ms_{name}" not in numbers:
            continue
        brief, added, ratio = ("", "", "")
        if name != "bare":
            brief, added, ratio = (
                "{} ({} to {})".format(
                    *(numbers[f"{key}_{name}{end}"] for end in ("", "_lowest", "_highest"))
                )
                for key in ("added_p50_ms_one_token", "added_p50_ms", "throughput_ratio")
            )
        shown = [f"{numbers[f'{key}_{name}']:.2f}" for key in ("p50_ms_one_token", "p50_ms")]
        rate = f"{numbers[f'requests_per_second_{name}']:.0f}"
        rows.append((words, shown[0], brief, shown[1], added, rate, ratio))
    head = ("", "p50 of 1 token, ms", "added, ms", f"p50 of {ANSWER_TOKENS} tokens, ms")
    return markdown((*head, "added, ms", f"requests/s, {at_once} at once", "ratio"), rows)


def measure(
    folder: Path, *, with_litellm: bool, rounds: int, alone: int, together: int, at_once: int
) -> dict[str, Any]:
    """Run it all in an empty folder; returns the numbers."""
    config = write_tiny_config(folder, alias=ALIAS)
    with ExitStack() as stack:
        plain = stack.enter_context(bare(config, folder / "bare.log"))
        plugin = stack.enter_context(
            RunningServer.flywheel(config, free_port(), folder / "plugin.log")
        )
        targets = [
            Target("bare", plain, "tiny"),
            Target("logprobs", plain, "tiny", logprobs=True),
            Target("plugin", plugin, ALIAS),
        ]
        if with_litellm:
            proxy = stack.enter_context(litellm(plain, folder))
            targets.append(Target("litellm", proxy, "tiny"))
        bench = stack.enter_context(VllmBench(folder / "model", folder / "bench.log"))
        found = rounds_of(
            targets, bench, rounds=rounds, alone=alone, together=together, at_once=at_once
        )
        dropped = Server(plugin.url, None).numbers()["dropped_records"]
    return {**compare(found), "rounds": rounds, "rows_dropped": dropped}


def main() -> None:
    """Measure and report."""
    arguments = parser("benchmarks.capture", __doc__)
    arguments.add_argument("--rounds", type=int, default=5, help="how often each server is loaded")
    arguments.add_argument("--alone", type=int, default=100, help="requests one at a time, a round")
    arguments.add_argument("--together", type=int, default=320, help="requests at once, a round")
    arguments.add_argument("--at-once", type=int, default=32, help="how many are under way at once")
    arguments.add_argument("--no-litellm", action="store_true", help="leave the proxy out")
    arguments.add_argument(
        "--make-litellm", action="store_true", help=f"make {LITELLM.name} first where it is absent"
    )
    given = arguments.parse_args()
    if given.make_litellm and not LITELLM.is_dir():
        environments.make(LITELLM, LITELLM_NEEDS)
    with_litellm = not given.no_litellm and (LITELLM / "bin" / "litellm").is_file()
    if not given.no_litellm and not with_litellm:
        print(
            f"No {LITELLM.name}, so no comparison with a proxy. To have one: "
            f"`python -m benchmarks.capture --make-litellm` (installs {LITELLM_NEEDS} there)",
            file=sys.stderr,
        )
    numbers = measure(
        fresh_folder("capture"),
        with_litellm=with_litellm,
        rounds=given.rounds,
        alone=given.alone,
        together=given.together,
        at_once=given.at_once,
    )
    finish(
        given,
        name="capture",
        title="The cost of capturing",
        numbers=numbers,
        table=table_of(numbers, given.at_once),
        notes=f"Tiny model in float32, {PROMPT_TOKENS} tokens in and 1 or {ANSWER_TOKENS} out, "
        f"streamed; load by `vllm bench serve` on the same machine. Medians over {given.rounds} "
        f"rounds of {given.alone} requests one at a time and {given.together} requests "
        f"{given.at_once} at once; added and ratio are against vLLM in the same round, lowest and "
        f"highest in brackets.{_litellm_version() if with_litellm else ''}",
        command="python -m benchmarks.capture"
        + "".join(
            f" --{name} {getattr(given, name.replace('-', '_'))}"
            for name in ("rounds", "alone", "together", "at-once")
        ),
    )


def _litellm_version() -> str:
    code = "from importlib.metadata import version; print(version('litellm'))"
    command = [str(LITELLM / "bin" / "python"), "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return f" LiteLLM {done.stdout.strip()}, one worker."


if __name__ == "__main__":
    main()
