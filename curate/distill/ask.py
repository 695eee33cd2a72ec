"""One question to one model, over the network.

Attempts are repeated by the `openai` client: after 408, 409, 429, 5xx, a time-out or a lost
connection, with its pauses (half a second, doubling, or what Retry-After says).
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from curate.distill.prices import Usage, worst_case
from ledger.errors import ServerError
from ledger.loopback import is_loopback
from ledger.settings.curation import Teacher
from ledger.teaching import without_thought


class Said(NamedTuple):
    """An answer. `problem` says why its text cannot be used; "" where it can."""

    text: str
    usage: Usage
    problem: str


class NoAnswer(Exception):
    """This question was not answered. Its message quotes no text.

    Attributes:
        passing: whether the same question may be answered later: the server is busy or away.
    """

    def __init__(self, why: str, *, passing: bool) -> None:
        self.passing = passing
        super().__init__(why)


class Model:
    """A model behind an endpoint. Use it as `async with`.

    Args:
        section: where it is configured, `curate.teacher`; named in errors.
    """

    def __init__(self, given: Teacher, section: str) -> None:
        import openai

        self.given, self._section = given, section
        local = is_loopback(urlsplit(given.url).hostname)
        self._openai = openai.AsyncOpenAI(
            base_url=given.url,
            # Servers without keys take any; the client insists on one.
            api_key=os.environ.get(given.key_variable) or "none",
            timeout=given.timeout_seconds,
            max_retries=given.retries,
            # Where it is a server of ours, and the model a pinned version: these are no traffic.
            default_headers={"X-Flywheel-Purpose": "evaluation"},
            # A proxy set in the environment must not see requests to this very machine.
            http_client=openai.DefaultAsyncHttpxClient(trust_env=not local),
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

    async def ask(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None
    ) -> Said:
        """One answer.

        Raises:
            NoAnswer: there is none to this question.
            ServerError: the endpoint refuses the key or does not know the model: it would answer
                no question.
        """
        import openai

        create: Any = self._openai.chat.completions.create
        try:
            completion = await create(
                model=self.given.model,
                messages=messages,
                max_tokens=self.given.max_tokens,
                temperature=self.given.temperature,
                **({"tools": tools} if tools else {}),
            )
        except openai.APITimeoutError:
            raise NoAnswer("no answer in time", passing=True) from None
        except openai.APIConnectionError:
            raise NoAnswer("cannot be reached", passing=True) from None
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise ServerError(
                f"{self.given.url} refused the API key (HTTP {error.status_code})",
                remedy=f"Set the environment variable {self.given.key_variable}.",
            ) from None
        except openai.NotFoundError:
            raise ServerError(
                f"{self.given.url} does not know {self.given.model!r}, or is no API (HTTP 404)",
                remedy=f"Correct {self._section}.model, or {self._section}.url, which ends in /v1.",
            ) from None
        except openai.APIStatusError as error:
            passing = error.status_code in (408, 409, 429) or error.status_code >= 500
            raise NoAnswer(f"HTTP {error.status_code}", passing=passing) from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError):
            raise NoAnswer("an answer that is none of the OpenAI protocol", passing=False) from None
        return self._read(completion, messages, tools)

    def _read(
        self,
        completion: Any,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
    ) -> Said:
        try:
            choice, usage = completion.choices[0], completion.usage
            message, finish = choice.message, choice.finish_reason
            called = bool(message.tool_calls or message.function_call)
            text, refused = message.content or "", message.refusal
        except (AttributeError, IndexError, TypeError):
            raise NoAnswer("an answer that is none of the OpenAI protocol", passing=False) from None
        # Without a count the worst is assumed, so that the budget holds.
        used = worst_case(self.given, [messages, tools], len(messages))
        if usage is not None and isinstance(usage.prompt_tokens, int):
            used = Usage(usage.prompt_tokens, usage.completion_tokens or 0)
        text = without_thought(text) if isinstance(text, str) else ""
        problem = ""
        if called:
            problem = "it calls tools"
        elif refused:
            problem = "it refuses"
        elif finish == "length":
            problem = f"it is cut off after {self.given.max_tokens} tokens"
        elif finish == "content_filter":
            problem = "the endpoint's filter stopped it"
        elif not text:
            problem = "it is empty"
        return Said(text, used, problem)
