"""What a request must bring before anything is changed, and headers that bind the browser.

A form on another site can send a request with the reader's cookie. So whatever changes something
must say, in the browser's own headers, that it comes from this page, and carry the session's
token. GET changes nothing. The policy for content allows no script but our own files: what a user
typed can never run, even if a template were wrong.
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: The form field, and the header of a fetch, with the session's token.
FIELD, HEADER = "csrf", "X-CSRF-Token"
#: The largest request, bytes.
MAX_BODY = 1_000_000

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    # `no-referrer` would also hide the origin of our own forms, which is checked.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def same_site(request: Request) -> bool:
    """Whether the browser says that this page itself sent it.

    Programs that are no browser send neither header; they have no cookie to abuse either.
    """
    fetched = request.headers.get("sec-fetch-site")
    if fetched is not None:
        return fetched in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host", "")


async def token_of(request: Request) -> str:
    """The token that a request carries; "" where there is none."""
    sent = request.headers.get(HEADER)
    if sent is None:
        sent = (await request.form()).get(FIELD)
    return sent if isinstance(sent, str) else ""


def fits(token: str, expected: str) -> bool:
    """Whether it is the session's token."""
    return hmac.compare_digest(token.encode(), expected.encode())


class Guard:
    """Puts the headers on every answer, and refuses requests that are too large."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        static = scope["path"].startswith("/static/")

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers["Cache-Control"] = "no-cache" if static else "no-store"
            await send(message)

        await self.app(scope, _limited(scope, receive), guarded)


class TooLarge(Exception):
    """A request is larger than any that a page sends."""


def _limited(scope: Scope, receive: Receive) -> Receive:
    """A `receive` that ends a body which is too large, whatever its length header says."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:
            raise TooLarge
        return message

    return limited
