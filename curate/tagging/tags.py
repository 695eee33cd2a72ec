"""Tags by hand and by program: appended marks, on one row or on all rows of a window.

Tags by rule are `curate.tagging.rules`; what each sweep tags by itself is `curate.tagging.sweep`.
A client of the server tags with `tags` in `POST /v1/feedback`.
"""

from __future__ import annotations

import sqlalchemy as sa
from pydantic import ValidationError

from ledger.database import tables
from ledger.errors import RecordError
from ledger.records import Tag
from ledger.store import Store, now

#: Rows tagged in one transaction: the write lock is held for milliseconds.
BATCH = 500


def add_tag(store: Store, row_id: str, tag: str, who: str, why: str = "") -> bool:
    """Put any tag on a row; False where the same hand put it there before.

    Args:
        who: `operator:…`, `rule:…` or `user:…`.

    Raises:
        UnknownRow: the row does not exist.
        RecordError: the tag has capitals, spaces or other signs, or is too long.
    """
    store.interaction(row_id)
    return store.add_tags([checked(row_id, tag, who, why)]) == 1


def tag_window(
    store: Store, alias: str, since: float, until: float, tag: str, who: str, why: str = ""
) -> int:
    """Put a tag on every row of an alias that was asked in a window; how many were new.

    Running it again, or after it was stopped, tags only what is not tagged yet. Only
    columns are read.

    Args:
        since, until: seconds since the epoch; the first inclusive, the second not.

    Raises:
        RecordError: the window is empty, or see `add_tag`.
    """
    if not since < until:
        raise RecordError(
            f"a window from {since:g} to {until:g} holds nothing",
            field="until",
            remedy="Name the earlier time first.",
        )
    checked("", tag, who, why)
    rows = tables.interactions
    new, last = 0, (since, 0)
    while True:
        # From the last row on, not by page number: rows may be let go meanwhile.
        after = sa.or_(rows.c.ts > last[0], sa.and_(rows.c.ts == last[0], rows.c.seq > last[1]))
        query = (
            sa.select(rows.c.row_id, rows.c.ts, rows.c.seq)
            .where(rows.c.alias == alias, rows.c.ts >= last[0], rows.c.ts < until, after)
            .order_by(rows.c.ts, rows.c.seq)
            .limit(BATCH)
        )
        # Under the write lock, so that no row that is let go meanwhile leaves a tag behind.
        with store.transaction() as connection:
            found = connection.execute(query).all()
            if not found:
                return new
            new += store.add_tags((checked(r.row_id, tag, who, why) for r in found), connection)
        last = (found[-1].ts, found[-1].seq)


def checked(row_id: str, tag: str, who: str, why: str) -> Tag:
    """A tag of now, with its words checked; see `add_tag`."""
    if not who.startswith(("operator:", "rule:", "user:")):
        raise RecordError(
            f"tagged by {who!r}", field="who", rule="Say who: `operator:…`, `rule:…` or `user:…`."
        )
    try:
        return Tag(row_id=row_id, tag=tag, who=who, why=why, ts=now())
    except ValidationError:
        raise RecordError(
            f"{tag!r} cannot be a tag",
            field="tag",
            rule="A tag has 1 to 64 of a-z, 0-9, '_', '-', '.' and ':', a letter or digit first.",
        ) from None
