"""Load on an OpenAI-compatible server: vLLM's own serving benchmark, `vllm bench serve`.

Its command does not start with every build of vLLM, and loading it takes longer than a short
run; so one child process loads it once and runs it as often as asked, each time on prompts of
random tokens that no server has seen before. It measures streamed chat completions.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from ledger.errors import ServerError

_KEPT = ("request_throughput", "median_e2el_ms", "p99_e2el_ms", "completed", "failed")


class Load(NamedTuple):
    """One run: requests a second, and milliseconds from a request to its last token."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    completed: int
    failed: int


class VllmBench:
    """`vllm bench serve` in a child process; use it in a `with`.

    Args:
        tokenizer: folder of the tokenizer that the prompts are made with.
        log: file that takes what the tool prints.
    """

    def __init__(self, tokenizer: Path, log: Path) -> None:
        self._tokenizer, self._log = tokenizer, log
        self._seed = 0

    def __enter__(self) -> VllmBench:
        with open(self._log, "ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.load"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # A client needs no engine: no OpenMP threads beside those of the server.
                env={**os.environ, "OMP_NUM_THREADS": "1", "VLLM_PLUGINS": ""},
            )
        self._answer()
        return self

    def run(
        self,
        url: str,
        model: str,
        *,
        requests: int,
        at_once: int,
        prompt: int,
        answer: int,
        logprobs: bool = False,
    ) -> Load:
        """Ask a server.

        Args:
            url: of the server, ending in `/v1`.
            model: the name that is asked for.
            requests: how many, of which `at_once` are under way together.
            prompt, answer: their lengths in tokens.
            logprobs: ask for each token's logprob.

        Raises:
            ServerError: the tool ended, or a request failed.
        """
        self._seed += 1
        words = {
            "backend": "openai-chat",
            "base-url": url.removesuffix("/v1"),
            "endpoint": "/v1/chat/completions",
            "model": str(self._tokenizer),
            "served-model-name": model,
            "dataset-name": "random",
            "random-input-len": prompt,
            "random-output-len": answer,
            "num-prompts": requests,
            "max-concurrency": at_once,
            "num-warmups": at_once,
            "percentile-metrics": "e2el",
            "metric-percentiles": "99",
            "temperature": 0,
            "seed": self._seed,
        }
        if logprobs:
            # The tool's own option asks for a number where chat wants true.
            words["extra-body"] = json.dumps({"logprobs": True, "top_logprobs": 0})
        options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps([*options, "--disable-tqdm"]) + "\n")
        self._child.stdin.flush()
        found = self._answer()
        load = Load(*(found[name] for name in _KEPT))
        if load.failed or load.completed != requests:
            raise ServerError(f"{load.failed} of {requests} requests to {url} failed: {self._log}")
        return load

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise ServerError(f"vLLM's serving benchmark ended; {self._log} says why")
        found: dict[str, Any] = json.loads(line)
        return found

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(30)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def _child() -> None:
    """Run the tool for each line of arguments on standard input."""
    # The tool prints at will: it gets standard error, the answers keep standard output.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    from vllm.benchmarks import serve as tool
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: argparse.ArgumentParser = FlexibleArgumentParser()
    tool.add_cli_args(parser)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        found = tool.main(parser.parse_args(json.loads(line)))
        print(json.dumps({name: found[name] for name in _KEPT}), file=answers, flush=True)


if __name__ == "__main__":
    _child()
