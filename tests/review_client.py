"""Somebody at the review page, over HTTP: logged in, and sending what its forms would send."""

from __future__ import annotations

import re
from html import unescape

from starlette.testclient import TestClient

from ledger.records import Correction
from ledger.store import now

QUEUE = "/support/queue"


def enter(app, name, role):
    client = TestClient(app)
    key = app.state.people.add(name, role)
    assert client.post("/login", data={"key": key}, follow_redirects=False).status_code == 303
    return client


def propose(store, row_id, text="delivery", author="s1"):
    values = {"row_id": row_id, "ts": now(), "author": author, "text": text}
    store.add_correction(Correction(**values, source="user", decision="proposed"))


def field(page, name):
    return unescape(re.search(rf'name="{name}" value="([^"]*)"', page.text)[1])


def form(page, **values):
    """What a browser would send from the page that was shown."""
    return {name: field(page, name) for name in ("csrf", "row", "seen")} | values
