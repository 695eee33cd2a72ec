"""Spans: what they say, what hangs on what, and that vLLM's own say it too."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as conventions
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from servers import KEY, Ours, start_ours, wait_for
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from tiny import write_config

from serve.tracing import Spans, Tracing

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "where is the parcel 4711 of mine"


class Traced:
    """An application with our spans, whose engine makes spans as vLLM does."""

    def __init__(self) -> None:
        self.exported = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exported))
        self.tracing = Tracing(provider)
        self.tracing.begin()
        self._engine = provider.get_tracer("vllm.llm_engine")
        routes = [
            Route(path, self.answer, methods=["POST"])
            for path in ("/v1/chat/completions", "/v1/completions", "/v1/feedback")
        ]
        app = Starlette(routes=routes)
        answering: Any = {"/v1/chat/completions": "chat", "/v1/completions": "completions"}
        app.add_middleware(Spans, tracing=self.tracing, answering=answering)
        self.client = TestClient(app, raise_server_exceptions=False)

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        if body.get("fails"):
            raise RuntimeError(SECRET)
        if "model" not in body:
            return JSONResponse({}, status_code=400)
        self.tracing.routed(
            body["model"], "support@v2", body, alias="support", arm="candidate", event=7
        )
        if body.get("stream"):
            return StreamingResponse(self._said(body))
        for number in range(body.get("n", 1)):
            self._engine_works(body, number)
        return JSONResponse({})

    def _engine_works(self, body: Mapping[str, Any], number: int) -> None:
        context = TraceContextTextMapPropagator().extract(self.tracing.headers())
        self._engine.start_span("llm_request", context=context).end()
        self.tracing.answered(
            {
                "request_id": "chatcmpl-1", "choice": number, "prompt_index": 0, "body": body,
                "prompt_tokens": 5, "completion_tokens": 2, "finish_reason": "stop",
                "mean_logprob": -0.25,
            }
        )  # fmt: skip

    async def _said(self, body: Mapping[str, Any]) -> Any:
        yield b"data: 1\n\n"
        await asyncio.sleep(0)
        self._engine_works(body, 0)
        yield b"data: 2\n\n"

    def ask(self, path: str = "/v1/chat/completions", **body: Any) -> list[Any]:
        """Spans of one request, the engine's first."""
        self.exported.clear()
        words = {"model": "support", "messages": [{"role": "user", "content": SECRET}], **body}
        with self.client as client:
            client.post(path, json=words, headers={"traceparent": CLIENT})
        return list(self.exported.get_finished_spans())


@pytest.fixture
def traced() -> Traced:
    return Traced()


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_has_a_span_that_vllms_hangs_on(traced: Traced, stream: bool) -> None:
    engine, ours = traced.ask(temperature=0.5, max_tokens=9, stream=stream)
    assert f"{ours.context.trace_id:032x}" == CLIENT.split("-")[1]
    assert ours.parent is not None
    assert f"{ours.parent.span_id:016x}" == CLIENT.split("-")[2]
    assert engine.parent is not None
    assert engine.parent.span_id == ours.context.span_id
    assert (ours.name, ours.kind.name) == ("chat support", "SERVER")
    assert dict(ours.attributes or {}) == {
        conventions.GEN_AI_OPERATION_NAME: "chat",
        conventions.GEN_AI_PROVIDER_NAME: "vllm",
        conventions.GEN_AI_REQUEST_MODEL: "support",
        conventions.GEN_AI_RESPONSE_MODEL: "support@v2",
        conventions.GEN_AI_REQUEST_TEMPERATURE: 0.5,
        conventions.GEN_AI_REQUEST_MAX_TOKENS: 9,
        conventions.GEN_AI_RESPONSE_ID: "chatcmpl-1",
        conventions.GEN_AI_RESPONSE_FINISH_REASONS: ("stop",),
        conventions.GEN_AI_USAGE_INPUT_TOKENS: 5,
        conventions.GEN_AI_USAGE_OUTPUT_TOKENS: 2,
        "url.path": "/v1/chat/completions",
        "http.response.status_code": 200,
        "flywheel.alias": "support",
        "flywheel.version": "support@v2",
        "flywheel.arm": "candidate",
        "flywheel.deployment.event": 7,
        "flywheel.mean_logprob": -0.25,
    }


def test_vllms_span_says_which_version_too(traced: Traced) -> None:
    engine, _ = traced.ask()
    assert dict(engine.attributes or {}) == {
        "gen_ai.request.model": "support",
        "gen_ai.response.model": "support@v2",
        "flywheel.alias": "support",
        "flywheel.version": "support@v2",
        "flywheel.arm": "candidate",
        "flywheel.deployment.event": 7,
    }


def test_choices_add_up(traced: Traced) -> None:
    *_, ours = traced.ask(n=3)
    assert ours.attributes is not None
    assert ours.attributes["gen_ai.usage.input_tokens"] == 5
    assert ours.attributes["gen_ai.usage.output_tokens"] == 6
    assert ours.attributes["gen_ai.response.finish_reasons"] == ("stop", "stop", "stop")
    assert ours.attributes["gen_ai.request.choice.count"] == 3


def test_the_operation_is_named_by_the_api(traced: Traced) -> None:
    *_, ours = traced.ask("/v1/completions")
    assert ours.name == "text_completion support"


@pytest.mark.parametrize("body", [{}, {"fails": True}])
def test_spans_hold_no_text(traced: Traced, body: dict[str, Any]) -> None:
    for span in traced.ask(**body, user="user-17", session_id="s-1"):
        text = span.to_json()
        assert SECRET not in text
        assert "user-17" not in text
        assert "s-1" not in text


def test_a_failure_is_one(traced: Traced) -> None:
    [ours] = traced.ask(fails=True)
    assert ours.attributes is not None
    assert ours.attributes["error.type"] == "RuntimeError"
    assert ours.status.status_code.name == "ERROR"


def test_other_paths_have_no_span(traced: Traced) -> None:
    [engine] = traced.ask("/v1/feedback")  # the stand-in answers there too
    assert engine.parent is None
    assert traced.tracing.headers() == {}


# -- real vLLM ---------------------------------------------------------------------------------


class Collected:
    """An OTLP receiver over HTTP."""

    def __init__(self) -> None:
        spans: list[Any] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    data = gzip.decompress(data)
                sent = ExportTraceServiceRequest.FromString(data)
                for resource in sent.resource_spans:
                    for scope in resource.scope_spans:
                        spans.extend(scope.spans)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.spans = spans
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture(scope="module")
def collected() -> Iterator[Collected]:
    found = Collected()
    yield found
    found.close()


@pytest.fixture(scope="module")
def server(tiny_home: Any, tmp_path_factory: Any, collected: Collected) -> Iterator[Ours]:
    """A real server of its own ledger, which traces."""
    settings, _, model = tiny_home
    home: Path = tmp_path_factory.mktemp("traced")
    traced = settings.model_copy(
        update={
            "var": home / "var",
            "ledger": settings.ledger.model_copy(update={"url": f"sqlite:///{home}/ledger.db"}),
            "serve": settings.serve.model_copy(
                update={
                    "vllm": {**settings.serve.vllm, "otlp_traces_endpoint": collected.url},
                    "env": {
                        **settings.serve.env,
                        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
                        "OTEL_BSP_SCHEDULE_DELAY": "200",
                    },
                }
            ),
        }
    )
    running = start_ours(traced, write_config(traced, home / "c.yaml"), model, home / "log")
    yield running
    running.close()


def attributes(span: Any) -> dict[str, Any]:
    found = {}
    for one in span.attributes:
        kind = one.value.WhichOneof("value")
        found[one.key] = getattr(one.value, kind) if kind else None
    return found


def test_a_real_vllm_exports_both_spans(server: Ours, collected: Collected) -> None:
    words: dict[str, Any] = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 4}
    headers = {"traceparent": CLIENT}
    whole = server.client.chat.completions.create(model="support", **words, extra_headers=headers)
    parts = server.client.chat.completions.create(model="support", stream=True, **words)
    [streamed] = {part.id for part in parts}
    with pytest.raises(openai.NotFoundError):
        server.client.chat.completions.create(model="nobody", **words)

    def ended() -> dict[str, Any] | None:
        by = {attributes(one).get("gen_ai.response.id"): one for one in collected.spans}
        refused = any(attributes(one).get("error.type") == "404" for one in collected.spans)
        return by if {whole.id, streamed} <= by.keys() and refused else None

    spans = wait_for(ended, "the spans", 20)
    ours = spans[whole.id]
    assert ours.trace_id.hex() == CLIENT.split("-")[1]
    assert ours.parent_span_id.hex() == CLIENT.split("-")[2]
    for request_id in (whole.id, streamed):
        ours = spans[request_id]
        said = attributes(ours)
        assert ours.name == "chat support"
        assert (said["gen_ai.request.model"], said["gen_ai.response.model"]) == ("support", "tiny")
        assert said["gen_ai.usage.output_tokens"] == 4
        assert (said["flywheel.arm"], said["flywheel.alias"]) == ("live", "support")
        below = [one for one in collected.spans if one.parent_span_id == ours.span_id]
        [engine] = [one for one in below if one.name == "llm_request"]
        assert engine.trace_id == ours.trace_id
        theirs = attributes(engine)
        assert theirs["gen_ai.usage.completion_tokens"] == 4
        assert (theirs["flywheel.alias"], theirs["gen_ai.response.model"]) == ("support", "tiny")
        # The answer ends after the engine: a stream's span stays open to its last byte.
        assert ours.end_time_unix_nano >= engine.start_time_unix_nano
    assert not any(SECRET in str(one) for one in collected.spans)


def test_keys_are_asked_for_as_ever(server: Ours) -> None:
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=server.url, api_key=f"not-{KEY}", max_retries=0).models.list()
