"""Changing what is live: shares, promotion, rollback. Each is one event in the ledger.

A version gets traffic only when its last gate passed; `force` is recorded with its reason.
"""

from __future__ import annotations

import getpass
import os

from ledger.deployments import BASE, Change, Deployments, parse_version, version_name
from ledger.errors import GateRefused, UsageError
from ledger.fingerprint import base_fingerprint
from ledger.model import model_folder
from ledger.registry import Registry
from ledger.settings import Settings
from ledger.store import Store


def operator() -> str:
    """Who gives a command: FLYWHEEL_USER, else the name on this machine."""
    return f"operator:{os.environ.get('FLYWHEEL_USER') or getpass.getuser()}"


def promote(
    settings: Settings,
    store: Store,
    alias: str,
    *,
    version: str | None,
    share: float | None,
    because: str,
    force: bool = False,
) -> Change:
    """Give a version traffic: `share` percent of it, or all where that is None or 100.

    Args:
        version: `4`, `v4`, `support@v4` or `base`; None means the candidate.
        force: do it although the gate did not pass.

    Raises:
        UsageError: there is no candidate, or the change makes no sense now.
        RegistryError: the version is not whole, or does not fit the base model.
        GateRefused: its last gate did not pass.
    """
    deployments = Deployments(store)
    state = deployments.state(alias)
    number = state.candidate if version is None else parse_version(version, alias)
    if number is None:
        raise UsageError(
            f"{alias} has no candidate to promote",
            remedy=f"Name a version: flywheel promote {alias} --version N",
        )
    if number != BASE:
        Registry(settings.registry).servable(
            alias,
            number,
            fingerprint=base_fingerprint(model_folder(settings)),
            max_rank=settings.serve.max_lora_rank,
        )
        _check_gate(settings, store, alias, number, because=because, force=force)
    if share is None or share == 100:
        return deployments.promote(alias, number, who=operator(), why=because)
    return deployments.share(alias, number, share, who=operator(), why=because)


def rollback(store: Store, alias: str, *, because: str) -> Change:
    """Drop a running canary, else go back to the previous version."""
    return Deployments(store).rollback(alias, who=operator(), why=because)


def _check_gate(
    settings: Settings, store: Store, alias: str, number: int, *, because: str, force: bool
) -> None:
    name = version_name(alias, number, settings.model.name)
    found = store.evaluations(alias).get(name)
    if found is not None and found.verdict == "pass":
        return
    said = "was never put before its gate" if found is None else f"has the verdict {found.verdict}"
    if not force:
        raise GateRefused(
            f"{name} {said}",
            rule="Only a version that passed gets traffic.",
            remedy="--force --because '…' overrides this and is recorded.",
        )
    if not because:
        raise UsageError("--force needs --because", rule=f"{name} {said}; say why it goes live.")
