"""A tiny Qwen3 with the embedded model's tokenizer: the real stack where no language is needed.

3.2M parameters; loads in milliseconds, serves in vLLM and takes LoRA adapters. Used by the
benchmarks and the tests. It knows no language: its answers are noise that depends on the
weights, which is all that is needed to tell two versions apart.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from ledger.errors import FlywheelError

ROOT = Path(__file__).resolve().parents[1]
EMBEDDED = ROOT / "var/models/smollm2-135m-instruct"


def embedded_model() -> Path:
    """The embedded model's folder; the model is made there on first use.

    Raises:
        FlywheelError: it cannot be made.
    """
    if not (EMBEDDED / "config.json").is_file():
        # In a process of its own: converting sets logging and loads libraries for good.
        code = "import pathlib, sys; from flywheel import embedded; "
        code += "embedded.ensure(pathlib.Path(sys.argv[1]))"
        command = [sys.executable, "-c", code, str(EMBEDDED)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise FlywheelError(
                f"the embedded model cannot be made in {EMBEDDED}: "
                f"{' '.join(done.stderr.strip().splitlines()[-1:])}",
                remedy="`make setup` shows what is missing.",
            )
    return EMBEDDED


def build_tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """Make the tiny model in `folder` and return it.

    Weights depend on `seed` alone. float32 on the disk; loaders choose their own format.
    Weights are drawn wider than usual, so that its answers have some shape to change.
    """
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(embedded_model())
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,  # vLLM's CPU attention has no kernel for less
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


def write_tiny_config(folder: Path, *, alias: str = "support") -> Path:
    """Make the tiny model and a configuration that serves it in float32, and return its file.

    Everything that a server on it writes stays in `folder`.
    """
    settings = {
        "var": str(folder / "var"),
        "model": {
            "name": "tiny",
            "path": str(build_tiny_model(folder / "model")),
            "dtype": "float32",
            "max_length": 1024,
        },
        "aliases": {alias: {}},
        "ledger": {"url": f"sqlite:///{folder}/var/ledger.db"},
        "privacy": {"key_file": str(folder / "var/keys/subject.key")},
        "serve": {
            "env": {"VLLM_CPU_KVCACHE_SPACE": "1"},
            "vllm": {"max_num_seqs": 32, "gpu_memory_utilization": 0.1},
        },
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    return config


def fresh_folder(name: str) -> Path:
    """An empty folder for a benchmark's run; it stays afterwards, for the logs in it."""
    folder = ROOT / "var/benchmarks" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
