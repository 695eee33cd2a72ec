"""A tiny Qwen3 with the embedded model's tokenizer: the real stack where no language is needed.

3.2M parameters; loads in milliseconds, serves in vLLM and takes LoRA adapters.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from ledger.dataset import Pair
from ledger.settings import Settings, parse

EMBEDDED = Path(__file__).resolve().parents[1] / "var/models/smollm2-135m-instruct"


def embedded_model() -> Path:
    """The embedded model's folder; `make test` makes it before the tests run."""
    if not (EMBEDDED / "config.json").is_file():
        pytest.fail(f"{EMBEDDED} is not there: run `make setup` first")
    return EMBEDDED


def build_tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """Make the tiny model in `folder` and return it.

    Weights depend on `seed` alone. float32 on the disk; loaders choose their own format.
    Weights are drawn wider than usual, so that its answers have some shape to change.
    """
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(embedded_model())
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    template = embedded_model() / "chat_template.jinja"
    shutil.copyfile(template, folder / "chat_template.jinja")
    return folder


def tiny_settings(model: Path, var: Path, **sections: dict[str, Any]) -> Settings:
    """Settings on a model folder; keyword arguments replace values section by section."""
    raw: dict[str, Any] = {
        "var": str(var),
        "model": {"name": "tiny", "path": str(model), "dtype": "float32", "max_length": 512},
        "aliases": {"support": {}},
        "train": {"learning_rate": 5e-2, "device": "cpu", "rank": 8, "alpha": 16},
    }
    for section, values in sections.items():
        raw[section] = {**raw.get(section, {}), **values}
    return parse(raw, name="tiny")


def write_config(settings: Settings, file: Path) -> Path:
    """Settings as a YAML file, for programs that are started with --config."""
    file.write_text(yaml.safe_dump(json.loads(settings.model_dump_json(exclude_unset=True))))
    return file


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
