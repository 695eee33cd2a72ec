"""What an alias is held to: its configured packs, and those that once gated a live version.

A pack is taken up at the first gate that asks it, and binds when a version which it gated goes
live (`ledger.store.packs`). From then on it gates every version: with the rules and questions that
the configuration has, as long as they are no looser, else not at all; and from the record where
the configuration has it no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from eval.packs.strictness import loosened
from ledger.errors import UsageError
from ledger.packs import LoadedPack, recorded_packs
from ledger.store import Store


class Held(NamedTuple):
    """A pack that gates the next version."""

    loaded: LoadedPack
    origin: Literal["configured", "recorded"]


def held_to(store: Store, alias: str, configured: Sequence[LoadedPack]) -> list[Held]:
    """The packs of the next gate: the configured ones, then those that are only on record.

    Raises:
        UsageError: a configured pack is looser than the one that the alias is bound to.
    """
    bound = {one.pack.name: one for one in recorded_packs(store, alias)}
    for one in configured:
        name = one.pack.name
        if name in bound and (lines := loosened(bound[name], one)):
            raise UsageError(
                f"the pack {name!r} of {alias} demands less than it did:\n"
                + "\n".join(f"  {line}" for line in lines),
                rule="A pack that once gated a live version gates every later one.",
                remedy=f"Put it back, or say why: flywheel gate packs accept {name} "
                f"--alias {alias} --because '…'",
            )
    names = {one.pack.name for one in configured}
    recorded = [Held(one, "recorded") for name, one in bound.items() if name not in names]
    return [Held(one, "configured") for one in configured] + recorded


def take_up(store: Store, alias: str, held: Sequence[Held], *, who: str) -> None:
    """Record the configured packs that are new or were changed, as a gate begins to ask them."""
    events = store.pack_events(alias)
    last = {event.name: event for event in events}
    for one in held:
        loaded, name = one.loaded, one.loaded.pack.name
        if one.origin == "recorded":
            continue
        before = last.get(name)
        known = before is not None and before.action != "removed"
        if known and before is not None and before.pack_hash == loaded.pack_hash:
            continue
        store.add_pack(
            alias,
            name,
            loaded.pack_hash,
            loaded.content(),
            "tightened" if known else "added",
            who=who,
        )


def accept(
    store: Store, alias: str, configured: Sequence[LoadedPack], name: str, *, who: str, why: str
) -> list[str]:
    """Let a pack demand less than it did; returns what it no longer demands.

    Raises:
        UsageError: no reason is given, the pack is not configured, or it demands no less.
    """
    _need_reason(why)
    one = next((one for one in configured if one.pack.name == name), None)
    if one is None:
        raise UsageError(
            f"{alias} has no pack {name!r} in its configuration",
            rule=f"It has: {', '.join(one.pack.name for one in configured) or 'none'}.",
            remedy=f"To let a pack go: flywheel gate packs remove {name} --alias {alias} "
            "--because '…'",
        )
    event = store.binding_packs(alias).get(name)
    lines = loosened(LoadedPack.of_content(event.content), one) if event else []
    if not lines:
        raise UsageError(
            f"the pack {name!r} demands no less than it did",
            rule="What is tightened or added needs no reason.",
        )
    store.add_pack(alias, name, one.pack_hash, one.content(), "loosened", who=who, why=why)
    return lines


def remove(
    store: Store, alias: str, configured: Sequence[LoadedPack], name: str, *, who: str, why: str
) -> None:
    """Let a pack go that the configuration has no more.

    Raises:
        UsageError: no reason is given, the alias is not bound to it, or it is configured still.
    """
    _need_reason(why)
    event = store.binding_packs(alias).get(name)
    if event is None:
        bound = ", ".join(store.binding_packs(alias)) or "none"
        raise UsageError(
            f"{alias} is not bound to a pack {name!r}", rule=f"It is bound to: {bound}."
        )
    if any(one.pack.name == name for one in configured):
        raise UsageError(
            f"the pack {name!r} is in the configuration of {alias}, so it gates whatever is said",
            remedy=f"Take it out of aliases.{alias}.gate first.",
        )
    store.add_pack(alias, name, event.pack_hash, event.content, "removed", who=who, why=why)


def _need_reason(why: str) -> None:
    if not why.strip():
        raise UsageError(
            "--because is missing",
            rule="That a gate demands less is recorded with who and why.",
        )
