"""The product and its users: an unmodified `openai` client, several users at once.

Users read what comes back. Where the answer is wrong most of them edit it, and the product sends
the edit as feedback; some only turn their thumb down.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import httpx
import openai

from flywheel.demo.stream import MAX_TOKENS, Message

_USERS = 400
#: Of so many unhappy users one turns a thumb down and leaves.
_ONLY_VOTES = 12


class Reply(NamedTuple):
    """One answered request.

    Attributes:
        started: when it was sent, seconds since the epoch.
        named: the versions that the parts of the answer name; one, if all is well.
    """

    message: Message
    request_id: str
    started: float
    named: frozenset[str]
    text: str

    @property
    def version(self) -> str:
        """The version that answered."""
        return min(self.named)

    @property
    def right(self) -> bool:
        """Whether it is the queue that the user wanted."""
        return self.text.strip() == self.message.label


class Product:
    """Sends users' messages to an alias.

    Attributes:
        replies: all answers; `failures`: what went wrong with the others.
        corrections: edits that were acknowledged; `votes`: thumbs down without an edit.
    """

    def __init__(self, url: str, key: str | None, alias: str, *, concurrency: int = 16) -> None:
        self._client = openai.AsyncOpenAI(
            base_url=url, api_key=key or "none", max_retries=0, timeout=120
        )
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=30)
        self._alias = alias
        self._limit = asyncio.Semaphore(concurrency)
        self._random = random.Random(11)
        self.replies: list[Reply] = []
        self.failures: list[str] = []
        self.corrections = self.votes = 0
        self.sent = 0

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
        await self._http.aclose()

    async def ask(self, message: Message, *, model: str | None = None) -> Reply | None:
        """Send one message, streaming as a chat page does; None where it failed.

        Args:
            model: a pinned version instead of the alias; such an answer is not counted as the
                product's, nor logged.
        """
        user = f"user-{self._random.randrange(_USERS)}"
        started = time.time()
        request_id, named, parts = "", set[str](), list[str]()
        headers = {} if model is None else {"X-Flywheel-Purpose": "evaluation"}
        async with self._limit:
            if model is None:
                self.sent += 1
                started = time.time()
            try:
                stream: openai.AsyncStream[Any] = await self._client.chat.completions.create(
                    model=model or self._alias,
                    messages=cast(Any, message.conversation),
                    temperature=0,
                    max_tokens=MAX_TOKENS,
                    user=user,
                    stream=True,
                    extra_headers=headers,
                )
                async for chunk in stream:
                    request_id = chunk.id
                    named.add(chunk.model)
                    if chunk.choices and chunk.choices[0].delta.content:
                        parts.append(chunk.choices[0].delta.content)
            except (openai.OpenAIError, httpx.HTTPError) as error:
                if model is None:
                    self.failures.append(f"{type(error).__name__}: {error}")
                return None
        reply = Reply(message, request_id, started, frozenset(named), "".join(parts))
        if model is None:
            self.replies.append(reply)
        return reply

    async def serve(self, messages: Sequence[Message], *, correct: bool = False) -> list[Reply]:
        """Send messages, several at once; with `correct`, users react to wrong answers."""

        async def one(message: Message) -> Reply | None:
            reply = await self.ask(message)
            if reply is not None and correct and not reply.right:
                await self.react(reply)
            return reply

        replies = await asyncio.gather(*(one(message) for message in messages))
        return [reply for reply in replies if reply is not None]

    async def react(self, reply: Reply, *, thumb: bool = False) -> None:
        """A user is not content: an edit, or only a thumb down.

        Args:
            thumb: who edits turns a thumb down, too.
        """
        said: dict[str, Any] = {"correction": reply.message.label}
        if thumb:
            said["rating"] = "down"
        if only_votes := self._random.randrange(_ONLY_VOTES) == 0:
            said = {"rating": "down"}
        said |= {"id": reply.request_id, "user": f"user-{self._random.randrange(_USERS)}"}
        answer = await self._http.post("/feedback", json=said)
        if answer.status_code != 200:
            self.failures.append(f"feedback {answer.status_code}: {answer.text}")
        elif only_votes:
            self.votes += 1
        else:
            self.corrections += 1
