"""Asking models behind an OpenAI-compatible server.

Covers bounded concurrency, retries, one clear error for each way a server can fail, and the
check that the model which answered is the one that was asked. Knows nothing of gold sets.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, ConfigDict

from ledger.errors import ServerError
from ledger.loopback import is_loopback

#: Tells the server that a request is no user's, so that it is not logged as one.
PURPOSE = {"X-Flywheel-Purpose": "evaluation"}
SEED = 0
PROBE_TOKENS = 8


class Sampling(NamedTuple):
    """How tokens are drawn: greedily unless a temperature is given."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = SEED


class Question(NamedTuple):
    """One prompt for one model; `max_tokens` bounds the answer."""

    model: str
    messages: Sequence[dict[str, Any]]
    max_tokens: int
    tools: Sequence[dict[str, Any]] | None = None
    name: str = ""  # for error messages
    sampling: Sampling = Sampling()
    chat_template_kwargs: dict[str, Any] | None = None


class Answer(BaseModel):
    """What a model said.

    Attributes:
        text: the content; where a model calls tools instead of speaking, the calls as JSON,
            `[{"name": …, "arguments": …}]`.
        latency_s: seconds from asking to the whole answer, retries included.
        cached: it was asked in an earlier gate, under another load: its latency says nothing
            beside that of answers of this one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    text: str
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    latency_s: float
    cached: bool = False


class TokenLogprob(NamedTuple):
    """A generated token and its logprob, nats."""

    token: str
    logprob: float


class Client:
    """A server, asked with fixed seeds, greedily unless told otherwise. Use it as `async with`.

    Args:
        base_url: of the API, `http://host:port/v1`; the path `/v1` is added where there is none.
        concurrency: most requests under way at once.
        timeout_seconds: longest wait for one answer.
        any_model: accept an answer whose `model` is another name than the one asked for, as
            OpenAI's own API gives: it resolves names to snapshots.
        retries: further attempts after 408, 409, 429, 5xx or a lost connection, with the
            pauses of the `openai` client (half a second, doubling, or what Retry-After says).
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        concurrency: int = 16,
        timeout_seconds: float = 120.0,
        retries: int = 4,
        any_model: bool = False,
    ) -> None:
        url = urlsplit(base_url)
        self.base_url = base_url if url.path.strip("/") else f"{base_url.rstrip('/')}/v1"
        self._concurrency = concurrency
        self._timeout = timeout_seconds
        self._any_model = any_model
        self._openai = openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=api_key,
            timeout=timeout_seconds,
            max_retries=retries,
            default_headers=PURPOSE,
            # A proxy set in the environment must not see requests to this very machine.
            http_client=openai.DefaultAsyncHttpxClient(trust_env=not is_loopback(url.hostname)),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._openai.close()

    async def models(self) -> list[str]:
        """Names of the models that the server lists.

        Raises:
            ServerError: it cannot be reached, refuses the key or speaks another protocol.
        """
        try:
            return [model.id async for model in await self._openai.models.list()]
        except openai.OpenAIError as error:
            raise self._explained(error, "") from error
        except (AttributeError, ValueError, TypeError) as error:
            raise self._stranger() from error

    async def ask(self, question: Question) -> Answer:
        """One answer.

        Raises:
            ServerError: there is none, or another model gave it.
        """
        started = time.perf_counter()
        completion = await self._complete(question)
        choice, usage = completion.choices[0], completion.usage
        return Answer(
            model=completion.model,
            text=_text(choice.message),
            finish_reason=choice.finish_reason,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            latency_s=time.perf_counter() - started,
        )

    async def ask_all(
        self,
        questions: Sequence[Question],
        on_answer: Callable[[int, Answer], None] | None = None,
    ) -> list[Answer]:
        """All answers, in the order of the questions, which is also the order of asking.

        Args:
            on_answer: called with a question's position and its answer as soon as it is there.

        Raises:
            ServerError: one question could not be answered; the others are given up.
        """
        answers: dict[int, Answer] = {}
        left: Iterator[tuple[int, Question]] = iter(enumerate(questions))

        async def work() -> None:
            for position, question in left:
                answers[position] = answer = await self.ask(question)
                if on_answer is not None:
                    on_answer(position, answer)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._concurrency, len(questions))):
                    group.create_task(work())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [answers[position] for position in range(len(questions))]

    async def probe(self, model: str, messages: Sequence[dict[str, Any]]) -> list[TokenLogprob]:
        """The first tokens of an answer with their logprobs.

        A server that gives no logprobs (vLLM with a reasoning parser) leaves the answer's text,
        here as one token with logprob 0.

        Raises:
            ServerError: as `ask`.
        """
        question = Question(model, messages, PROBE_TOKENS, name="the probe")
        choice = (await self._complete(question, logprobs=True)).choices[0]
        content = choice.logprobs.content if choice.logprobs else None
        if not content:
            return [TokenLogprob(_text(choice.message), 0.0)]
        return [TokenLogprob(item.token, item.logprob) for item in content]

    async def _complete(self, question: Question, **extra: Any) -> ChatCompletion:
        body: dict[str, Any] = {
            "model": question.model,
            "messages": list(question.messages),
            "max_tokens": question.max_tokens,
            "temperature": question.sampling.temperature,
            "seed": question.sampling.seed,
            **extra,
        }
        if question.tools:
            body["tools"] = list(question.tools)
        if question.sampling.top_p != 1:
            body["top_p"] = question.sampling.top_p
        if question.chat_template_kwargs:  # beyond OpenAI's protocol; vLLM and SGLang take it
            body["chat_template_kwargs"] = question.chat_template_kwargs
        try:
            # Not `chat.completions.create`: that turns each message over against its types, a
            # third of all the time that the client takes, next to a server on the same cores.
            completion = await self._openai.post(
                "/chat/completions", cast_to=ChatCompletion, body=body
            )
        except openai.OpenAIError as error:
            raise self._explained(error, question.model, question.name) from error
        except ValueError as error:  # a body that is not JSON
            raise self._stranger() from error
        if not isinstance(completion, ChatCompletion) or not completion.choices:
            raise self._stranger()
        if completion.model != question.model and not self._any_model:
            raise ServerError(
                f"{self.base_url} was asked for {question.model!r} and {completion.model!r} "
                "answered",
                rule="A version is judged by its own answers only.",
                remedy="Name a pinned version (support@v2) or the base model, not an alias.",
            )
        return completion

    def _explained(self, error: openai.OpenAIError, model: str, name: str = "") -> ServerError:
        at = f" on {name}" if name else ""
        match error:
            case openai.APITimeoutError():
                return ServerError(
                    f"{self.base_url} did not answer within {self._timeout:g} s{at}",
                    remedy="Raise gate.timeout_seconds, or lower gate.concurrency.",
                )
            case openai.APIConnectionError():
                return ServerError(
                    f"{self.base_url} cannot be reached: {error.__cause__ or error}",
                    remedy="Start the server with `flywheel serve`, and look at its log if it did "
                    "run.",
                )
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                return ServerError(
                    f"{self.base_url} refused the API key (HTTP {error.status_code})",
                    remedy="Set FLYWHEEL_API_KEYS or serve.api_keys_file to a key it accepts.",
                )
            case openai.NotFoundError():
                return ServerError(
                    f"{self.base_url} does not know {model or 'this path'!r}: {_said(error)}",
                    remedy="`flywheel status` lists what is served.",
                )
            case openai.APIStatusError():
                return ServerError(
                    f"{self.base_url} answered HTTP {error.status_code}{at}: {_said(error)}"
                )
            case _:
                return ServerError(f"{self.base_url}{at}: {error}")

    def _stranger(self) -> ServerError:
        return ServerError(
            f"{self.base_url} does not speak the OpenAI protocol",
            remedy="Give the URL of the server's API, http://host:port/v1.",
        )


def _said(error: openai.APIStatusError) -> str:
    """The server's own words, without the wrapping."""
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or error.message)[:500]


def _text(message: Any) -> str:
    if message.content or not message.tool_calls:
        return message.content or ""
    calls = [call.function for call in message.tool_calls]
    return json.dumps(
        [{"name": call.name, "arguments": _arguments(call.arguments)} for call in calls],
        ensure_ascii=False,
    )


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # a model may well write broken arguments: its checks then fail
