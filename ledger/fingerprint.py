"""What a base model and its chat template are, as hashes that serving and training compare.

Reads the model's folder only; no model is loaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ledger.errors import ConfigError
from ledger.hashing import content_hash

# Written by whoever loaded the model last, with no bearing on what it computes.
_VOLATILE = ("transformers_version", "_name_or_path", "torch_dtype", "dtype")


def base_fingerprint(folder: Path) -> str:
    """Identity of a base model: its configuration and the names and sizes of its weights.

    Weights are not read, so it takes milliseconds for a model of any size; two fine-tunes of
    one architecture with equal file sizes are told apart by the configuration only where that
    differs, which is why the folder's `model.safetensors.index.json` counts too.

    Raises:
        ConfigError: the folder is not a model.
    """
    config = _read(folder / "config.json", folder)
    for key in _VOLATILE:
        config.pop(key, None)
    weights = sorted((p.name, p.stat().st_size) for p in folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    return content_hash(
        "base",
        {
            "config": config,
            "weights": weights,
            "index": _read(index, folder) if index.exists() else None,
        },
    )


def template_hash(folder: Path) -> str:
    """Identity of the chat template that a model's folder brings.

    Raises:
        ConfigError: the folder has no chat template.
    """
    file = folder / "chat_template.jinja"
    if file.exists():
        template: Any = file.read_text(encoding="utf-8")
    else:
        template = _read(folder / "tokenizer_config.json", folder).get("chat_template")
    if not template:
        raise ConfigError(
            f"the model {folder} has no chat template",
            rule="Serving and training must write conversations alike.",
            remedy="Take the instruct variant of the model.",
        )
    return content_hash("template", template)


def _read(file: Path, folder: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} is not a model: it has no {file.name}",
            remedy="Set model.path to the folder of a model, or to its name on the hub.",
        ) from None
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{file} does not hold a JSON object")
    return found
