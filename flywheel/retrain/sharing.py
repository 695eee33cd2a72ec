"""Training beside the server: at once, one after the other, or not on this machine at all.

What side by side means for memory is split: `serve.launch` gives the server its part of the GPU,
`train.room` measures what is left before a training begins, refuses what cannot fit and keeps
the trainer within it.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from flywheel.server import Server
from ledger.deployments import Deployment
from ledger.errors import FlywheelError, ServerError, UsageError
from ledger.settings import Settings
from ledger.store import Lease

# Within which a server is to know the last event of an alias, seconds; it looks each moment.
_FOLLOWS = 15.0


def check_machine(settings: Settings, server: Server) -> None:
    """Refuse to train on the server's machine where that is set.

    Raises:
        UsageError: training belongs elsewhere, and the server is on this machine.
    """
    if settings.train.beside_server == "elsewhere" and is_here(server.url):
        raise UsageError(
            f"train.beside_server is elsewhere, and the server {server.url} is on this machine "
            f"({socket.gethostname()})",
            rule="Training runs on another machine that sees the same ledger and registry.",
            remedy="There: flywheel retrain --url http://THIS-MACHINE:PORT/v1. To train here all "
            "the same, set train.beside_server to side_by_side or pause.",
        )


def is_here(url: str) -> bool:
    """Whether a URL's host is this machine: one of its addresses can be listened on only here."""
    host = urlsplit(url).hostname or ""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind(address)
                return True
            except OSError:
                continue
    return False


@contextmanager
def server_aside(
    settings: Settings, server: Server, lease: Lease, say: Callable[[str], None]
) -> Iterator[None]:
    """Have the server stand back while the block runs, where that is set.

    The pause holds as long as the lease: should this process die, the server comes back alone.

    Raises:
        ServerError: the server cannot pause, or does not come back.
    """
    if settings.train.beside_server != "pause":
        yield
        return
    drain = settings.train.drain_seconds
    waited = server.pause(lease.name, lease.token, drain)
    say(f"pause    the server stands back ({waited:.1f} s); clients get 503 until it is back")
    try:
        yield
    finally:
        try:
            waited = server.resume(lease.name, lease.token)
            say(f"pause    the server answers again ({waited:.1f} s)")
        except FlywheelError as error:
            if sys.exception() is None:
                raise
            say(f"pause    {error}")  # what went wrong before matters more


def check_shared(settings: Settings, server: Server, state: Deployment) -> None:
    """Find before the training that the server could not load what it makes.

    Args:
        state: of the alias in our ledger.

    Raises:
        ServerError: the server's ledger or registry is another one than ours.
    """
    from ledger.registry.identity import registry_id

    try:
        server.wait_for_event(state.alias, state.seq, seconds=_FOLLOWS)
    except ServerError as error:
        raise ServerError(
            error.problem,
            rule="A retrain and the server have to share the ledger.",
            remedy="Compare ledger.url on both machines; the server's log says what it follows.",
        ) from None
    theirs = server.deployments().get("registry")
    if theirs is not None and theirs != registry_id(settings.registry):
        raise ServerError(
            f"the server at {server.url} has another registry than {settings.registry} here",
            rule="A version that is published here has to be found there.",
            remedy="Set shared_registry on both machines to one folder that both see (NFS, a "
            "shared volume).",
        )
