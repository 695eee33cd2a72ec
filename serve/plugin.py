"""How a request flows, on one screen.

vLLM loads this plugin into its own API server (`VLLM_PLUGINS=flywheel`). There is no proxy and
no second hop: the routes below replace vLLM's, pick a pinned version, open a record, and call
vLLM's own handler unchanged. The tee round `engine_client.generate` sees every output token.

    POST /v1/chat/completions  ─┐
    POST /v1/completions        ├─ Plugin.answer: alias → version → vLLM's handler → tee → record
    POST /v1/responses          │
    POST /v1/messages          ─┘
    POST /v1/messages/count_tokens   alias → version, nothing recorded
    POST /v1/feedback                to the writer, answered when committed
    GET  /v1/models                  vLLM's list and the aliases
    GET  /v1/deployments             what this server does for each alias now
    POST /v1/pause, GET /ready       standing back while a training needs the GPU (`serve.pause`)
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import logging
import os
import uuid
from argparse import Namespace
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from vllm.platforms import current_platform
from vllm.sampling_params import SamplingParams

from ledger import gpu
from ledger.deployments import Deployments, name_or_none
from ledger.fingerprint import base_fingerprint, template_hash
from ledger.model import model_folder
from ledger.records import Api
from ledger.registry import Registry
from ledger.registry.identity import registry_id
from ledger.settings import CONFIG_VARIABLE, Settings, api_keys, load
from ledger.store import Store
from ledger.writing.channel import Channel
from serve import metrics
from serve.adapters import Adapters
from serve.capture import CURRENT, EVALUATION_HEADER, Capture
from serve.capture import Request as Captured
from serve.counts import Counts
from serve.feedback import take_feedback
from serve.follow import Follower
from serve.glances import Glances
from serve.guard import Guard
from serve.identity import routing_key, session_of, user_of
from serve.pause import Pause, Traffic
from serve.routing import route

if TYPE_CHECKING:
    from serve.tracing import Tracing

logger = logging.getLogger("flywheel.plugin")

ANSWERING: dict[str, Api] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
}
COUNTING = "/v1/messages/count_tokens"


class Plugin:
    """vLLM's endpoint plugin; one instance an API server."""

    name = "flywheel"
    required_tasks = ("generate",)

    settings: Settings
    adapters: Adapters
    capture: Capture
    channel: Channel
    pause: Pause
    counts: Counts
    tracing: Tracing | None = None

    def attach_router(self, app: FastAPI) -> None:
        """Put our routes in the place of vLLM's; called while vLLM builds its app."""
        _show_our_log()
        self.config = Path(os.environ[CONFIG_VARIABLE])
        self.settings = load(self.config)
        # vLLM's own check of the keys, which would otherwise have to stand on a command line.
        app.state.args.api_key = api_keys(self.settings.serve) or app.state.args.api_key
        self.traffic = Traffic()
        app.add_middleware(Guard, traffic=self.traffic, answering=frozenset(ANSWERING))
        if getattr(app.state.args, "otlp_traces_endpoint", None):
            from serve.tracing import Spans, Tracing  # vLLM can do without OpenTelemetry

            self.tracing = Tracing()
            app.add_middleware(Spans, tracing=self.tracing, answering=ANSWERING)
        for path, api in ANSWERING.items():
            _replace(app, path, functools.partial(self.answer, api))
        _replace(app, COUNTING, functools.partial(self.answer, None))
        app.add_api_route("/v1/feedback", self.feedback, methods=["POST"])
        app.add_api_route("/v1/deployments", self.deployments, methods=["GET"])
        app.add_api_route("/v1/pause", self.paused, methods=["GET"])
        app.add_api_route("/v1/pause", self.begin_pause, methods=["POST"])
        app.add_api_route("/v1/pause", self.end_pause, methods=["DELETE"])
        app.add_api_route("/ready", lambda: self.pause.ready(), methods=["GET"])

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Load what is live, wrap the engine, start the writer; the last step before listening."""
        settings, loop = self.settings, asyncio.get_running_loop()
        folder = model_folder(settings)
        self.registry_id = registry_id(settings.registry)
        self.adapters = Adapters(
            engine_client,
            state.openai_serving_models,
            Registry.of(settings),
            base=settings.model.name,
            fingerprint=base_fingerprint(folder),
            max_rank=settings.serve.max_lora_rank,
        )
        store = Store.open(settings)
        self.pause = Pause(
            engine_client,
            self.traffic,
            store.lease_held,
            self.adapters.turn,
            gpu.free_bytes,
            retry_after=settings.serve.retry_after_seconds,
            cannot=_cannot_sleep(args),
        )
        follower = Follower(
            Deployments(store),
            sorted(settings.aliases),
            self.adapters.follow,
            seconds=settings.serve.follow_seconds,
        )
        await self.adapters.warm_up()
        await self.adapters.follow(follower.look() or {})
        self.channel = Channel(
            self.config,
            int(settings.serve.buffer_mib * 2**20),
            keep=settings.ledger.durability != "fast",
        )
        self.channel.start(loop)
        atexit.register(self.channel.close)
        aliases = sorted(settings.aliases)
        self.counts = Counts(aliases, self.adapters.serves)
        if self.tracing is not None:
            self.tracing.begin()
        self.capture = Capture(
            self._hand_over,
            {"base_model": settings.model.name, "template_hash": template_hash(folder)},
            tokens=settings.serve.token_logprobs,
        )
        tee = self._tee(engine_client.generate)
        engine_client.generate = lambda *what, **more: self.traffic.counted(tee(*what, **more))
        models = state.openai_serving_models
        models.show_available_models = self._with_aliases(models.show_available_models)
        glances = Glances(
            store, aliases, self.adapters.name, seconds=settings.serve.metrics_seconds
        )
        metrics.register(
            metrics.Numbers(
                self.channel,
                self.capture,
                self.adapters,
                self.pause,
                self.counts,
                glances,
                aliases,
            )
        )
        follower.start(loop)
        glances.start()

    async def answer(
        self, api: Api | None, core: Callable[..., Any], request: Any, raw_request: Request
    ) -> Any:
        """One request: pick the version, open its record, let vLLM answer."""
        if api is not None and (refusal := self.pause.refusal(api)) is not None:
            return refusal
        asked, arm, seq = request.model, "pinned", 0
        body = await raw_request.json()  # parsed already; the typed request has lost what we keep
        user, session = user_of(body), session_of(body, raw_request.headers)
        deployment = self.adapters.deployment(asked)
        if deployment is not None:
            key = routing_key(session, user, request, raw_request.headers)
            version, arm = route(deployment, key or uuid.uuid4().hex)
            request.model, seq = self.adapters.name(asked, version), deployment.seq
        elif raw_request.headers.get(EVALUATION_HEADER) == "evaluation":
            api = None
        alias = None if deployment is None else asked
        version_name = request.model or self.settings.model.name
        if self.tracing is not None:
            self.tracing.routed(
                asked or version_name, version_name, body, alias=alias, arm=arm, event=seq
            )
        if api is not None:
            self.counts.requested(alias, version_name)
            captured = Captured(
                api=api,
                body=body,
                alias=alias,
                version=version_name,
                arm=arm,
                deployment=seq,
                user=user,
                session=session,
            )
            CURRENT.set(captured)
        with self.adapters.staying(version_name):
            return await core(request, raw_request)

    def _hand_over(self, record: dict[str, Any]) -> None:
        self.channel.send(["row", record])
        self.counts.answered(record)
        if self.tracing is not None:
            self.tracing.answered(record)

    def _tee(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """The engine's `generate`, watched; the client's answer is the same with and without."""

        def watched(prompt: Any, sampling_params: Any, request_id: str, **rest: Any) -> Any:
            if self.tracing is not None and (headers := self.tracing.headers()):
                rest["trace_headers"] = headers
            captured = CURRENT.get()
            if captured is None or not isinstance(sampling_params, SamplingParams):
                return generate(prompt, sampling_params, request_id, **rest)
            if sampling_params.logprobs is None:
                # Of the chosen token alone. On a copy: the Responses API shows its client what
                # the parameters say, which asked for none.
                sampling_params = copy(sampling_params)
                sampling_params.logprobs = 0
                sampling_params.flat_logprobs = True  # a few lists instead of objects a token
            stream = generate(prompt, sampling_params, request_id, **rest)
            return self.capture.watch(stream, captured, request_id, sampling_params.n)

        return watched

    def _with_aliases(self, show: Callable[[], Any]) -> Callable[[], Any]:
        async def shown() -> Any:
            models = await show()
            base = models.data[0]
            for alias in sorted(self.settings.aliases):
                state = self.adapters.deployment(alias)
                if state is not None:
                    live = self.adapters.name(alias, state.live)
                    models.data.append(base.model_copy(update={"id": alias, "root": live}))
            return models

        return shown

    async def feedback(self, raw_request: Request) -> Response:
        """What a user made of an answer."""
        return await take_feedback(raw_request, self.channel, self.counts)

    async def deployments(self) -> Response:
        """What this server does for each alias now."""
        found = {}
        for alias in sorted(self.settings.aliases):
            state = self.adapters.deployment(alias)
            if state is not None:
                found[alias] = {
                    "event": state.seq,
                    "live": self.adapters.name(alias, state.live),
                    "candidate": name_or_none(alias, state.candidate, self.settings.model.name),
                    "share": state.share,
                    "stage": state.stage,
                }
        return JSONResponse(
            {
                "aliases": found,
                "problems": self.adapters.problems,
                "registry": self.registry_id,
                "pause": self.pause.now(),
            }
        )

    async def paused(self) -> Response:
        """Whether this server answers, and why not."""
        return JSONResponse(self.pause.now())

    async def begin_pause(self, raw_request: Request) -> Response:
        """Stand back for the holder of a lease."""
        try:
            asked = await raw_request.json()
            lease, token = str(asked["lease"]), str(asked["token"])
            drain = float(asked["drain_seconds"])
        except (ValueError, KeyError, TypeError):
            return _malformed('{"lease": …, "token": …, "drain_seconds": …}')
        return await self.pause.begin(lease, token, drain)

    async def end_pause(self, raw_request: Request) -> Response:
        """Answer again."""
        try:
            asked = await raw_request.json()
            lease, token = str(asked["lease"]), str(asked["token"])
        except (ValueError, KeyError, TypeError):
            return _malformed('{"lease": …, "token": …}')
        return await self.pause.end(lease, token)


def _show_our_log() -> None:
    """Let what this project logs be seen beside vLLM's own, which configures only itself."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(asctime)s [%(name)s] %(message)s"))
    for name in ("flywheel", "ledger"):
        ours = logging.getLogger(name)
        ours.addHandler(handler)
        ours.propagate = False


def _cannot_sleep(args: Namespace) -> str:
    """Why this vLLM cannot give its GPU memory away; "" where it can, or has none."""
    if current_platform.is_cpu() or getattr(args, "enable_sleep_mode", False):
        return ""
    return (
        "this server was started without vLLM's sleep mode, so pausing it frees no memory: set "
        "train.beside_server to pause and start it again"
    )


def _malformed(wanted: str) -> Response:
    return JSONResponse({"error": {"message": f"send {wanted}", "code": 400}}, status_code=400)


def _replace(app: FastAPI, path: str, answer: Callable[..., Any]) -> None:
    """Put a handler in front of vLLM's own for a path, keeping its signature and its checks.

    vLLM before 0.28 appends a plugin's routes instead of replacing, so the old one is removed.
    """
    core = next(
        found
        for found in app.router.routes
        if isinstance(found, APIRoute) and found.path == path and "POST" in found.methods
    )
    inner = core.endpoint

    @functools.wraps(inner)  # FastAPI reads the request's type from it
    async def handler(request: Any, raw_request: Request) -> Any:
        return await answer(inner, request, raw_request)

    app.router.routes.remove(core)
    app.add_api_route(
        path,
        handler,
        methods=["POST"],
        dependencies=core.dependencies,
        responses=core.responses,
        response_model=None,
    )
