"""Spans by OpenTelemetry's conventions for generative AI, where vLLM traces.

vLLM traces where it was started with `--otlp-traces-endpoint` (`serve.vllm.otlp_traces_endpoint`).
Only then is anything here used. Each request for an answer gets a span of its own round vLLM's
handler, a child of the client's (`traceparent`), and vLLM's `llm_request` becomes its child. Both
say which version answered and why: alias, arm, deployment event. They hold no text and nobody's
identity.

Names are those of the semantic conventions (https://opentelemetry.io/docs/specs/semconv/gen-ai/);
what they do not have begins with `flywheel.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.records import Api
from serve.capture import opens_prompt

_W3C = TraceContextTextMapPropagator()
_OPERATIONS: dict[Api, str] = {"completions": "text_completion"}  # all others chat
_ASKED = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
    "n": "gen_ai.request.choice.count",
    "seed": "gen_ai.request.seed",
}
_LONGEST = 100  # characters of a model's name that a client made up


class _Open:
    """A request's span while it is under way."""

    def __init__(self, span: trace.Span, operation: str) -> None:
        self.span, self.operation = span, operation
        self.passed_on: dict[str, Any] = {}
        self.input_tokens = self.output_tokens = 0
        self.finishes: list[str] = []


_CURRENT: ContextVar[_Open | None] = ContextVar("flywheel_span", default=None)


class Tracing:
    """The spans of one server.

    Args:
        provider: vLLM's; by default the one that is set for the process when it is first needed.
    """

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        self._provider = provider
        self._open: dict[int, _Open] = {}
        self._tracer: trace.Tracer | None = None

    def begin(self) -> None:
        """Find vLLM's provider and tell it what its own spans inherit; once it is set."""
        provider = self._provider or trace.get_tracer_provider()
        self._tracer = provider.get_tracer("flywheel")
        add = getattr(provider, "add_span_processor", None)
        if add is not None:
            add(_Inherit(self._open))

    async def around(
        self, api: Api, app: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Let the application answer within a span."""
        assert self._tracer is not None
        operation = _OPERATIONS.get(api, "chat")
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in
                   scope["headers"] if key in (b"traceparent", b"tracestate")}  # fmt: skip
        with self._tracer.start_as_current_span(
            operation,
            context=_W3C.extract(headers),
            kind=SpanKind.SERVER,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "vllm",
                "url.path": scope["path"],
            },
            # An exception's message may quote what somebody wrote.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            opened = _Open(span, operation)

            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _answering(span, message["status"])
                await send(message)

            key, token = span.get_span_context().span_id, _CURRENT.set(opened)
            self._open[key] = opened
            try:
                await app(scope, receive, sending)
            except Exception as error:
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR))
                raise
            finally:
                del self._open[key]
                _CURRENT.reset(token)

    def routed(
        self, asked: str, version: str, body: Mapping[str, Any], *, alias: str | None, arm: str,
        event: int,
    ) -> None:  # fmt: skip
        """Say which version answers, and why.

        Args:
            asked: the model that the client named.
            event: number of the deployment event that decided; 0 where a version was named.
        """
        opened = _CURRENT.get()
        if opened is None:
            return
        asked, version = asked[:_LONGEST], version[:_LONGEST]
        opened.passed_on = {
            "gen_ai.request.model": asked,
            "gen_ai.response.model": version,
            "flywheel.version": version,
            "flywheel.arm": arm,
            "flywheel.deployment.event": event,
        }
        if alias is not None:
            opened.passed_on["flywheel.alias"] = alias
        opened.span.update_name(f"{opened.operation} {asked}")
        opened.span.set_attributes(opened.passed_on)
        for name, attribute in _ASKED.items():
            if isinstance(value := body.get(name), int | float):
                opened.span.set_attribute(attribute, value)

    def answered(self, record: dict[str, Any]) -> None:
        """Add what an answer came to; see `serve.capture.Answer.records`."""
        opened = _CURRENT.get()
        if opened is None or not opened.span.is_recording():
            return  # in the background, or of a client that went away
        opened.output_tokens += record["completion_tokens"]
        if opens_prompt(record):
            opened.input_tokens += record["prompt_tokens"]
        opened.finishes.append(record["finish_reason"])
        opened.span.set_attributes(
            {
                "gen_ai.response.id": record["request_id"],
                "gen_ai.response.finish_reasons": list(opened.finishes),
                "gen_ai.usage.input_tokens": opened.input_tokens,
                "gen_ai.usage.output_tokens": opened.output_tokens,
            }
        )
        if record["mean_logprob"] is not None:
            opened.span.set_attribute("flywheel.mean_logprob", record["mean_logprob"])

    def headers(self) -> dict[str, str]:
        """What vLLM's spans of this request hang on; empty outside of a request."""
        carrier: dict[str, str] = {}
        opened = _CURRENT.get()
        if opened is not None:
            _W3C.inject(carrier, trace.set_span_in_context(opened.span))
        return carrier


def _answering(span: trace.Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= 400:
        span.set_attribute("error.type", str(status))
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))


class _Inherit(SpanProcessor):
    """Gives spans below a request's, which are vLLM's, its model and version."""

    def __init__(self, opened: Mapping[int, _Open]) -> None:
        self._opened = opened

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        parent = trace.get_current_span(parent_context).get_span_context()
        above = self._opened.get(parent.span_id) if parent.is_valid else None
        if above is not None:
            span.set_attributes(above.passed_on)

    def on_end(self, span: ReadableSpan) -> None:
        """Nothing."""


class Spans:
    """ASGI middleware: a span round every request for an answer.

    Args:
        answering: their paths.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing, answering: Mapping[str, Api]) -> None:
        self._app, self._tracing, self._answering = app, tracing, answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, within a span where an answer is asked for."""
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if (api := self._answering.get(path)) is not None:
                await self._tracing.around(api, self._app, scope, receive, send)
                return
        await self._app(scope, receive, send)
