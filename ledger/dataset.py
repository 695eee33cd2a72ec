"""A frozen dataset: training pairs in a folder, under the hash of their content.

    pairs.jsonl     one `Pair` a line, sealed with the keys of the people whose text it is
    README.md       the card: how many pairs, where from, what was left out; no text of users
    manifest.json   `DatasetManifest`, written last: a folder without it is not a dataset

Beside its sealed text a line says in the open what a reader may know of it: the row, the pair's
digest, whether it is trained on or held out, and where it came from. The digest cannot be tried
with a guessed text: it covers a keyed hash that stands in the sealed part.

`curate` freezes, `train` loads; loading derives the hash again, from the text. Only forgetting
somebody takes pairs out of it: it keeps its name, and the manifest says what is left.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ledger.errors import DatasetError, LedgerError
from ledger.files import write_atomic, write_json, write_jsonl
from ledger.hashing import content_hash
from ledger.records import Source, known_user
from ledger.store import Line, Store
from ledger.store.base import PAGE

PAIRS = "pairs.jsonl"
MANIFEST = "manifest.json"
CARD = "README.md"
KIND = "dataset"
# Fields of a pair that stand in the open beside the sealed ones.
_OPEN = ("correction", "kind", "split", "source", "tags", "cluster")

Split = Literal["train", "heldout"]


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
    kind: Literal["correction", "replay", "disliked"] = Field(
        "correction",
        description="`replay`: an answer that was good already; `disliked`: one that was voted "
        "down and has no correction, which only KTO makes use of: its last message is what should "
        "not have been said",
    )
    split: Split = Field("train", description="`heldout` pairs are never trained on")
    cluster: int | None = Field(None, description="of the question; None where it is like nothing")
    correction: int = Field(0, ge=0, description="its number in the ledger; 0 for a good answer")
    salt: str = Field("", description="keyed hash of the content")

    @property
    def prompt(self) -> list[dict[str, Any]]:
        """All messages but the last."""
        return self.messages[:-1]

    @property
    def user(self) -> str | None:
        """The subject who wrote the correction, where a known user did."""
        return known_user(self.source, self.author)


class Copy(NamedTuple):
    """A pair that stands in another dataset already; its line is taken over as it is.

    Attributes:
        line: the line there, with `row_id`, `digest` and the open fields as they are to be here.
    """

    line: dict[str, Any]


class DatasetManifest(BaseModel):
    """What a dataset is; `left_out` says for each reason which rows are not in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset_id: str
    alias: str
    pairs: int
    created: float = Field(description="seconds since the epoch, UTC")
    sources: dict[str, int]
    splits: dict[str, int] = Field(default_factory=dict)
    kinds: dict[str, int] = Field(default_factory=dict)
    parent: str | None = Field(None, description="the dataset of the alias before it")
    left_out: dict[str, list[str]] = Field(default_factory=dict)
    report: dict[str, Any] = Field(default_factory=dict, description="what the card counts")
    remaining: str | None = Field(
        None, description="hash of what is left, where pairs of forgotten people were removed"
    )
    removed: int = Field(0, ge=0, description="pairs of people who were forgotten since")


def digest_of(pair: Pair) -> str:
    """`fw1:pair:…` over what the model will see of a pair, and its salt."""
    content = [pair.row_id, pair.messages, pair.tools, pair.chat_template_kwargs]
    return content_hash("pair", [pair.salt, *content, pair.template_hash])


def dataset_id(pairs: Iterable[Pair]) -> str:
    """`fw1:dataset:…` over what the model will see, in order, and what is held out."""
    return _id_of([digest_of(pair), pair.kind, pair.split] for pair in pairs)


def _id_of(lines: Iterable[list[str]]) -> str:
    return content_hash("dataset", list(lines))


def freeze(
    folder: Path,
    *,
    store: Store,
    alias: str,
    pairs: Iterable[Pair | Copy],
    created: float,
    left_out: dict[str, list[str]] | None = None,
    parent: str | None = None,
    report: Callable[[], dict[str, Any]] = dict,
    card: Callable[[DatasetManifest], str] | None = None,
) -> DatasetManifest:
    """Write a dataset; the manifest comes last.

    Args:
        pairs: taken one by one, so that a long dataset needs little memory.
        left_out: rows by reason, read when all pairs were taken.
        report: what the card counts, asked for when all pairs were taken.
        card: makes README.md.
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("source", "split", "kind")}
    content: list[list[str]] = []

    def counted(lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for line in lines:
            for name, counter in counts.items():
                counter[line[name]] += 1
            content.append([line["digest"], line["kind"], line["split"]])
            yield line

    write_jsonl(folder / PAIRS, counted(_written(pairs, store)))
    identity = _id_of(content)
    manifest = DatasetManifest(
        dataset_id=identity,
        alias=alias,
        pairs=len(content),
        created=created,
        sources=dict(sorted(counts["source"].items())),
        splits=dict(sorted(counts["split"].items())),
        kinds=dict(sorted(counts["kind"].items())),
        parent=None if parent == identity else parent,  # the same one, built again
        left_out={reason: ids for reason, ids in (left_out or {}).items() if ids},
        report=report(),
    )
    if card is not None:
        write_atomic(folder / CARD, card(manifest).encode())
    write_json(folder / MANIFEST, manifest.model_dump())
    return manifest


def _written(pairs: Iterable[Pair | Copy], store: Store) -> Iterator[dict[str, Any]]:
    """Lines of the file, in order; new pairs are sealed a page at a time."""
    page: list[Pair | Copy] = []
    for one in pairs:
        page.append(one)
        if len(page) == PAGE:
            yield from _page(page, store)
            page = []
    yield from _page(page, store)


def _page(page: list[Pair | Copy], store: Store) -> Iterator[dict[str, Any]]:
    new = [one for one in page if isinstance(one, Pair)]
    fields = (Line(p.row_id, p.user, p.model_dump(exclude={"row_id", *_OPEN})) for p in new)
    sealed = iter(store.sealed_lines(fields, KIND)) if new else iter(())
    for one in page:
        if isinstance(one, Copy):
            yield one.line
            continue
        shown = {"row_id": one.row_id, "digest": digest_of(one)}
        yield shown | {name: getattr(one, name) for name in _OPEN} | next(sealed)


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
    return manifest, [line for line in _parsed(folder, text.split("\n"))]


def open_parts(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a dataset as they stand in its file, their text sealed, one by one.

    Raises:
        DatasetError: there is no such file, or a line is broken.
    """
    try:
        with open(folder / PAIRS, encoding="utf-8", newline="\n") as handle:
            yield from _parsed(folder, handle)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{folder / PAIRS} cannot be read: {error}") from error


def opened(folder: Path, store: Store, row_ids: set[str]) -> list[Pair]:
    """Some pairs of a dataset, in its order; those of forgotten people are left out.

    Believes no hash.

    Raises:
        DatasetError: a line is broken.
    """
    lines = [line for line in open_parts(folder) if line["row_id"] in row_ids]
    return _pairs(folder, store, lines)[0]


def _parsed(folder: Path, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        if not line or line == "\n":
            continue
        try:
            value = json.loads(line)
            if not isinstance(value, dict) or "row_id" not in value:
                raise ValueError("not an object with a row_id")
        except ValueError as error:
            raise DatasetError(f"{folder / PAIRS} line {number}: {error}") from None
        yield value


def _pairs(folder: Path, store: Store, lines: list[dict[str, Any]]) -> tuple[list[Pair], int]:
    """Lines as pairs, and how many cannot be opened because their key is gone."""
    pairs, gone = [], 0
    try:
        opened = store.opened_lines(lines, KIND)
    except LedgerError as error:
        raise DatasetError(f"{folder / PAIRS}: {error}") from error
    for number, (line, value) in enumerate(zip(lines, opened, strict=True), 1):
        if value is None:
            gone += 1
            continue
        shown = {name: line[name] for name in _OPEN if name in line}
        said = {key: item for key, item in value.items() if key != "digest"}
        try:
            pairs.append(Pair.model_validate(said | shown))
        except ValidationError as error:
            raise DatasetError(f"{folder / PAIRS} line {number}: {error}") from error
    return pairs, gone
