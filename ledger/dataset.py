"""A frozen dataset: training pairs in a folder, under the hash of their content.

    pairs.jsonl     one `Pair` a line
    manifest.json   `DatasetManifest`, written last: a folder without it is not a dataset

`curate` freezes, `train` loads; loading derives the hash again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ledger.errors import DatasetError
from ledger.files import write_json, write_jsonl
from ledger.hashing import content_hash
from ledger.records import Source

PAIRS = "pairs.jsonl"
MANIFEST = "manifest.json"


class Pair(BaseModel):
    """One training example: a conversation whose last message is what should have been said."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    row_id: str
    messages: list[dict[str, Any]] = Field(min_length=2)
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    template_hash: str | None = Field(None, description="of the template it was served with")
    source: Source
    author: str
    answered_by: str = Field(description="the version whose answer was corrected")
    rejected: str | None = Field(None, description="the answer that was corrected")
    tags: list[str] = Field(default_factory=list)

    @property
    def prompt(self) -> list[dict[str, Any]]:
        """All messages but the last."""
        return self.messages[:-1]


class DatasetManifest(BaseModel):
    """What a dataset is; `left_out` says for each reason which rows are not in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset_id: str
    alias: str
    pairs: int
    created: float = Field(description="seconds since the epoch, UTC")
    sources: dict[str, int]
    left_out: dict[str, list[str]] = Field(default_factory=dict)


def dataset_id(pairs: list[Pair]) -> str:
    """`fw1:dataset:…` over what the model will see, in order."""
    return content_hash(
        "dataset",
        [
            [pair.row_id, pair.messages, pair.tools, pair.chat_template_kwargs, pair.template_hash]
            for pair in pairs
        ],
    )


def freeze(
    folder: Path,
    *,
    alias: str,
    pairs: list[Pair],
    created: float,
    left_out: dict[str, list[str]] | None = None,
) -> DatasetManifest:
    """Write a dataset; the manifest comes last."""
    sources: dict[str, int] = {}
    for pair in pairs:
        sources[pair.source] = sources.get(pair.source, 0) + 1
    manifest = DatasetManifest(
        dataset_id=dataset_id(pairs),
        alias=alias,
        pairs=len(pairs),
        created=created,
        sources=sources,
        left_out=left_out or {},
    )
    write_jsonl(folder / PAIRS, (pair.model_dump() for pair in pairs))
    write_json(folder / MANIFEST, manifest.model_dump())
    return manifest


def load(folder: Path) -> tuple[DatasetManifest, list[Pair]]:
    """Read a dataset and derive its hash again.

    Raises:
        DatasetError: it is incomplete, altered or malformed; the line is named.
    """
    try:
        manifest = DatasetManifest.model_validate_json((folder / MANIFEST).read_text())
        # Not splitlines(): it would cut a text at the line separators that JSON allows in it.
        text = (folder / PAIRS).read_text(encoding="utf-8")
        lines = [line for line in text.split("\n") if line]
    except FileNotFoundError as error:
        raise DatasetError(
            f"{folder} is not a complete dataset: it has no {Path(error.filename).name}"
        ) from None
    except ValidationError as error:
        raise DatasetError(f"{folder / MANIFEST} is damaged: {error}") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        try:
            pairs.append(Pair.model_validate_json(line))
        except ValidationError as error:
            raise DatasetError(f"{folder / PAIRS} line {number}: {error}") from error
    found = dataset_id(pairs)
    if found != manifest.dataset_id:
        raise DatasetError(
            f"{folder} has the content {found}, its manifest says {manifest.dataset_id}",
            rule="A frozen dataset never changes.",
            remedy="Build it again from the ledger: `flywheel retrain`.",
        )
    return manifest, pairs
