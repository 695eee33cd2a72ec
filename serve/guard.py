"""Which paths the server answers at all.

vLLM serves more than an API for clients: `/invocations` chats without a key, `/tokenize` and
others need none either, and loading adapters over HTTP would let a client change what is live.
What is not on this list does not exist (404).
"""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OPEN = frozenset(
    {
        "/health",
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
    }
)
OPEN_BELOW = ("/v1/responses/", "/v1/models/", "/metrics/")


class Guard:
    """ASGI middleware: 404 for every path that is not open."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

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
        await self._app(scope, receive, send)
