"""A frozen dataset: training pairs in a folder, under the hash of their content.

    pairs.jsonl     one `Pair` a line, sealed with the keys of the people whose text it is
    manifest.json   `DatasetManifest`, written last: a folder without it is not a dataset

`curate` freezes, `train` loads; loading derives the hash again. Only forgetting somebody takes
pairs out of it: it keeps its name, and the manifest says what is left.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ledger.errors import DatasetError, LedgerError
from ledger.files import write_json, write_jsonl
from ledger.hashing import content_hash
from ledger.records import Source, known_user
from ledger.store import Line, Store

PAIRS = "pairs.jsonl"
MANIFEST = "manifest.json"
KIND = "dataset"


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

    @property
    def user(self) -> str | None:
        """The subject who wrote the correction, where a known user did."""
        return known_user(self.source, self.author)


class DatasetManifest(BaseModel):
    """What a dataset is; `left_out` says for each reason which rows are not in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset_id: str
    alias: str
    pairs: int
    created: float = Field(description="seconds since the epoch, UTC")
    sources: dict[str, int]
    left_out: dict[str, list[str]] = Field(default_factory=dict)
    remaining: str | None = Field(
        None, description="hash of what is left, where pairs of forgotten people were removed"
    )
    removed: int = Field(0, ge=0, description="pairs of people who were forgotten since")


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
    store: Store,
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
    lines = (Line(p.row_id, p.user, p.model_dump(exclude={"row_id"})) for p in pairs)
    write_jsonl(folder / PAIRS, store.sealed_lines(lines, KIND))
    write_json(folder / MANIFEST, manifest.model_dump())
    return manifest


def load(folder: Path, store: Store) -> tuple[DatasetManifest, list[Pair]]:
    """Read a dataset and derive its hash again.

    Raises:
        DatasetError: it is incomplete, altered or malformed; the line is named.
    """
    manifest, lines = _read(folder)
    pairs, gone = _pairs(folder, store, lines)
    found = dataset_id(pairs)
    if found != (manifest.remaining or manifest.dataset_id):
        raise DatasetError(
            f"{folder} has the content {found}, its manifest says "
            f"{manifest.remaining or manifest.dataset_id}"
            + (f"; {gone} pair(s) are of people who were forgotten" if gone else ""),
            rule="A frozen dataset never changes.",
            remedy="Build it again from the ledger: `flywheel retrain --fresh`.",
        )
    return manifest, pairs


def remove(folder: Path, store: Store, row_ids: set[str], *, known: set[str]) -> tuple[int, bool]:
    """Take pairs out of a dataset, because somebody was forgotten.

    Believes no hash, so that it also finishes what was cut off half way.

    Args:
        known: ids of datasets that hold, or held, such rows.

    Returns:
        How many pairs went, and whether the dataset is one of `known`.

    Raises:
        DatasetError: the manifest or a line is damaged.
    """
    manifest, lines = _read(folder)
    kept = [line for line in lines if line.get("row_id") not in row_ids]
    removed, held = len(lines) - len(kept), manifest.dataset_id in known
    if removed or (held and manifest.pairs != len(kept) + manifest.removed):
        pairs, _ = _pairs(folder, store, kept)
        write_jsonl(folder / PAIRS, kept)
        left_out = {
            reason: [row_id for row_id in ids if row_id not in row_ids]
            for reason, ids in manifest.left_out.items()
        }
        changed = {
            "remaining": dataset_id(pairs),
            "removed": manifest.pairs - len(kept),
            "left_out": left_out,
        }
        write_json(folder / MANIFEST, manifest.model_copy(update=changed).model_dump())
    return removed, held or removed > 0


def _read(folder: Path) -> tuple[DatasetManifest, list[dict[str, Any]]]:
    """The manifest, and the lines as they stand in the file."""
    try:
        manifest = DatasetManifest.model_validate_json((folder / MANIFEST).read_text())
        # Not splitlines(): it would cut a text at the line separators that JSON allows in it.
        text = (folder / PAIRS).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DatasetError(
            f"{folder} is not a complete dataset: it has no {Path(error.filename).name}"
        ) from None
    except ValidationError as error:
        raise DatasetError(f"{folder / MANIFEST} is damaged: {error}") from error
    lines = []
    for number, line in enumerate((line for line in text.split("\n") if line), 1):
        try:
            value = json.loads(line)
            if not isinstance(value, dict) or "row_id" not in value:
                raise ValueError("not an object with a row_id")
        except ValueError as error:
            raise DatasetError(f"{folder / PAIRS} line {number}: {error}") from None
        lines.append(value)
    return manifest, lines


def _pairs(folder: Path, store: Store, lines: list[dict[str, Any]]) -> tuple[list[Pair], int]:
    """Lines as pairs, and how many cannot be opened because their key is gone."""
    pairs, gone = [], 0
    try:
        opened = store.opened_lines(lines, KIND)
    except LedgerError as error:
        raise DatasetError(f"{folder / PAIRS}: {error}") from error
    for number, value in enumerate(opened, 1):
        if value is None:
            gone += 1
            continue
        try:
            pairs.append(Pair.model_validate(value))
        except ValidationError as error:
            raise DatasetError(f"{folder / PAIRS} line {number}: {error}") from error
    return pairs, gone
