"""Which version answers: a pure function of (alias, key, deployment).

The same key gets the same side as long as a candidate is tried: who is in its 5 % is in its
50 % too. Another candidate draws other keys, so that nobody is always the first to be tried
on. Every replica decides alike with no coordinator.
"""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

from ledger.deployments import Deployment

Arm = Literal["live", "candidate"]


class Route(NamedTuple):
    """The version that answers a request; 0 is the base model."""

    version: int
    arm: Arm


def bucket(alias: str, candidate: int, key: str) -> float:
    """Where a key falls, in percent: uniform over [0, 100), fixed for a candidate."""
    # Half a surrogate pair in a key is no character, but no reason to refuse an answer either.
    data = f"{alias}\0{candidate}\0{key}".encode(errors="surrogatepass")
    digest = hashlib.blake2b(data, digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 * 100


def route(deployment: Deployment, key: str) -> Route:
    """Pick the version for a request.

    Args:
        key: the session, else the user, else the request's id.
    """
    candidate, share = deployment.candidate, deployment.share
    if candidate is not None and share and bucket(deployment.alias, candidate, key) < share:
        return Route(candidate, "candidate")
    return Route(deployment.live, "live")
