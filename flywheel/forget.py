"""Forgetting somebody: their text becomes unreadable, their pairs leave what is trained on.

In this order, each step safe to repeat, so that a run that was cut off is finished by the same
command:

1. the ledger: the keys of their text go, and the text with them (`Store.forget`);
2. frozen datasets in `var/runs`: their pairs are taken out;
3. versions in the registry: their lines of `training_data.jsonl` are taken out;
4. unfinished runs that hold such a pair are closed, so that nothing goes on training on it.

Adapters that were trained on their pairs keep what they learned: weights cannot be edited. They
are listed here, and `flywheel status` names those that may answer until a retrain replaced them.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from flywheel.retrain.folder import NOTE, close
from ledger import dataset
from ledger.errors import UsageError
from ledger.files import read_json
from ledger.keys.keyring import SESSION
from ledger.keys.vault import Vault
from ledger.registry import TRAINING_DATA, Registry
from ledger.settings import Settings
from ledger.store import Store


class Outcome(NamedTuple):
    """What was done.

    Attributes:
        rows: answers in the ledger that lost text.
        keys: keys deleted; 0 where the person was forgotten before or never known.
        pairs: training pairs taken out of frozen datasets.
        versions: versions that were trained on the person's pairs.
        closed_runs: unfinished retrains that were closed.
        wiped: whether the deleted keys are gone from the database's own files too.
    """

    subject: str
    rows: int
    keys: int
    pairs: int
    versions: list[str]
    closed_runs: list[str]
    wiped: bool


def subject_of(settings: Settings, user: str | None, subject: str | None) -> str:
    """The hashed user meant.

    Raises:
        UsageError: neither or both are given, or `subject` is no hash.
    """
    if (user is None) == (subject is None):
        raise UsageError("say whom to forget: --user ID, as the client sent it, or --subject HASH")
    if user is not None:
        return Vault.open(settings.privacy.key_file).subject(user)
    assert subject is not None
    plain = subject.removeprefix(SESSION)
    if len(plain) != 32 or set(plain) - set("0123456789abcdef"):
        raise UsageError(
            f"{subject!r} is no subject",
            rule="A subject has 32 hex digits, as `subject` in an exported row.",
            remedy="Use --user for an id as the client sent it.",
        )
    return subject


def forget(settings: Settings, store: Store, subject: str, *, who: str, why: str) -> Outcome:
    """Forget a person.

    Raises:
        LedgerError: text is not sealed (privacy.seal), or the ledger cannot be written.
        RegistryError: a version that holds their pairs is damaged.
    """
    found = store.forget(subject, who=who, why=why)
    rows, datasets = set(found.row_ids), set(found.datasets)
    pairs, closed = _from_runs(settings.runs, store, rows, datasets)
    versions = _from_registry(Registry(settings.registry), rows, datasets)
    return Outcome(subject, len(rows), found.keys, pairs, versions, closed, found.wiped)


def trained_on_forgotten(settings: Settings, store: Store) -> list[str]:
    """Names of versions whose training data held pairs of people who were forgotten since."""
    tainted = store.datasets_with_forgotten()
    registry = Registry(settings.registry)
    return [
        version.name
        for alias in registry.aliases()
        for version in registry.versions(alias)
        if version.manifest.dataset_id in tainted
    ]


def _from_runs(
    runs: Path, store: Store, rows: set[str], datasets: set[str]
) -> tuple[int, list[str]]:
    pairs, closed = 0, []
    for folder in sorted(path.parent for path in runs.glob(f"*/dataset/{dataset.MANIFEST}")):
        removed, held = dataset.remove(folder, store, rows, known=datasets)
        pairs += removed
        note = folder.parent / NOTE
        if held and note.exists() and "verdict" not in read_json(note):
            close(folder.parent, "somebody in its dataset was forgotten")
            closed.append(folder.parent.name)
    return pairs, closed


def _from_registry(registry: Registry, rows: set[str], datasets: set[str]) -> list[str]:
    versions = []
    for alias in registry.aliases():
        for version in registry.versions(alias):
            if version.manifest.dataset_id in datasets:
                registry.remove_lines(version, TRAINING_DATA, "row_id", rows)
                versions.append(version.name)
    return versions


def text(outcome: Outcome) -> str:
    """The outcome for a person."""
    lines = [
        f"{outcome.subject}: {outcome.keys} key(s) deleted, the text of {outcome.rows} answer(s) "
        f"is unreadable, {outcome.pairs} training pair(s) are gone",
    ]
    if outcome.closed_runs:
        lines.append(f"closed unfinished runs: {', '.join(outcome.closed_runs)}")
    if outcome.versions:
        lines.append(f"trained on their pairs: {', '.join(outcome.versions)}")
        lines.append("Weights cannot be edited: retrain to replace what is live.")
    if not outcome.wiped:
        lines.append(
            "Somebody is reading, so the deleted keys may still stand in free pages of the "
            "database's files: run the command again."
        )
    if not outcome.keys:
        lines.append("There was no key: nothing of this person was stored, or all is gone.")
    return "\n".join(lines)
