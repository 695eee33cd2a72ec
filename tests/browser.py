"""A real Chromium and the review page as a real server, for tests of what people see.

Skipped where no Chromium is installed, unless FLYWHEEL_TEST_BROWSER=required. Screenshots are
kept where FLYWHEEL_SCREENSHOTS names a folder.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvicorn

from curate.review.app import create
from curate.review.keys import People, Role
from ledger.settings import Settings
from ledger.store import Store

REMEDY = "apt-get install chromium"
PHONE = {"width": 360, "height": 740}
_ASKED = os.environ.get("FLYWHEEL_TEST_BROWSER", "")


def find_or_skip() -> str:
    """The browser's program; skips the test where there is none, unless one is required."""
    found = shutil.which("chromium")
    if found is None:
        if _ASKED == "required":
            pytest.fail(f"FLYWHEEL_TEST_BROWSER={_ASKED}, and there is none: {REMEDY}")
        pytest.skip(f"no Chromium here: {REMEDY}")
    return found


@contextmanager
def launched() -> Iterator[Any]:
    """A browser. It ends with the block: while it runs, this thread can run no event loop."""
    from playwright.sync_api import sync_playwright

    program = find_or_skip()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class Served(NamedTuple):
    """A review page that runs in a thread."""

    url: str
    people: People

    def key(self, name: str, role: Role = "operator") -> str:
        """Let somebody in; their key."""
        return self.people.add(name, role)


@contextmanager
def served(settings: Settings, store: Store) -> Iterator[Served]:
    """The review page of a ledger on a free port."""
    app = create(settings, store)
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False)
    )
    ready = threading.Event()
    started = server.startup

    async def startup(*args: Any, **kwargs: Any) -> None:
        await started(*args, **kwargs)
        ready.set()

    server.startup = startup  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert ready.wait(20), "the review page did not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Served(f"http://127.0.0.1:{port}", app.state.people)
    server.should_exit = True
    thread.join(20)


def logged_in(
    browser: Any, page: Served, name: str, role: Role = "operator", **options: Any
) -> Any:
    """A browser page of somebody who has logged in, in a context of their own.

    Args:
        options: of the context: `color_scheme="dark"`, `viewport=PHONE`, …
    """
    options = {"viewport": {"width": 1280, "height": 900}, **options}
    tab = browser.new_context(base_url=page.url, **options).new_page()
    tab.set_default_timeout(10_000)
    tab.goto("/login")
    tab.get_by_label("Your key").fill(page.key(name, role))
    tab.get_by_role("button", name="Log in").click()
    tab.wait_for_url("**/queue")
    return tab


def axe_findings(tab: Any) -> list[str]:
    """What axe finds that is serious or critical: rule, and where."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(tab).response["violations"]
    return [
        f"{one['id']}: {one['help']} · {node['html'][:120]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def is_wider_than_the_screen(tab: Any) -> bool:
    """Whether one has to scroll sideways."""
    return bool(
        tab.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    )


def screenshot(tab: Any, name: str) -> None:
    """Keep a picture of the whole page, where pictures are asked for."""
    if folder := os.environ.get("FLYWHEEL_SCREENSHOTS"):
        tab.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
