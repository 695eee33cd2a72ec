"""Settings: how a version that passed the gate gets its traffic."""

from __future__ import annotations

from ledger.settings.section import Section


class Rollout(Section):
    """How a version that passed the gate gets its traffic."""
