"""Watching answers go by: from the engine's outputs to a small record for the writer.

A route opens a `Request`; the tee round the engine's `generate` finds it in a context variable
and watches the stream that it returns, whichever API asked. The record is handed over when the
last output has come, before the client has the end of its answer, so that feedback can never
overtake its row on this server. Nothing here may break an answer: an error is counted, logged,
and the answer goes on.

Knows no engine: an output is anything with vLLM's fields (`outputs[].text/token_ids/logprobs/
cumulative_logprob/finish_reason`, `prompt_token_ids`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

from ledger.clock import now
from ledger.records import Api

logger = logging.getLogger("flywheel.capture")

EVALUATION_HEADER = "x-flywheel-purpose"
"""`evaluation` marks the questions of a gate: they name a pinned version and are not logged."""

# What the writer needs of a body; the rest never leaves the request.
_BODY_KEYS = (
    "messages",
    "prompt",
    "input",
    "instructions",
    "system",
    "tools",
    "metadata",
    "chat_template_kwargs",
)


class Request:
    """One request under way: who asked what, and which version answers.

    Args:
        body: the request's JSON, as the client sent it.
        version: the pinned name that answers.
    """

    def __init__(
        self,
        *,
        api: Api,
        body: dict[str, Any],
        alias: str | None,
        version: str,
        arm: str,
        deployment: int,
        user: str | None,
        session: str | None,
    ) -> None:
        self.ts, self.started = now(), time.perf_counter()
        self.api: Api = api
        self.body = body
        self.alias, self.version, self.arm, self.deployment = alias, version, arm, deployment
        self.user, self.session = user, session
        # OpenAI keeps responses unless told not to; for the other APIs we keep them likewise.
        self.keeps_text = body.get("store") is not False

    def prompt_of(self, request_id: str) -> tuple[str, int]:
        """The client's id and the prompt's index, from the id that the engine was given."""
        separator = {"completions": "-", "responses": "_"}.get(self.api)
        if separator is not None:
            head, found, tail = request_id.rpartition(separator)
            if found and tail.isdigit():
                return head, int(tail)
        return request_id, 0


CURRENT: ContextVar[Request | None] = ContextVar("flywheel_request", default=None)


class _Choice:
    """What is known of one choice so far."""

    __slots__ = ("cumulative", "finish_reason", "lowest", "parts", "said", "tokens")

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.said: list[tuple[str, float]] = []  # each token with its logprob
        self.tokens = 0
        self.cumulative: float | None = None
        self.lowest: float | None = None
        self.finish_reason: str | None = None

    def aligned(self) -> list[tuple[int, float]] | None:
        """Characters and logprob of each token, in nats; None where tokens are not the text.

        The end-of-turn token has no text. A tokenizer may write other text for a token alone
        than in its place; then nobody could say which characters it stands for.
        """
        text, found, at = "".join(self.parts), [], 0
        for token, logprob in self.said:
            if not text.startswith(token, at):
                break
            found.append((len(token), round(logprob, 3)))
            at += len(token)
        return found if found and at == len(text) else None


class Answer:
    """Adds up the outputs of one prompt; several choices where `n` is above 1."""

    def __init__(self) -> None:
        self.choices: dict[int, _Choice] = {}
        self.prompt_tokens = 0
        self.outputs = 0
        self.first: float | None = None

    def add(self, output: Any) -> None:
        """Take in one output: a delta of a stream, or all at once."""
        self.outputs += 1
        if self.first is None:
            self.first = time.perf_counter()
        if output.prompt_token_ids is not None:
            self.prompt_tokens = len(output.prompt_token_ids)
        for part in output.outputs:
            choice = self.choices.setdefault(part.index, _Choice())
            choice.parts.append(part.text)
            choice.tokens += len(part.token_ids)
            if part.cumulative_logprob is not None:
                choice.cumulative = part.cumulative_logprob
            if part.logprobs:
                said = _chosen(part.token_ids, part.logprobs)
                choice.said += said
                lowest = min((logprob for _, logprob in said), default=0.0)
                if choice.lowest is None or lowest < choice.lowest:
                    choice.lowest = lowest
            if part.finish_reason is not None:
                choice.finish_reason = part.finish_reason

    def records(self, request: Request, request_id: str, choices: int) -> list[dict[str, Any]]:
        """One record a choice, in the form that the writer reads.

        Args:
            request_id: as the engine was given it.
            choices: how many choices each prompt has (`n`).
        """
        done = time.perf_counter()
        # One output with the whole answer says nothing about when its first token came.
        ttft_ms = None
        if self.first is not None and self.outputs > 1:
            ttft_ms = (self.first - request.started) * 1e3
        client_id, prompt_index = request.prompt_of(request_id)
        body = {key: value for key, value in request.body.items() if key in _BODY_KEYS}
        body |= _numbers(request.body)
        return [
            {
                "request_id": client_id,
                "choice": prompt_index * choices + index,
                "prompt_index": prompt_index,
                "ts": request.ts,
                "api": request.api,
                "alias": request.alias,
                "version": request.version,
                "arm": request.arm,
                "deployment": request.deployment,
                "body": body if request.keeps_text else _numbers(body),
                "response": "".join(choice.parts) if request.keeps_text else None,
                "stored_text": request.keeps_text,
                "finish_reason": choice.finish_reason or "disconnected",
                "mean_logprob": (
                    None
                    if choice.cumulative is None or not choice.tokens
                    else choice.cumulative / choice.tokens
                ),
                "min_logprob": choice.lowest,
                "token_logprobs": choice.aligned() if request.keeps_text else None,
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": choice.tokens,
                "ttft_ms": ttft_ms,
                "latency_ms": (done - request.started) * 1e3,
                "user": request.user,
                "session": request.session,
            }
            for index, choice in sorted(self.choices.items())
        ]


def opens_prompt(record: dict[str, Any]) -> bool:
    """Whether a record is the first of its prompt's choices, which share the prompt's tokens."""
    return bool(record["choice"] == record["prompt_index"] * (record["body"].get("n") or 1))


def _chosen(token_ids: Any, logprobs: Any) -> list[tuple[str, float]]:
    """Text and logprob, in nats, of each token that was chosen."""
    flat = getattr(logprobs, "logprobs", None)
    if flat is not None and len(flat) == len(token_ids):  # one a token: the chosen one
        return [
            (text or "", logprob)
            for text, logprob in zip(logprobs.decoded_tokens, flat, strict=True)
        ]
    return [
        (position[token].decoded_token or "", position[token].logprob)
        for token, position in zip(token_ids, logprobs, strict=False)
        if token in position
    ]


def _numbers(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if isinstance(value, int | float)}


class Capture:
    """Makes records of answers and hands them over.

    Args:
        hand_over: takes a record; must neither block nor raise.
        constants: fields that every record of this server has.
        tokens: whether each token's logprob is recorded.

    Attributes:
        failures: answers that could not be recorded.
    """

    def __init__(
        self,
        hand_over: Callable[[dict[str, Any]], object],
        constants: dict[str, Any],
        *,
        tokens: bool = True,
    ) -> None:
        self._hand_over = hand_over
        self._constants = constants if tokens else constants | {"token_logprobs": None}
        self.failures = 0

    async def watch(
        self, stream: AsyncGenerator[Any, None], request: Request, request_id: str, choices: int
    ) -> AsyncGenerator[Any, None]:
        """Pass a stream of outputs through unchanged, and record what went by.

        A client that goes away closes the stream; what was said until then is recorded.
        """
        answer = Answer()
        try:
            async with aclosing(stream):
                async for output in stream:
                    self._safely(answer.add, output)
                    if output.finished:
                        # Before the consumer sees the last output, and only once.
                        self._safely(self._emit, answer, request, request_id, choices)
                        answer = Answer()
                    yield output
        finally:
            if answer.choices:
                self._safely(self._emit, answer, request, request_id, choices)

    def _emit(self, answer: Answer, request: Request, request_id: str, choices: int) -> None:
        for record in answer.records(request, request_id, choices):
            self._hand_over(record | self._constants)

    def _safely(self, action: Callable[..., None], *arguments: Any) -> None:
        try:
            action(*arguments)
        except Exception:  # the answer matters more than its record
            self.failures += 1
            logger.exception("an answer could not be recorded")
