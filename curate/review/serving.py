"""Runs the review page: uvicorn, and a thread that brings new rows into the queue.

Covers one process and one address. TLS and more hosts are a proxy's matter.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote

from curate.review.app import create
from curate.review.keys import People, keys_file
from curate.tagging.sweep import sweep
from ledger.errors import FlywheelError
from ledger.loopback import is_loopback
from ledger.settings import Settings
from ledger.store import Store

logger = logging.getLogger(__name__)

_SWEEP_SECONDS = 60.0


def serve(
    settings: Settings,
    store: Store,
    alias: str,
    *,
    operator: str,
    say: Callable[[str], None],
    host: str | None = None,
    port: int | None = None,
) -> None:
    """Serve the page until it is stopped.

    Args:
        alias: whose queue is shown first.
        operator: added as one, with a key, where nobody may log in yet.
        say: gets what a person at the terminal should know.
        host, port: instead of what the configuration says.

    Raises:
        ConfigError: the keys cannot be read.
        LedgerError, LedgerLocked: the ledger cannot be read or written.
    """
    import uvicorn

    host, port = host or settings.curate.review.host, port or settings.curate.review.port
    people = People(keys_file(settings))
    if not people.all():
        key = people.add(operator, "operator")
        say(f"Key of {operator}, shown this once: {key}")
    if not is_loopback(host):
        say(
            f"Warning: {host} is reached from other machines. Put a TLS proxy before the page and "
            "set curate.review.secure_cookies, or keys and rows can be read on the way."
        )
    app = create(settings, store)
    sweep(settings, store)
    shown = f"[{host}]" if ":" in host else host
    say(f"Review page: http://{shown}:{port}/{quote(alias)}/queue   (Ctrl-C ends it)")
    # Without an access log: addresses of the page hold what was searched for.
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", access_log=False, server_header=False
    )
    with sweeping(settings, store):
        uvicorn.Server(config).run()


@contextmanager
def sweeping(settings: Settings, store: Store, every: float = _SWEEP_SECONDS) -> Iterator[None]:
    """Sweep in a thread while the block runs.

    Args:
        every: seconds from one sweep to the next.
    """
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(every):
            try:
                sweep(settings, store)
            except FlywheelError as error:  # locked, say: the next one makes up for it
                logger.warning("the queue was not brought up to date: %s", error.problem)

    thread = threading.Thread(target=run, name="sweep", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
