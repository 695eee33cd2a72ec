"""What is different between two datasets: which rows came, which went and why, what changed.

Works on what stands in the open: the ledger's list of rows, and the digests and marks in the
datasets' files where the folders are still there. Opens no text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from ledger import dataset
from ledger.database import tables
from ledger.deployments import parse_version
from ledger.errors import DatasetError, UsageError
from ledger.files import read_json
from ledger.registry import Registry
from ledger.settings import Settings
from ledger.store import Frozen, Store
from ledger.store.base import chunks

PREFIX = "fw1:dataset:"
_SHOWN = 10  # counts of one part in the text, those that changed most; JSON has them all
_NO_LONGER = {
    "rejected": "its correction was rejected",
    "proposed": "its correction waits for review",
    "accepted": "replaced since",
}
_GONE = "its text is gone"
_COUNTED = ("sources", "kinds", "splits", "tags", "clusters", "left_out")


class Diff(NamedTuple):
    """Dataset `b` as seen from `a`.

    Attributes:
        added, changed, moved: row ids; `changed` has another text, `moved` another split. None
            where a folder is gone, so that nobody can tell.
        removed: why by row id.
        counts: what the cards count differently: part → name → (in a, in b).
    """

    a: str
    b: str
    added: list[str]
    removed: dict[str, str]
    changed: list[str] | None
    moved: list[str] | None
    counts: dict[str, dict[str, tuple[int, int]]]


def find(settings: Settings, store: Store, alias: str, name: str) -> Frozen:
    """The dataset that somebody means.

    Args:
        name: `latest`, `previous`, an id or the beginning of its hex digits, a version
            (`support@v3`, `v3`), or a run's folder.

    Raises:
        UsageError: there is none, or there are several.
        RegistryError: there is no such version.
        DatasetError: the folder holds no complete dataset.
    """
    known = store.datasets(alias)
    if name in ("latest", "previous"):
        back = 1 if name == "latest" else 2
        if len(known) >= back:
            return known[-back]
        raise UsageError(
            f"{alias!r} has {len(known)} dataset(s), so there is no {name} one",
            remedy="`flywheel retrain`, or `python -m curate.datasets.build`, makes one.",
        )
    wanted = _id(settings, alias, name)
    fitting = [one for one in store.datasets() if _fits(one.dataset_id, wanted)]
    if len(fitting) == 1:
        return fitting[0]
    raise UsageError(
        f"{name!r} names {len(fitting)} of the datasets in the ledger",
        rule="Name one: latest, previous, an id or its first digits, a version, a run's folder.",
        remedy="`flywheel dataset list` shows them.",
    )


def diff(store: Store, a: Frozen, b: Frozen) -> Diff:
    """Compare two datasets; `a` is the older one."""
    rows_a, rows_b = store.dataset_rows(a.dataset_id), store.dataset_rows(b.dataset_id)
    lines_a, lines_b = _lines(a), _lines(b)
    changed = moved = None
    if lines_a is not None and lines_b is not None:
        both = sorted(lines_a.keys() & lines_b.keys())
        changed = [one for one in both if lines_a[one][0] != lines_b[one][0]]
        moved = [one for one in both if lines_a[one][1] != lines_b[one][1]]
    counts = {}
    for part in _COUNTED:
        if found := _unequal(a.report.get(part, {}), b.report.get(part, {})):
            counts[part] = found
    return Diff(
        a.dataset_id,
        b.dataset_id,
        sorted(rows_b - rows_a),
        _why(store, b, sorted(rows_a - rows_b)),
        changed,
        moved,
        counts,
    )


def as_json(found: Diff, rows: int) -> dict[str, Any]:
    """JSON values.

    Args:
        rows: most row ids of each kind.
    """
    lists = {"added": found.added, "changed": found.changed, "moved": found.moved}
    return {
        "a": found.a,
        "b": found.b,
        **{name: None if ids is None else len(ids) for name, ids in lists.items()},
        "removed": len(found.removed),
        "removed_because": dict(Counter(found.removed.values()).most_common()),
        "counts": {part: {k: list(v) for k, v in c.items()} for part, c in found.counts.items()},
        "rows": {
            **{name: (ids or [])[:rows] for name, ids in lists.items()},
            "removed": dict(list(found.removed.items())[:rows]),
        },
    }


def text(found: Diff, rows: int) -> str:
    """For a person; at most `rows` row ids of each kind."""
    lines = [f"a {found.a}", f"b {found.b}"]
    for name, ids in (("added", found.added), ("changed", found.changed), ("moved", found.moved)):
        lines.append(f"{name:<8} {'unknown: a folder is gone' if ids is None else len(ids)}")
        lines += [f"  {row_id}" for row_id in (ids or [])[:rows]]
    lines.append(f"removed  {len(found.removed)}")
    for reason, count in Counter(found.removed.values()).most_common():
        lines.append(f"  {count:>6}  {reason}")
    lines += [f"  {row_id}: {why}" for row_id, why in list(found.removed.items())[:rows]]
    for part, counts in found.counts.items():
        lines.append(part.replace("_", " "))
        most = sorted(counts.items(), key=lambda item: -abs(item[1][1] - item[1][0]))
        lines += [f"  {old:>6} → {new:<6} {name}" for name, (old, new) in most[:_SHOWN]]
        lines += [f"  and {len(most) - _SHOWN} more"] if len(most) > _SHOWN else []
    return "\n".join(lines)


def _id(settings: Settings, alias: str, name: str) -> str:
    """The id, or the beginning of one, that a name stands for."""
    folder = Path(name)
    for place in (folder / "dataset", folder):
        if (place / dataset.MANIFEST).is_file():
            try:
                return str(read_json(place / dataset.MANIFEST)["dataset_id"])
            except (KeyError, TypeError, ValueError) as error:
                raise DatasetError(f"{place} holds no dataset: {error}") from error
    own, at, number = name.rpartition("@")
    if number.startswith("v") and number[1:].isdigit():
        whose = own if at else alias
        version = parse_version(f"{whose}@{number}", whose)
        return Registry(settings.registry).get(whose, version).manifest.dataset_id
    return name


def _fits(dataset_id: str, wanted: str) -> bool:
    digits = wanted.removeprefix(PREFIX)
    return bool(digits) and dataset_id.removeprefix(PREFIX).startswith(digits)


def _lines(one: Frozen) -> dict[str, tuple[str, str]] | None:
    """Digest and split of each row; None where the folder is gone or is of an older form."""
    try:
        return {
            line["row_id"]: (line["digest"], line["split"])
            for line in dataset.open_parts(Path(one.path))
        }
    except (DatasetError, KeyError):
        return None


def _why(store: Store, later: Frozen, removed: list[str]) -> dict[str, str]:
    """Why rows are not in a dataset."""
    found = dict.fromkeys(removed, _GONE)
    table, rows = tables.corrections, tables.interactions
    query = sa.select(table.c.row_id, table.c.decision).order_by(table.c.seq)
    query = query.join(rows, rows.c.row_id == table.c.row_id).where(rows.c.stored_text)
    with store.reading() as connection:
        for page in chunks(removed):
            for row_id, decision in connection.execute(query.where(table.c.row_id.in_(page))):
                found[row_id] = _NO_LONGER[decision]
    left_out = store.left_out(later.alias)
    try:
        manifest = read_json(Path(later.path) / dataset.MANIFEST)
        left_out |= {row: why for why, ids in manifest["left_out"].items() for row in ids}
    except (OSError, ValueError, KeyError, AttributeError):
        pass  # the folder is gone: what the ledger says last is what there is
    return found | {row_id: left_out[row_id] for row_id in removed if row_id in left_out}


def _unequal(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    pairs = {name: (a.get(name, 0), b.get(name, 0)) for name in {**b, **a}}
    return {name: both for name, both in pairs.items() if both[0] != both[1]}
