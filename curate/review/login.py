"""Logging in with a key, and the session that follows: a signed cookie.

The cookie holds the name and the session's token, nothing else, and each request looks the
person up again: who is removed, or gets another key or role, is out at once. Covers one process:
sessions that were ended by logging out, and failed attempts, are counted in memory.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from typing import Any, NamedTuple

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.requests import Request
from starlette.responses import Response

from curate.review.keys import People, Person
from ledger.settings.curation import Review

#: What a signature is for, so that one of another purpose does not fit.
SALT = "flywheel review session"
#: Failed attempts from one address, and from all together, that are let through in a minute.
PER_ADDRESS, PER_MINUTE = 10, 100
_WINDOW = 60.0
_ADDRESSES = 10_000  # that are remembered


class Session(NamedTuple):
    """A login. `token` must come back with whatever changes something."""

    person: Person
    token: str


class Sessions:
    """Makes cookies and reads them.

    Args:
        secret: what signs them.
        settings: how long a login holds, and whether its cookie goes over TLS only.
    """

    def __init__(self, people: People, secret: str, settings: Review) -> None:
        self.people = people
        self._signer = URLSafeTimedSerializer(secret, salt=SALT)
        self._seconds = settings.session_hours * 3600
        self._secure = settings.secure_cookies
        # A `__Host-` cookie cannot be set by another host of the same domain.
        self._cookie = "__Host-flywheel" if settings.secure_cookies else "flywheel"
        self._ended: dict[str, float] = {}

    def begin(self, response: Response, person: Person) -> None:
        """Log somebody in."""
        said = {"name": person.name, "key": person.digest[:16], "token": secrets.token_hex(16)}
        response.set_cookie(
            self._cookie,
            self._signer.dumps(said),
            max_age=int(self._seconds),
            httponly=True,
            samesite="strict",
            secure=self._secure,
            path="/",
        )

    def of(self, request: Request) -> Session | None:
        """Whose request it is; None where nobody is logged in."""
        try:
            said: Any = self._signer.loads(
                request.cookies.get(self._cookie, ""), max_age=int(self._seconds)
            )
        except BadSignature:  # none, altered, or too old
            return None
        person = self.people.named(said["name"])
        if person is None or person.digest[:16] != said["key"] or said["token"] in self._ended:
            return None
        return Session(person, said["token"])

    def end(self, response: Response, session: Session) -> None:
        """Log somebody out: a copy of the cookie is worth nothing after."""
        time_now = time.monotonic()
        old = [token for token, end in self._ended.items() if end < time_now]
        for token in old:
            del self._ended[token]
        self._ended[session.token] = time_now + self._seconds
        response.delete_cookie(
            self._cookie, path="/", httponly=True, samesite="strict", secure=self._secure
        )


class Attempts:
    """Failed logins of the last minute, so that a guesser has to wait."""

    def __init__(self) -> None:
        self._failed: dict[str, deque[float]] = {}
        self._all: deque[float] = deque()

    def wait(self, address: str) -> float:
        """Seconds until an address may try again; 0 where it may now."""
        time_now = time.monotonic()
        waits = [0.0]
        for failed, most in (
            (self._failed.get(address, deque()), PER_ADDRESS),
            (self._all, PER_MINUTE),
        ):
            while failed and failed[0] <= time_now - _WINDOW:
                failed.popleft()
            if len(failed) >= most:
                waits.append(failed[0] + _WINDOW - time_now)
        return max(waits)

    def failed(self, address: str) -> None:
        """Count one."""
        if len(self._failed) >= _ADDRESSES:
            self._failed.clear()  # the count of all together still holds
        time_now = time.monotonic()
        self._failed.setdefault(address, deque()).append(time_now)
        self._all.append(time_now)
