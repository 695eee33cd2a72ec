"""What tests of datasets share: versions without the weights of a training, and a fixed key."""

from __future__ import annotations

from pathlib import Path

from ledger.dataset import DatasetManifest
from ledger.registry import Registry
from ledger.settings import Settings


def publish(settings: Settings, manifest: DatasetManifest) -> int:
    """Publish a version that was trained on a dataset; returns its number."""
    from test_registry import write_adapter

    with Registry(settings.registry).building(manifest.alias) as (number, lora_id, folder):
        write_adapter(folder)
        Registry(settings.registry).publish(
            folder,
            {
                "alias": manifest.alias,
                "version": number,
                "lora_id": lora_id,
                "base_model": "base",
                "base_fingerprint": "fw1:base:1",
                "template_hash": "fw1:template:1",
                "rank": 16,
                "dataset_id": manifest.dataset_id,
                "pairs": manifest.pairs,
                "run_id": "run",
                "created": 1.0,
            },
        )
    return int(number)


def write_key(file: Path, key: str = "5" * 64) -> None:
    """A key of identities that is no secret."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(key + "\n")
    file.chmod(0o600)
