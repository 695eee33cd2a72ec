"""Settings: what serving, training and teachers cost."""

from __future__ import annotations

from ledger.settings.section import Section


class Prices(Section):
    """What serving, training and teachers cost."""
