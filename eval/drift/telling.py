"""What follows a drift alert: its window is tagged, and a webhook is called.

Both are noted with the alert, in its transaction, and done after it: a look that dies between
leaves them to the next one. A window may be tagged twice, for a tag is kept once; a webhook may
be called twice, and the alert's number says that it is the same.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import httpx
import sqlalchemy as sa

from ledger.database import tables
from ledger.loopback import is_loopback
from ledger.marks import DRIFT_WINDOW
from ledger.records import Tag
from ledger.settings import Settings
from ledger.store import Alert, Store
from ledger.store.base import chunks

logger = logging.getLogger(__name__)

#: What is remembered under, beside the signals.
TODO = "todo"
#: Attempts at one webhook call; then it is given up.
TRIES = 50
_BATCH = 500

_rows, _tags = tables.interactions, tables.tags


def noted(
    settings: Settings, todo: Mapping[str, Any] | None, alert: Alert, at: float
) -> dict[str, Any]:
    """What is to be done, with what a new alert asks for.

    Args:
        at: when the alert's window ends, seconds since the epoch.
    """
    given, todo = settings.drift, todo or {}
    tag, calls = list(todo.get("tag", ())), list(todo.get("calls", ()))
    if alert.kind.startswith("drift:"):
        window = {"since": at - given.tag_hours * 3600, "until": at}
        tag.append({**window, "why": f"alert {alert.seq}: {alert.said}"[:500]})
    if given.webhook is not None:
        calls.append({"alert": alert.seq, "body": body_of(alert), "tries": 0, "error": None})
    return {**todo, "tag": tag, "calls": calls}


def body_of(alert: Alert) -> dict[str, Any]:
    """What the webhook gets: numbers and our own words."""
    body = {"alert": alert.seq, "alias": alert.alias, "kind": alert.kind, "ts": alert.ts}
    return {**body, "since": alert.since, "until": alert.until, "report": alert.report}


def follow_up(settings: Settings, store: Store, alias: str, *, now: float) -> None:
    """Do what is to be done."""
    todo = store.watches(alias).get(TODO) or {}
    for window in todo.get("tag", ()):
        tag_window(settings, store, alias, window)
    results = [_call(settings, call) for call in todo.get("calls", ())]
    if not todo.get("tag") and not results:
        return
    with store.transaction() as connection:
        known = store.watches(alias, connection).get(TODO) or {}
        tag = [one for one in known.get("tag", ()) if one not in todo["tag"]]
        done = {call["alert"]: call for call in results}
        calls = [done.get(call["alert"], call) for call in known.get("calls", ())]
        lost = [call for call in calls if call["tries"] >= TRIES]
        state = {
            "tag": tag,
            "calls": [c for c in calls if c["error"] != "" and c["tries"] < TRIES],
            "lost": known.get("lost", 0) + len(lost),
        }
        store.save_watches(alias, {TODO: state}, connection, at=now)


def problems(state: Mapping[str, Any] | None) -> list[str]:
    """What could not be done so far, in sentences."""
    state = state or {}
    found = [
        f"the webhook did not take alert {call['alert']} ({call['error']}), {call['tries']} tries"
        for call in state.get("calls", ())
        if call["error"]
    ]
    if state.get("lost"):
        found.append(f"the webhook never took {state['lost']} alert(s); they were given up")
    return found


def tag_window(settings: Settings, store: Store, alias: str, window: Mapping[str, Any]) -> int:
    """Tag the rows of a window, at most so many, taken by a hash; how many were new.

    The hash is not the one that chooses what is kept: rows that stay for their tag must not be
    those that would have stayed as the sample, or what is left stands for other answers.
    """
    query = sa.select(_rows.c.row_id).where(
        _rows.c.alias == alias, _rows.c.ts >= window["since"], _rows.c.ts < window["until"]
    )
    with store.reading() as connection:
        row_ids = list(connection.scalars(query))
    row_ids.sort(key=lambda row_id: store.mac("drift_window", row_id.encode()))
    row_ids = row_ids[: settings.drift.tag_rows]
    new = 0
    for part in chunks(row_ids, _BATCH):
        with store.transaction() as connection:
            there = sa.select(_rows.c.row_id).where(_rows.c.row_id.in_(part))
            tags = [
                Tag(
                    row_id=row_id, tag=DRIFT_WINDOW, who=f"rule:{DRIFT_WINDOW}",
                    why=window["why"], ts=window["until"],
                )
                for row_id in connection.scalars(there)
            ]  # fmt: skip
            new += store.add_tags(tags, connection)
    return new


def _call(settings: Settings, call: Mapping[str, Any]) -> dict[str, Any]:
    """The call after an attempt; its error is "" where it was taken."""
    given, error = settings.drift, ""
    if given.webhook is None:
        return {**call, "error": ""}
    try:
        local = is_loopback(httpx.URL(given.webhook).host)
        with httpx.Client(timeout=given.webhook_seconds, trust_env=not local) as client:
            answer = client.post(given.webhook, json=call["body"])
        if not answer.is_success:
            error = f"HTTP {answer.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as failed:
        error = type(failed).__name__  # its message may name the address, which may be a secret
    if error:
        logger.warning("the webhook did not take alert %s: %s", call["alert"], error)
    return {**call, "tries": call["tries"] + 1, "error": error}
