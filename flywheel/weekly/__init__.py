"""The weekly report: what the wheel did, for people who were not watching.

    var/reports/2026-W47-support.md    and its picture, .png

The loop writes one for each full week (Monday to Sunday, UTC) when the week is over, and
`flywheel report` one for any days up to now. No text of users is in them; kinds of questions are
called by their terms, as everywhere.
"""

from __future__ import annotations

from pathlib import Path

from flywheel.weekly.period import Period, last_days, last_week
from ledger.files import write_atomic
from ledger.settings import Settings
from ledger.store import Store

__all__ = ["Period", "due", "home", "last_days", "last_week", "write"]


def home(settings: Settings) -> Path:
    """Where reports are written."""
    return settings.var / "reports"


def due(settings: Settings, store: Store, alias: str, *, now: float) -> bool:
    """Whether the last full week has no report yet, and there is something to say of it.

    Args:
        now: seconds since the epoch.
    """
    week = last_week(now)
    if _page(home(settings), week, alias).exists():
        return False
    from flywheel.weekly.facts import began

    first = began(store, alias)
    return first is not None and first < week.until


def write(
    settings: Settings,
    store: Store,
    alias: str,
    *,
    period: Period | None = None,
    now: float | None = None,
    folder: Path | None = None,
) -> Path:
    """Write a report; returns its page. The picture comes first: a page means both are there.

    Args:
        period: by default the last full week before `now`.
        now: seconds since the epoch; by default the clock's.
        folder: by default `var/reports`.
    """
    from flywheel.weekly.facts import gather
    from flywheel.weekly.page import markdown
    from flywheel.weekly.picture import draw
    from ledger import clock

    at = clock.now() if now is None else now
    period = period or last_week(at)
    facts = gather(settings, store, alias, period, now=at)
    page = _page(folder or home(settings), period, alias)
    draw(facts, page.with_suffix(".png"))
    write_atomic(page, (markdown(facts, page.with_suffix(".png").name) + "\n").encode())
    return page


def _page(place: Path, period: Period, alias: str) -> Path:
    # Not with_suffix: an alias may have a dot.
    return place / f"{period.name}-{alias}.md"
