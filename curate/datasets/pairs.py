"""The chosen pairs: opened, or taken over from the dataset before with their seal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curate.datasets import reasons
from curate.datasets.candidates import Maker
from curate.datasets.plan import Plan
from curate.datasets.select import Chosen
from ledger import dataset
from ledger.dataset import Copy, Pair
from ledger.settings import Settings
from ledger.store import Frozen, Store
from ledger.store.base import PAGE

_SEALED, _END = b', "sealed": "', b'"}\n'


class Lines:
    """Lines of the last dataset that can be taken over, by correction and digest.

    Args:
        sealed: whether lines are to be sealed now; those that are not as they should are left.
    """

    def __init__(self, parent: Frozen | None, *, sealed: bool) -> None:
        self.copied = 0
        self._file = Path(parent.path) / dataset.PAIRS if parent else None
        self._places: dict[tuple[str, int], int] = {}
        if self._file is None or not self._file.is_file():
            return
        place = 0
        with open(self._file, "rb") as handle:
            for line in handle:
                found = _parsed(line)
                if found is not None and ("sealed" in found) == sealed:
                    self._places[(found["digest"], found["correction"])] = place
                place += len(line)

    def pages(self, chosen: list[Chosen]) -> Iterator[tuple[list[Chosen], dict[str, Any]]]:
        """Pages of pairs, with the lines of those that can be taken over, by row."""
        for start in range(0, len(chosen), PAGE):
            page = chosen[start : start + PAGE]
            yield page, self._found(page) if self._places else {}

    def _found(self, page: list[Chosen]) -> dict[str, Any]:
        assert self._file is not None
        found: dict[str, Any] = {}
        with open(self._file, "rb") as handle:
            for one, _ in page:
                place = self._places.get((one.digest, max(0, one.correction)))
                if place is None:
                    continue
                handle.seek(place)
                line = _parsed(handle.readline())
                if line is not None and line["row_id"] == one.row_id:
                    found[one.row_id] = line
        self.copied += len(found)
        return found


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A line of pairs.jsonl; None where it is not one, so that the row is opened instead."""
    shown, between, sealed = line.rpartition(_SEALED)
    try:
        # The seal is most of the line, and base64: there is nothing in it to parse.
        value = json.loads(shown + b"}" if between else line)
        if between and sealed.endswith(_END):
            value["sealed"] = sealed.removesuffix(_END).decode("ascii")
    except (ValueError, TypeError):
        return None
    there = isinstance(value, dict) and {"row_id", "digest", "correction"} <= value.keys()
    return value if there else None


def pairs(
    settings: Settings,
    store: Store,
    made: Plan,
    left_out: dict[str, list[str]],
    lines: Lines | None = None,
) -> Iterator[Pair | Copy]:
    """The chosen pairs, in order: opened, or as they stand in `lines`.

    Args:
        left_out: gets the rows that cannot be opened any more.
    """
    maker = Maker(settings, store)
    lines = lines or Lines(None, sealed=False)
    for page, known in lines.pages(made.selection.chosen):
        new = [one.candidate for one in page if one.candidate.row_id not in known]
        corrected = [c.row_id for c in new if c.kind == "correction"]
        opened = {m.row.row_id: m for m in maker.corrected(corrected)}
        for kind in ("replay", "disliked"):
            authors = {c.row_id: c.author for c in new if c.kind == kind}
            opened |= {m.row.row_id: m for m in maker.as_answered(authors, kind)}
        for candidate, split in page:
            row_id = candidate.row_id
            shown = {
                "correction": max(0, candidate.correction),
                "split": split,
                "tags": made.tags.get(row_id, []),
                "cluster": made.clusters.get(row_id),
            }
            if row_id in known:
                own = {"kind": candidate.kind, "source": candidate.source}
                yield Copy(known[row_id] | shown | own)
                continue
            found = opened.get(row_id)
            if found is None or found.pair is None:
                reason = reasons.NO_TEXT if found is None else found.problem
                left_out.setdefault(reason, []).append(row_id)
                continue
            yield found.pair.model_copy(update=shown)
