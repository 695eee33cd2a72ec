"""What a person does: shares, promotion, rollback; pause, resume and abort of a rollout.

Also during the stages of a rollout: they go on from the share that a person sets.
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
    check(settings, store, alias, number, because=because, force=force)
    if share is None or share == 100:
        return deployments.promote(alias, number, who=operator(), why=because)
    return deployments.share(alias, number, share, who=operator(), why=because)


def rollback(store: Store, alias: str, *, because: str) -> Change:
    """Drop a running canary, else go back to the previous version."""
    return Deployments(store).rollback(alias, who=operator(), why=because)


def pause(store: Store, alias: str, *, because: str) -> Change:
    """Stop a stage's clock: shares and users stay where they are, nothing expands.

    Harm that is shown still takes the canary back.
    """
    return Deployments(store).mark("pause", alias, who=operator(), why=because)


def resume(store: Store, alias: str, *, because: str) -> Change:
    """Let the stage's clock go on."""
    return Deployments(store).mark("resume", alias, who=operator(), why=because)


def abort(store: Store, alias: str, *, because: str) -> Change:
    """End a rollout: all traffic goes to the live version."""
    return Deployments(store).mark("abort", alias, who=operator(), why=because)


def check(
    settings: Settings, store: Store, alias: str, number: int, *, because: str, force: bool
) -> None:
    """See that a version may get traffic.

    Raises:
        RegistryError: the version is not whole, or does not fit the base model.
        GateRefused: its last gate did not pass, and `force` is not set.
        UsageError: `force` is set without a reason.
    """
    if number == BASE:
        return
    Registry.of(settings).servable(
        alias,
        number,
        fingerprint=base_fingerprint(model_folder(settings)),
        max_rank=settings.serve.max_lora_rank,
    )
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
