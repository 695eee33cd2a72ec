"""Settings: what is watched, and from when on a change is one."""

from __future__ import annotations

from ledger.settings.section import Section


class Drift(Section):
    """What is watched, and from when on a change is one."""
