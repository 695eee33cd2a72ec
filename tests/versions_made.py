"""Whole versions with everything that `flywheel verify` looks at, without a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tiny import make_pairs

from ledger import dataset
from ledger.deployments import Deployments
from ledger.files import write_json, write_jsonl
from ledger.fingerprint import base_fingerprint, template_hash
from ledger.hashing import file_sha256
from ledger.records import Evaluation
from ledger.registry import ADAPTER_CONFIG, TRAINING_DATA, WEIGHTS, Registry, Version, content_id
from ledger.settings import Settings
from ledger.store import Line, Store


def write_model(folder: Path) -> None:
    """A folder that is known as a base model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"hidden_size": 8}')
    (folder / "model.safetensors").write_bytes(b"x" * 10)
    (folder / "chat_template.jinja").write_text("{{ messages }}")


def make_version(
    settings: Settings,
    store: Store,
    *,
    created: float = 1.0,
    parent: str | None = None,
    seed: int = 0,
) -> Version:
    """Publish a version of `support` as a retrain would: frozen data, manifest, hash noted."""
    registry, model = Registry.of(settings), Path(settings.model.path)
    run = f"run-{seed}"
    folder = settings.runs / run / "dataset"
    pairs = make_pairs(9)
    pairs[8] = pairs[8].model_copy(update={"split": "heldout"})
    frozen = dataset.freeze(folder, store=store, alias="support", pairs=pairs, created=created)
    base, template = base_fingerprint(model), template_hash(model)
    with registry.building("support") as (number, lora_id, building):
        rng = np.random.default_rng(seed)
        name = "base_model.model.layers.0.mlp.up_proj.lora_A.weight"
        save_file({name: rng.normal(size=(4, 8)).astype(np.float32)}, building / WEIGHTS)
        config = {"r": 4, "lora_alpha": 8, "bias": "none", "target_modules": ["up_proj"]}
        (building / ADAPTER_CONFIG).write_text(json.dumps(config))
        (building / "README.md").write_text(
            "---\nbase_model: base\nlibrary_name: peft\npipeline_tag: text-generation\n"
            f"tags:\n- lora\n---\n\n# support@v{number}\n\n## Evaluation\n\nPending.\n"
        )
        trained = {
            "run_id": run,
            "dataset_id": frozen.dataset_id,
            "base_fingerprint": base,
            "template_hash": template,
            "adapter_sha256": file_sha256(building / WEIGHTS),
        }
        write_json(building / "train.json", trained)
        lines = [
            Line(pair.row_id, None, {"messages": pair.messages, "source": pair.source})
            for pair in pairs
            if pair.split == "train"
        ]
        write_jsonl(building / TRAINING_DATA, store.sealed_lines(lines, TRAINING_DATA))
        version = registry.publish(
            building,
            {
                "alias": "support",
                "version": number,
                "lora_id": lora_id,
                "base_model": settings.model.name,
                "base_fingerprint": base,
                "template_hash": template,
                "rank": 4,
                "dataset_id": frozen.dataset_id,
                "pairs": 8,
                "parent": parent,
                "run_id": run,
                "created": created,
            },
        )
    store.note_version(
        "support", number, "published", content_id(version.manifest), who="test", why=run
    )
    return version


def judge(store: Store, version: Version, verdict: str, *, ts: float = 2.0, **report: Any) -> None:
    """Record a verdict on a version."""
    found: dict[str, Any] = {"gold_candidate": 0.9, "gold_baseline": 0.5, "reasons": []}
    store.add_evaluation(
        Evaluation(
            run_id=version.manifest.run_id,
            ts=ts,
            alias="support",
            candidate=version.name,
            baseline="base",
            verdict=verdict,  # type: ignore[arg-type]
            report=found | report,
        )
    )


def promote(store: Store, version: Version) -> None:
    """Give a version all the traffic."""
    number = version.manifest.version
    Deployments(store).promote("support", number, who="test", why="it passed")


SETS = [
    {
        "pack": "main",
        "name": name,
        "candidate": new,
        "baseline": old,
        "verdict": "pass",
        "question_hash": f"fw1:gold:{name}",
    }
    for name, new, old in (("queues", 0.9, 0.5), ("general", 0.75, 0.8))
]
