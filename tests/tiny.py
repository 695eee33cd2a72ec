"""Settings, pairs and limits for tests on the tiny model of `benchmarks.tiny`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.tiny import build_tiny_model, embedded_model
from ledger import dataset
from ledger.dataset import Pair
from ledger.settings import Settings, parse
from ledger.store import Store

__all__ = [
    "build_tiny_model",
    "embedded_model",
    "freeze_open",
    "make_pairs",
    "one_thread",
    "quiet_settings",
    "tiny_settings",
    "write_config",
]


def tiny_settings(model: Path, var: Path, **sections: dict[str, Any]) -> Settings:
    """Settings on a model folder; keyword arguments replace values section by section."""
    raw: dict[str, Any] = {
        "var": str(var),
        "model": {"name": "tiny", "path": str(model), "dtype": "float32", "max_length": 2048},
        "aliases": {"support": {}},
        "ledger": {"url": f"sqlite:///{var}/ledger.db"},
        "privacy": {"key_file": str(var / "keys/subject.key")},
        "train": {"learning_rate": 5e-2, "device": "cpu", "rank": 8, "alpha": 16},
    }
    for section, values in sections.items():
        raw[section] = {**raw.get(section, {}), **values}
    return parse(raw, name="tiny")


def quiet_settings(home: Path) -> dict[str, Any]:
    """A configuration of a simulated product, see `flywheel.simulation`: stages of days."""
    return {
        "var": str(home / "var"),
        "model": {"name": "base", "path": str(home / "model")},
        "aliases": {"support": {"gate": {"gold": [str(home / "gold.jsonl")], "margin": 0.03}}},
        "ledger": {"url": f"sqlite:///{home}/ledger.db"},
        "privacy": {"key_file": str(home / "keys/subject.key"), "redaction": "balanced"},
        "curate": {"trusted_sources": ["user", "operator"]},
        "drift": {"gold_hours": 168},
        "rollout": {
            "stages": [
                {"share": 25, "days": 1, "events": 50, "feedback": 5, "tolerance": 1.5},
                {"share": 50, "days": 2, "events": 300, "feedback": 10, "tolerance": 1.25},
            ]
        },
    }


def write_config(settings: Settings, file: Path) -> Path:
    """Settings as a YAML file, for programs that are started with --config."""
    file.write_text(yaml.safe_dump(json.loads(settings.model_dump_json(exclude_unset=True))))
    return file


def freeze_open(folder: Path, **fields: Any) -> dataset.DatasetManifest:
    """A frozen dataset whose lines are not sealed, so that it opens under any ledger."""
    settings = tiny_settings(folder, folder / "var", privacy={"seal": False})
    with closing(Store.open(settings)) as store:
        return dataset.freeze(folder / "dataset", store=store, **fields)


@contextmanager
def one_thread() -> Iterator[None]:
    """Train on one thread here and in child processes.

    A tiny model gains nothing from more; threads that wait for each other lose a lot where
    other programs use the cores, and sums in another order give other low digits.
    """
    import torch

    threads, before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def make_pairs(count: int) -> list[Pair]:
    """Short pairs that a tiny model can learn: the answer is named in the question."""
    queues = ("billing", "delivery", "returns", "accounts")
    return [
        Pair(
            row_id=f"chatcmpl-{number:03d}",
            messages=[
                {"role": "system", "content": "Answer with one queue name only"},
                {
                    "role": "user",
                    "content": f"Message {number} about {queues[number % 4]}"
                    + ", please" * (number % 5),
                },
                {"role": "assistant", "content": queues[number % 4]},
            ],
            source="user" if number % 3 else "operator",
            author=f"subject-{number % 7}",
            answered_by="tiny@v0",
            rejected="I do not know",
        )
        for number in range(count)
    ]
