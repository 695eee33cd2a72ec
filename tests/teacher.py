"""A small server that answers chat requests as a script says: well, late, wrongly, or not at all.

`eval.fake` answers as models do; this one breaks in the ways that a client has to live with.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self


class Reply(NamedTuple):
    """One answer. `hold` lets it wait until the event is set; `raw` takes the place of JSON."""

    text: str | None = "delivery"
    status: int = 200
    finish: str = "stop"
    usage: tuple[int, int] | None = (100, 10)
    message: dict[str, Any] | None = None
    raw: bytes | None = None
    hold: threading.Event | None = None


Script = Callable[[dict[str, Any], int], Reply]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class TeacherServer:
    """The server; use it in `with`.

    Args:
        script: called with a request's body and its number, from 1.

    Attributes:
        seen: bodies of the requests so far.
        keys: their Authorization headers.
    """

    def __init__(self, script: Script) -> None:
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.seen.append(body)
                    outer.keys.append(self.headers.get("Authorization"))
                    number = len(outer.seen)
                    outer._now += 1
                    outer.most_at_once = max(outer.most_at_once, outer._now)
                try:
                    reply = script(body, number)
                    if reply.hold is not None:
                        reply.hold.wait(30)
                finally:
                    with outer._lock:
                        outer._now -= 1
                data = reply.raw if reply.raw is not None else json.dumps(_body(reply)).encode()
                try:
                    self.send_response(reply.status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.send_header("retry-after-ms", "1")
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # who asked is gone: killed, or tired of waiting

            def log_message(self, format: str, *args: Any) -> None:
                """Stay silent."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _body(reply: Reply) -> dict[str, Any]:
    if reply.status != 200:
        return {"error": {"message": "made to fail", "code": reply.status}}
    message = {"role": "assistant", "content": reply.text} | (reply.message or {})
    choice = {"index": 0, "message": message, "finish_reason": reply.finish}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    if reply.usage is not None:
        prompt, completion = reply.usage
        tokens = {"prompt_tokens": prompt, "completion_tokens": completion}
        body["usage"] = tokens | {"total_tokens": prompt + completion}
    return body
