"""Users who go on asking, many or few, while something else happens; nobody is cut off."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import Any

from flywheel.demo.product import Product
from flywheel.demo.stream import SEED, Message

_USERS = 6
# Users who write now and then: between two messages of the one who is left, seconds.
_QUIET_PAUSE = 6.0
_LOOK = 0.1


class Crowd:
    """A crowd that writes the messages of a pool, again and again in another order.

    Who is not content edits the answer and turns a thumb down; some only do the latter.

    Args:
        think: how long each waits before the next message, seconds.
    """

    def __init__(self, product: Product, *, think: float = 0.0) -> None:
        self._product, self._think = product, think
        self._random = random.Random(SEED)
        self._pool: list[Message] = []
        self._deck: list[Message] = []
        self._users, self._pause = _USERS, think
        self._stop = asyncio.Event()

    def write_about(self, pool: Sequence[Message]) -> None:
        """Change what they write about."""
        self._pool, self._deck = list(pool), []

    def busy(self) -> None:
        """Many write at once."""
        self._users, self._pause = _USERS, self._think

    def quiet(self) -> None:
        """One writes now and then: on a small machine a training needs the processors."""
        self._users, self._pause = 1, _QUIET_PAUSE

    @asynccontextmanager
    async def there(self) -> Any:
        """They write until the block ends; then each has an answer to the last question."""
        users = [asyncio.create_task(self._user(number)) for number in range(_USERS)]
        try:
            yield self
        finally:
            self._stop.set()
            await asyncio.gather(*users)

    async def _user(self, number: int) -> None:
        while not self._stop.is_set():
            if number >= self._users:
                await asyncio.sleep(_LOOK)
                continue
            reply = await self._product.ask(self._next())
            if reply is None:
                await asyncio.sleep(_LOOK)  # a server that is down is not asked in a loop
            elif not reply.right:
                await self._product.react(reply, thumb=True)
            if self._pause:
                await asyncio.sleep(self._pause)

    def _next(self) -> Message:
        if not self._deck:
            self._deck = list(self._pool)
            self._random.shuffle(self._deck)
        return self._deck.pop()
