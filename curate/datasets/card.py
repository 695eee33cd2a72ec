"""The card of a dataset: how many pairs, where they came from, what was left out and why.

`report` is JSON, kept in the ledger with the dataset; `text` is the README.md in its folder, in
the form of the Hugging Face hub: YAML header, then Markdown. Neither has text of a user, but for
the names of clusters, which are terms of redacted questions.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from curate.datasets import reasons
from curate.datasets.select import Selection
from ledger.dataset import DatasetManifest
from ledger.settings import Settings

_SHOWN = 30  # tags, clusters and users in README.md; the report has them all
_NOTHING_KNOWN = "like nothing known"


def report(
    selection: Selection,
    *,
    settings: Settings,
    tags: Mapping[str, Sequence[str]],
    clusters: Mapping[str, int | None],
    names: Mapping[int, str],
    new: int,
) -> dict[str, Any]:
    """What is counted: JSON values.

    Args:
        tags, clusters: of rows.
        names: of clusters.
        new: pairs that were opened and sealed for it; the others were taken over.
    """
    chosen = selection.chosen
    numbers = Counter(clusters.get(one.candidate.row_id) for one in chosen)
    by_cluster = Counter(
        {
            _NOTHING_KNOWN if n is None else f"{n} {names.get(n, '')}".strip(): count
            for n, count in numbers.items()
        }
    )
    by_tag = Counter(tag for one in chosen for tag in tags.get(one.candidate.row_id, ()))
    left = {reason: len(ids) for reason, ids in selection.left_out.items()}
    characters = sorted(int(one.candidate.facts.get("chars", 0)) for one in chosen)
    caps, wanted = settings.curate.acceptance, settings.curate.dataset
    return {
        "pairs": len(chosen),
        "sources": _sorted(Counter(one.candidate.source for one in chosen)),
        "kinds": _sorted(Counter(one.candidate.kind for one in chosen)),
        "splits": _sorted(Counter(one.split for one in chosen)),
        "versions": _sorted(Counter(str(one.candidate.facts.get("version")) for one in chosen)),
        "tags": _sorted(by_tag),
        "clusters": _sorted(by_cluster),
        "left_out": _sorted(Counter(left)),
        "gold_kept_out": left.get(reasons.GOLD, 0) + left.get(reasons.NEAR_GOLD, 0),
        "duplicates": left.get(reasons.DUPLICATE, 0) + left.get(reasons.NEAR, 0),
        "capped_subjects": _sorted(Counter(selection.capped)),
        "spare_good_answers": selection.spare,
        "answer_characters": _sizes(characters),
        "conversations": len({one.candidate.conversation for one in chosen}),
        "opened": new,
        "settings": {
            "near_duplicate": wanted.near_duplicate,
            "heldout_share": wanted.heldout_share,
            "replay_share": wanted.replay_share,
            "pairs_per_subject": caps.pairs_per_subject,
            "pairs_per_subject_ever": caps.pairs_per_subject_ever,
            "pairs_per_cluster": caps.pairs_per_cluster,
        },
    }


def text(manifest: DatasetManifest) -> str:
    """README.md of a dataset, from its manifest and the report in it."""
    counted = manifest.report
    header = {
        "pretty_name": f"{manifest.alias}, {manifest.pairs} pairs",
        "task_categories": ["text-generation"],
        "tags": ["flywheel", "sft"],
    }
    sizes = counted["answer_characters"]
    facts = [
        ("dataset", f"`{manifest.dataset_id}`"),
        ("alias", f"`{manifest.alias}`"),
        ("frozen", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(manifest.created))),
        ("the one before", f"`{manifest.parent}`" if manifest.parent else "none"),
        ("pairs", manifest.pairs),
        ("conversations", counted["conversations"]),
        ("answers, characters", f"{sizes['min']} to {sizes['max']}, median {sizes['median']}"),
        ("kept out because of a gold question", counted["gold_kept_out"]),
        ("duplicates removed", counted["duplicates"]),
    ]
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# Pairs of {manifest.alias}",
        "Questions that were asked, and what should have been answered. The text is in "
        "`pairs.jsonl`, redacted and sealed as the ledger keeps it.",
        _table("", "", facts),
    ]
    for title, head, key in (
        ("Source of the correction", "source", "sources"),
        ("Kind", "kind", "kinds"),
        ("Split", "split", "splits"),
        ("Version that answered", "version", "versions"),
        ("Tags", "tag", "tags"),
        ("Clusters", "cluster", "clusters"),
    ):
        if counted[key]:
            parts += [f"## {title}", _table(head, "pairs", _first(counted[key]))]
    parts.append("## Left out")
    left = _first(counted["left_out"])
    parts.append(_table("because", "rows", left) if left else "No row was left out.")
    if counted["capped_subjects"]:
        parts += [
            "## Users at their caps",
            _table("user (keyed hash)", "rows left out", _first(counted["capped_subjects"])),
        ]
    return "\n\n".join(parts) + "\n"


def _first(counts: Mapping[str, int]) -> list[tuple[str, object]]:
    """The first entries of a table, and a line for the others."""
    items: list[tuple[str, object]] = list(counts.items())
    if len(items) <= _SHOWN:
        return items
    rest = sum(list(counts.values())[_SHOWN:])
    return [*items[:_SHOWN], (f"{len(items) - _SHOWN} more", rest)]


def _sorted(counts: Counter[str]) -> dict[str, int]:
    """The largest first."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _sizes(values: list[int]) -> dict[str, int]:
    if not values:
        return {"min": 0, "median": 0, "max": 0}
    return {"min": values[0], "median": values[len(values) // 2], "max": values[-1]}


def _table(left: str, right: str, rows: Sequence[tuple[object, object]]) -> str:
    lines = [f"| {left} | {right} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {_cell(one)} | {_cell(other)} |" for one, other in rows)])


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
