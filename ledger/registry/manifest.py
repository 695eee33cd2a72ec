"""What a version is: its manifest, its name, and a hash of what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ledger.hashing import content_hash

MANIFEST = "manifest.json"
#: What a version was trained on: lines of `ledger.store.lines`.
TRAINING_DATA = "training_data.jsonl"


class Manifest(BaseModel):
    """What a version is. `files` maps each file of the folder to its SHA-256."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alias: str
    version: int = Field(ge=1)
    lora_id: int = Field(ge=1, description="the id by which vLLM knows it; never reused")
    base_model: str
    base_fingerprint: str
    template_hash: str
    rank: int
    dataset_id: str
    pairs: int
    parent: str | None = Field(None, description="the version that was live when it was trained")
    run_id: str
    created: float = Field(description="seconds since the epoch, UTC")
    origin: str | None = Field(
        None, description="where it was pulled from, and its name there; `parent` is one of there"
    )
    files: dict[str, str]


class Version(BaseModel):
    """A complete version in the registry.

    Attributes:
        pruned: when its weights were let go, seconds since the epoch; None where they are there.
    """

    model_config = ConfigDict(frozen=True)

    path: Path
    manifest: Manifest
    pruned: float | None = None

    @property
    def name(self) -> str:
        """The pinned name, `support@v4`."""
        return f"{self.manifest.alias}@v{self.manifest.version}"


def content_id(manifest: Manifest) -> str:
    """What a version is, whatever it is called and wherever it lies: `fw1:version:…`.

    Left out are its name, the id that a registry gave it, where it came from, and its training
    data: lines of it go when somebody is forgotten, and it need not travel with the weights.
    """
    facts: dict[str, Any] = manifest.model_dump(exclude={"alias", "version", "lora_id", "origin"})
    facts["files"] = {k: v for k, v in facts["files"].items() if k != TRAINING_DATA}
    return content_hash("version", facts)
