"""One correction, judged: accepted, waiting for eyes, or rejected, and why.

A trusted source passes unless something speaks against it. What nobody needs to see (a secret, a
text that breaks the alias's checks) is rejected; all other doubts let it wait. What stands in a
correction's `why` is `Verdict.why`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Self

from pydantic import TypeAdapter, ValidationError

from curate.acceptance import reasons, wording
from curate.acceptance.company import Company
from ledger.checks import Check
from ledger.errors import ConfigError
from ledger.records import ANONYMOUS, Decision, Interaction, Source
from ledger.settings import Settings
from ledger.store import Store

_CHECKS: TypeAdapter[list[Check]] = TypeAdapter(list[Check])


class Verdict(NamedTuple):
    """What became of a correction.

    Attributes:
        reasons: empty where it was accepted.
        contradicts: rows whose corrections say something else of the same question.
    """

    decision: Decision
    reasons: list[str]
    contradicts: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """For the correction's `why`."""
        return f"{self.decision} by the policy: {'; '.join(self.reasons)}" if self.reasons else ""

    @property
    def words(self) -> list[str]:
        """The reasons without what was found: they quote no text."""
        return list(dict.fromkeys(map(reasons.word_of, self.reasons)))


class Acceptance:
    """The policy of a configuration, and what the ledger knows, for one batch of corrections.

    It remembers what it judged: later corrections of a batch are judged beside earlier ones. So
    make a new one for corrections that were not stored in the end.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self.policy = settings.curate.acceptance
        self.trusted = frozenset(settings.curate.trusted_sources)
        self.store = store
        self.company = Company(self.policy, store)
        self._checks = {name: checks_of(settings, name) for name in settings.aliases}

    @classmethod
    def of(
        cls,
        settings: Settings,
        store: Store,
        *,
        subjects: Iterable[str] = (),
        times: Iterable[float] = (),
    ) -> Self:
        """The policy, with what is known of a batch read at once.

        Args:
            subjects: users whose corrections will be judged.
            times: when they sent them, seconds since the epoch.

        Raises:
            ConfigError: a check in `answer_checks` is none.
        """
        made = cls(settings, store)
        made.company.load(subjects, list(times))
        return made

    def checks(self, alias: str | None) -> list[Check]:
        """The checks that every answer of an alias must pass."""
        return self._checks.get(alias or "", [])


def judge(
    context: Acceptance,
    row: Interaction,
    text: str,
    source: Source,
    author: str,
    ts: float,
    *,
    stored: bool = False,
) -> Verdict:
    """Judge one correction.

    Args:
        context: see `Acceptance.of`.
        row: the answer that is corrected; its text must be stored.
        text: what it should have said.
        author: as in `Correction.author`.
        ts: when it was sent, seconds since the epoch.
        stored: whether the text comes from the ledger, so that it need not be redacted first.
    """
    if not stored:
        text = context.store.as_stored(row.row_id, {"text": text}).get("text", "")
    found = list(wording.found(context.policy, context.checks(row.alias), row, text))
    contradicts: tuple[str, ...] = ()
    rejected = any(reasons.word_of(one) in reasons.REJECTS for one in found)
    if source == "user":
        found += context.company.quarantine(row.row_id, author or ANONYMOUS, ts)
    if not rejected:
        said = context.company.others(row, text, author, source, ts)
        found += said.reasons
        contradicts = said.rows
    if rejected:
        return Verdict("rejected", found)
    if source not in context.trusted:
        found.insert(0, f"{reasons.UNTRUSTED}: {source}")
    return Verdict("proposed" if found else "accepted", found, contradicts)


def checks_of(settings: Settings, alias: str) -> list[Check]:
    """The `answer_checks` of an alias.

    Raises:
        ConfigError: one of them is no check; all errors are listed.
    """
    given = settings.alias(alias).answer_checks
    try:
        return _CHECKS.validate_python(list(given))
    except ValidationError as error:
        lines = (f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(
            f"aliases.{alias}.answer_checks: {error.error_count()} error(s)",
            rule="\n".join(lines),
            remedy="They are written as in a gold set, see docs/gate.md.",
        ) from None
