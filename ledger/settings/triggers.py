"""Settings: what starts a retrain."""

from __future__ import annotations

from ledger.settings.section import Section


class Triggers(Section):
    """What starts a retrain."""
