"""The versions of an alias with their lineage, for `flywheel versions` and `versions show`."""

from __future__ import annotations

import time
from typing import Any

from flywheel.sharing.card import scores
from ledger.deployments import Deployments, parse_version
from ledger.errors import UsageError
from ledger.records import DeploymentEvent, Evaluation
from ledger.registry import Registry, Version, content_id
from ledger.registry.standing import Standing, standings
from ledger.settings import Settings
from ledger.store import Store, VersionNote

_ROLES = ("live", "previous", "candidate", "canary")
_SHORT = 8  # hex digits of a hash that a person compares


def versions(settings: Settings, store: Store, alias: str) -> list[dict[str, Any]]:
    """The versions of an alias, oldest first."""
    registry, verdicts = Registry.of(settings), store.evaluations(alias)
    notes, events = store.version_notes(alias), Deployments(store).events(alias)
    found = registry.versions(alias)
    stand = standings(alias, [v.manifest.version for v in found], events, verdicts)
    return [
        _row(registry, version, stand[version.manifest.version], verdicts.get(version.name), notes)
        for version in found
    ]


def _row(
    registry: Registry,
    version: Version,
    standing: Standing,
    verdict: Evaluation | None,
    notes: dict[int, list[VersionNote]],
) -> dict[str, Any]:
    manifest = version.manifest
    state = standing.state
    role = "candidate" if state == "canary" else state
    pushed = [n.why for n in notes.get(manifest.version, []) if n.kind == "pushed"]
    return {
        "version": version.name,
        "role": role if state in _ROLES else None,
        "state": state,
        "created": manifest.created,
        "parent": manifest.parent,
        "origin": manifest.origin,
        "pairs": manifest.pairs,
        "dataset": manifest.dataset_id,
        "base_model": manifest.base_model,
        "verdict": verdict and verdict.verdict,
        "baseline": verdict and verdict.baseline,
        "score": verdict and verdict.report.get("gold_candidate"),
        "baseline_score": verdict and verdict.report.get("gold_baseline"),
        "scores": {
            name: {"candidate": new, "baseline": old} for name, new, old, _ in scores(verdict)
        },
        "why": standing.why,
        "signed": registry.signature(manifest.alias, manifest.version).is_file(),
        "pruned": version.pruned,
        "pushed": list(dict.fromkeys(pushed)),
        "run": manifest.run_id,
        "content": content_id(manifest),
    }


def versions_text(alias: str, found: list[dict[str, Any]]) -> str:
    """The versions for a person: a tree, each below the version that was live when it was made."""
    if not found:
        return f"{alias} has no versions yet; `flywheel retrain {alias}` makes one"
    by_parent: dict[str | None, list[dict[str, Any]]] = {}
    here = {row["version"] for row in found}
    for row in found:
        parent = row["parent"] if row["parent"] in here and row["origin"] is None else None
        by_parent.setdefault(parent, []).append(row)
    rows: list[tuple[str, dict[str, Any]]] = []

    # Not by recursion: a year of weekly versions, each on the one before, is deep.
    waiting = [("", "", row) for row in reversed(by_parent.get(None, []))]
    while waiting:
        lead, indent, row = waiting.pop()
        rows.append((f"{lead}{row['version']}", row))
        below = by_parent.get(row["version"], [])
        for position, child in enumerate(reversed(below)):
            last = position == 0
            # One child alone stays in the column: a straight line needs no steps.
            if len(below) == 1:
                waiting.append((f"{indent}└ ", indent, child))
            else:
                more = "  " if last else "│ "
                waiting.append((f"{indent}{'└ ' if last else '├ '}", indent + more, child))
    width = max(12, *(len(name) for name, _ in rows))
    lines = [
        f"{'version':<{width}} {'state':<10} {'made':<16} {'pairs':>5}  {'data':<8} "
        f"{'gate':<12} {'scores, before':<15}"
    ]
    for name, row in rows:
        marks = [mark for mark, on in (("signed", row["signed"]), ("pruned", row["pruned"])) if on]
        score = ""
        if row["score"] is not None:
            score = f"{row['score']:.0%}, {row['baseline_score']:.0%}"
        lines.append(
            f"{name:<{width}} {row['state']:<10} {when(row['created']):<16} {row['pairs']:>5}  "
            f"{row['dataset'].rpartition(':')[2][:_SHORT]:<8} {row['verdict'] or 'not judged':<12} "
            f"{score:<15}{', '.join(marks)}".rstrip()
        )
        sets = row["scores"]
        if len(sets) > 1:
            each = ", ".join(f"{key} {one['candidate']:.0%}" for key, one in sets.items())
            lines.append(f"{'':<{width}} {each}")
        if row["origin"]:
            lines.append(f"{'':<{width}} pulled from {row['origin']}")
        lines += [f"{'':<{width}} {why}" for why in row["why"]]
    return "\n".join(lines)


def show(settings: Settings, store: Store, alias: str, text: str) -> dict[str, Any]:
    """Everything about one version.

    Raises:
        UsageError: `text` names no version.
        RegistryError: it is not there, or damaged.
    """
    number = parse_version(text, alias)
    if number == 0:
        raise UsageError("the base model is not in the registry")
    version = Registry.of(settings).get(alias, number)
    row = next(r for r in versions(settings, store, alias) if r["version"] == version.name)
    events = [e for e in Deployments(store).events(alias) if e.version == number]
    notes = store.version_notes(alias).get(number, [])
    return {
        **row,
        "path": str(version.path),
        "lora_id": version.manifest.lora_id,
        "rank": version.manifest.rank,
        "base_fingerprint": version.manifest.base_fingerprint,
        "template_hash": version.manifest.template_hash,
        "files": version.manifest.files,
        "events": [_event(event) for event in events],
        "notes": [note._asdict() for note in notes],
    }


def _event(event: DeploymentEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in ("seq", "ts", "kind", "share", "who", "why")}


def show_text(found: dict[str, Any]) -> str:
    """One version for a person."""
    facts = {
        "state": found["state"] + (" (weights pruned)" if found["pruned"] else ""),
        "made": when(found["created"]),
        "parent": found["parent"] or "none: the base model was live",
        "pulled from": found["origin"],
        "base model": f"{found['base_model']} ({found['base_fingerprint']})",
        "dataset": f"{found['dataset']}, {found['pairs']} pairs",
        "content": found["content"],
        "run": found["run"],
        "folder": found["path"],
        "adapter": f"id {found['lora_id']}, rank {found['rank']}",
        "signed": "yes" if found["signed"] else "no",
        "gate": found["verdict"] or "not judged",
    }
    lines = [found["version"]]
    lines += [f"  {name:<12} {value}" for name, value in facts.items() if value]
    lines += [
        f"  {'':<12} {name}: {one['candidate']:.1%}, before {one['baseline']:.1%}"
        for name, one in found["scores"].items()
    ]
    lines += [f"  {'why':<12} {why}" for why in found["why"]]
    for event in found["events"]:
        share = f" {event['share']:g} %" if event["share"] else ""
        why = f": {event['why']}" if event["why"] else ""
        lines.append(f"  {when(event['ts'])}  {event['kind']}{share} by {event['who']}{why}")
    for note in found["notes"]:
        why = f" ({note['why']})" if note["why"] else ""
        lines.append(f"  {when(note['ts'])}  {note['kind']} by {note['who']}{why}")
    return "\n".join(lines)


def card(settings: Settings, store: Store, alias: str, text: str) -> str:
    """The card of a version with its scores."""
    from flywheel.sharing.card import rendered

    version = Registry.of(settings).get(alias, parse_version(text, alias))
    return rendered(settings, store, version)


def when(ts: float) -> str:
    """A time for a person, local."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(ts))
