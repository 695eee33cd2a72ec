"""How long the review page's queue takes, over HTTP, for `benchmarks.curate`."""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.tiny import ROOT
from curate.review.keys import People, keys_file
from ledger.settings import load
from ledger.store import Store

_WHO = "bench"
_SERVE = (
    "import sys; from pathlib import Path; from curate.review.serving import serve; "
    "from ledger.settings import load; from ledger.store import Store; "
    "settings = load(Path(sys.argv[1])); serve(settings, Store.open(settings), 'support', "
    "operator='bench', say=print, port=int(sys.argv[2]))"
)
_START_SECONDS = 60.0


def page_times(config: Path, store: Store, pages: int = 30) -> dict[str, float]:
    """Milliseconds of the queue's page: as it opens, and with a row that is asked for.

    Args:
        store: whose queue has waiting rows; the page is served by a process of its own.
        pages: of each kind; the first request, which loads the templates, is counted apart.

    Raises:
        RuntimeError: the page did not answer, or showed no row.
    """
    key = People(keys_file(load(config))).add(_WHO, "operator")
    rows = [one.row_id for one in store.queued("support", pages)]
    with _served(config) as url, httpx.Client(base_url=url, follow_redirects=True) as client:
        client.post("/login", data={"key": key, "to": "/login"}).raise_for_status()
        first = _asked(client, "/support/queue")
        taken = []
        for row in rows:
            taken.append(_asked(client, "/support/queue", row))
            taken.append(_asked(client, "/support/queue"))
    return {
        "queue_page_ms": round(statistics.median(taken), 1),
        "queue_page_max_ms": round(max(taken), 1),
        "queue_page_first_ms": round(first, 1),
        "queue_rows": sum(store.waiting("support").values()),
    }


def _asked(client: httpx.Client, path: str, row: str = "") -> float:
    started = time.perf_counter()
    answer = client.get(path, params={"row": row} if row else {})
    taken = (time.perf_counter() - started) * 1e3
    if answer.status_code != 200 or "/login" in str(answer.url) or "<form" not in answer.text:
        raise RuntimeError(f"{answer.url} answered {answer.status_code}, without a row")
    return taken


@contextmanager
def _served(config: Path) -> Iterator[str]:
    """The page in a process of its own; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = config.parent / "page.txt"
    with open(log, "wb") as handle:
        command = [sys.executable, "-c", _SERVE, str(config), str(port)]
        child = subprocess.Popen(command, cwd=ROOT, stdout=handle, stderr=handle)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, child, log)
        yield url
    finally:
        child.terminate()
        child.wait(30)


def _wait(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and child.poll() is None:
        try:
            httpx.get(f"{url}/login").raise_for_status()
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"the page does not answer: {log.read_text()[-2000:]}")
