"""The tools that `benchmarks.gate` compares with, each in an environment of its own.

Both are run as their documentation says for a model behind an OpenAI-compatible endpoint, with as
many requests at once as our gate has, greedily, with the same longest answer, and an exact match
as the score. Progress displays and whatever they may leave out of their logs are off.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.tiny import ROOT
from ledger.errors import FlywheelError

NAMES = ("lm-eval", "inspect")
_NEVER = "<|never|>"  # lm-eval would end answers at an empty line where nothing is set


class Asked(NamedTuple):
    """What a peer is to do.

    Attributes:
        system: the system message of every question.
        questions: text, and the one answer that counts as right.
    """

    url: str
    system: str
    questions: Sequence[tuple[str, str]]
    max_tokens: int
    at_once: int


class Ran(NamedTuple):
    """One command: wall time of the process, and the answers that it counts as right."""

    seconds: float
    right: int


def environment(name: str) -> Path:
    """Where the peer is installed."""
    return ROOT / f".venv-{name}"


def needs(name: str) -> str:
    """What goes into its environment."""
    return f"requirements/{name}.txt"


def version(name: str) -> str:
    """Its name and version."""
    package = {"lm-eval": "lm_eval", "inspect": "inspect_ai"}[name]
    code = f"from importlib.metadata import version; print(version('{package}'))"
    done = subprocess.run(
        [str(environment(name) / "bin" / "python"), "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    return f"{package} {done.stdout.strip()}"


def run(name: str, asked: Asked, model: str, folder: Path) -> Ran:
    """Score one model with a peer, in a process of its own.

    Raises:
        FlywheelError: it failed; with the end of what it said.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = {"lm-eval": _lm_eval, "inspect": _inspect}[name](asked, model, folder)
    command, variables = made
    log = folder / "log.txt"
    started = time.perf_counter()
    with open(log, "wb") as handle:
        done = subprocess.run(
            command,
            stdout=handle,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **variables},
        )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise FlywheelError(f"{name} failed; its log {log} ends:\n{log.read_text()[-2000:]}")
    right = {"lm-eval": _lm_eval_right, "inspect": _inspect_right}[name](folder)
    return Ran(seconds, round(right * len(asked.questions)))


def _lm_eval(asked: Asked, model: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    lines = [json.dumps({"question": q, "answer": a}) + "\n" for q, a in asked.questions]
    (folder / "data.jsonl").write_text("".join(lines))
    task: dict[str, Any] = {
        "task": "gate",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "data.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "question",
        "doc_to_target": "answer",
        "generation_kwargs": {
            "until": [_NEVER],
            "do_sample": False,
            "temperature": 0.0,
            "max_gen_toks": asked.max_tokens,
        },
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "gate.yaml").write_text(json.dumps(task))  # JSON is YAML
    arguments = {
        "model": model,
        "base_url": f"{asked.url}/chat/completions",
        "num_concurrent": asked.at_once,
        "max_retries": 3,
        "tokenized_requests": False,
    }
    command = [str(environment("lm-eval") / "bin" / "lm_eval"), "run"]
    command += ["--model", "local-chat-completions"]
    command += ["--model_args", ",".join(f"{key}={value}" for key, value in arguments.items())]
    command += ["--tasks", "gate", "--include_path", str(folder), "--apply_chat_template"]
    command += ["--system_instruction", asked.system, "--output_path", str(folder / "out")]
    cache = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none"}
    return command, cache


def _lm_eval_right(folder: Path) -> float:
    (file,) = (folder / "out").rglob("results_*.json")
    found: float = json.loads(file.read_text())["results"]["gate"]["exact_match,none"]
    return found


_TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.scorer import accuracy, scorer, Score, Target
from inspect_ai.solver import generate, system_message, TaskState


@scorer(metrics=[accuracy()])
def same():
    async def score(state: TaskState, target: Target) -> Score:
        return Score(value="C" if state.output.completion == target.text else "I")
    return score


@task
def gate():
    with open("system.txt") as handle:
        system = handle.read()
    return Task(
        dataset=json_dataset("data.jsonl"),
        solver=[system_message(system), generate()],
        scorer=same(),
    )
"""


def _inspect(asked: Asked, model: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    lines = [json.dumps({"input": q, "target": a}) + "\n" for q, a in asked.questions]
    (folder / "data.jsonl").write_text("".join(lines))
    (folder / "system.txt").write_text(asked.system)
    (folder / "gate.py").write_text(_TASK)
    command = [str(environment("inspect") / "bin" / "inspect"), "eval", "gate.py"]
    command += ["--model", f"openai-api/flywheel/{model}", "--display", "none"]
    command += ["--max-connections", str(asked.at_once), "--max-samples", str(asked.at_once)]
    command += ["--temperature", "0", "--seed", "0", "--max-tokens", str(asked.max_tokens)]
    command += ["--no-log-samples", "--no-log-realtime", "--no-score-display"]
    command += ["--log-dir", str(folder / "out"), "--log-format", "json"]
    variables = {
        "FLYWHEEL_BASE_URL": asked.url,
        "FLYWHEEL_API_KEY": "none",
        "INSPECT_TELEMETRY": "",
        "XDG_DATA_HOME": str(folder / "data"),
    }
    return command, variables


def _inspect_right(folder: Path) -> float:
    (file,) = (folder / "out").glob("*.json")
    found = json.loads(file.read_text())
    if found["status"] != "success":
        raise FlywheelError(f"inspect says {found['status']}: {found.get('error')}")
    value: float = found["results"]["scores"][0]["metrics"]["accuracy"]["value"]
    return value
