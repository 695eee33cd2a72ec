"""Which paths the server answers at all.

vLLM serves more than an API for clients: `/invocations` chats without a key, `/tokenize` and
others need none either, and loading adapters over HTTP would let a client change what is live.
What is not on this list does not exist (404).
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.pause import Traffic

OPEN = frozenset(
    {
        "/health",
        "/ready",
        "/version",
        "/metrics",
        "/v1/models",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/feedback",
        "/v1/deployments",
        "/v1/pause",
    }
)
OPEN_BELOW = ("/v1/responses/", "/v1/models/", "/metrics/")


class Guard:
    """ASGI middleware: 404 for every path that is not open; counts what is being answered.

    Args:
        traffic: where requests for an answer are counted until their last byte is sent.
        answering: their paths.
    """

    def __init__(self, app: ASGIApp, traffic: Traffic, answering: Collection[str]) -> None:
        self._app, self._traffic, self._answering = app, traffic, answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an open path on, answer 404 for the others."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if path not in OPEN and not path.startswith(OPEN_BELOW):
                response = JSONResponse({"detail": "Not Found"}, status_code=404)
                await response(scope, receive, send)
                return
            if path in self._answering and scope["method"] == "POST":
                self._traffic.requests += 1
                try:
                    await self._app(scope, receive, send)
                finally:
                    self._traffic.requests -= 1
                return
        await self._app(scope, receive, send)
