"""A small server that speaks the OpenAI protocol, for tests of whatever asks one.

Runs in a thread of this process on a free loopback port. Covers `GET /v1/models` and
`POST /v1/chat/completions` without streaming, with logprobs, tokens being words. It is no
model: what each one says is a function that the test brings.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

Says = Callable[[list[dict[str, Any]]], str]


class FakeFailure(Exception):
    """Raised by a model's function to answer with an HTTP error instead."""

    def __init__(self, status: int, message: str = "made to fail") -> None:
        self.status = status
        super().__init__(message)


class Seen(NamedTuple):
    """A request that came in; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for the answers under way
    # One beyond it may look connected to its client and be heard by nobody until that gives up.
    request_queue_size = 1024


class FakeServer:
    """The server; use it in `with`, or call `close`.

    Args:
        models: what each model says to the messages it gets.
        api_key: the one key that is accepted; None accepts all.
        offsets: added to every logprob of a model. Without it two models that say the same
            have the same logprobs.
        renames: the `model` that an answer claims, where it is not the one asked for.

    Attributes:
        seen: chat requests so far, oldest first.
        url: of the API, `http://127.0.0.1:<port>/v1`.
    """

    def __init__(
        self,
        models: Mapping[str, Says],
        *,
        api_key: str | None = None,
        offsets: Mapping[str, float] | None = None,
        renames: Mapping[str, str] | None = None,
    ) -> None:
        self.models = dict(models)
        self.api_key = api_key
        self.offsets = dict(offsets or {})
        self.renames = dict(renames or {})
        self.seen: list[Seen] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake._handle(self, None)

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                fake._handle(self, self.rfile.read(length))

            def log_message(self, format: str, *args: Any) -> None:
                """Stay silent."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening; further requests find nobody. May be called from a model's function."""
        self._server.shutdown()
        self._server.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        self._server.server_close()
        self._thread.join()

    def _handle(self, request: BaseHTTPRequestHandler, raw: bytes | None) -> None:
        try:
            status, answer = 200, self._answer(request, raw)
        except FakeFailure as failure:
            status = failure.status
            error = {"message": str(failure), "type": "fake", "param": None, "code": status}
            answer = {"error": error}
        data = json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def _answer(self, request: BaseHTTPRequestHandler, raw: bytes | None) -> dict[str, Any]:
        headers = {name.lower(): value for name, value in request.headers.items()}
        if self.api_key is not None and headers.get("authorization") != f"Bearer {self.api_key}":
            raise FakeFailure(401, "Unauthorized")
        if raw is None and request.path == "/v1/models":
            cards = [
                {"id": name, "object": "model", "created": 0, "owned_by": "fake"}
                for name in self.models
            ]
            return {"object": "list", "data": cards}
        if raw is None or request.path != "/v1/chat/completions":
            raise FakeFailure(404, "Not Found")
        body = json.loads(raw)
        self.seen.append(Seen(request.path, headers, body))
        model = body["model"]
        if model not in self.models:
            raise FakeFailure(404, f"The model `{model}` does not exist.")
        return self._completion(model, body, self.models[model](body["messages"]))

    def _completion(self, model: str, body: dict[str, Any], text: str) -> dict[str, Any]:
        tokens = [word + " " for word in text.split(" ")]
        tokens[-1] = tokens[-1][:-1]
        cut = tokens[: body.get("max_tokens") or len(tokens)]
        prompt_tokens = sum(len(str(m.get("content")).split()) for m in body["messages"])
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": "".join(cut)},
            "finish_reason": "stop" if cut == tokens else "length",
            "logprobs": None,
        }
        if body.get("logprobs"):
            offset = self.offsets.get(model, 0.0)
            content: list[dict[str, Any]] = [
                {"token": t, "logprob": _logprob(t) + offset, "bytes": None, "top_logprobs": []}
                for t in cut
            ]
            choice["logprobs"] = {"content": content}
        return {
            "id": f"chatcmpl-{len(self.seen)}",
            "object": "chat.completion",
            "created": 0,
            "model": self.renames.get(model, model),
            "choices": [choice],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": len(cut),
                "total_tokens": prompt_tokens + len(cut),
            },
        }


def _logprob(token: str) -> float:
    """Some number between -1 and 0, always the same for the same token."""
    return -hashlib.sha256(token.encode()).digest()[0] / 256
