"""Standing back while something else uses the GPU, and coming back by itself.

    POST   /v1/pause   {"lease": "retrain/support", "token": "…", "drain_seconds": 120}
    GET    /v1/pause   what the server does now
    DELETE /v1/pause   {"lease": …, "token": …}
    GET    /ready      200 while it answers, 503 while it does not (`/health` stays 200)

A pause belongs to a lease in the ledger, so only who can write the ledger can ask for one, and
it ends with the lease: whoever asked renews it while they live, and nobody has to wake a server
whose trainer died. From the first moment on new requests get 503 with `Retry-After`; those under
way have `drain_seconds` to finish; then vLLM sleeps at level 1: its weights, adapters included,
go to the CPU's memory, and its KV and prefix caches are let go. Before it wakes, the memory that
it gave has to be free again: a server that takes memory that is not there dies.

    serving → draining → paused → waking → serving
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any, Literal, NamedTuple, Protocol

from starlette.responses import JSONResponse, Response

from ledger.clock import wall
from ledger.errors import LedgerError
from ledger.records import Api
from ledger.store import Held

logger = logging.getLogger("flywheel.pause")

State = Literal["serving", "draining", "paused", "waking"]

# How often the lease is looked at, and whether the answers under way are done, seconds.
_LOOK = 0.5
_STEP = 0.02
# How much less than it gave a server can live with when it wakes, bytes.
_SLACK = 64 * 2**20


class Traffic:
    """What is being answered.

    Attributes:
        requests: requests for an answer, from their arrival to the last byte of their answer.
        answers: answers that the engine works on; those in the background have no request.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.answers = 0

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way."""
        return not self.requests and not self.answers

    async def counted(self, stream: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        """A stream of outputs, counted while it runs."""
        self.answers += 1
        try:
            async with aclosing(stream):
                async for output in stream:
                    yield output
        finally:
            self.answers -= 1


class Engine(Protocol):
    """What is used of vLLM's engine client."""

    async def sleep(self, level: int) -> None:
        """Give the GPU's memory away."""

    async def wake_up(self) -> object:
        """Take it back."""


class _Asked(NamedTuple):
    """Who asked for a pause. `until` is when it ends if the ledger cannot be asked, monotonic."""

    held: Held
    drain_seconds: float
    until: float


class Pause:
    """Whether this server answers now; one a server, on its event loop.

    Args:
        traffic: what is under way.
        held: reads who holds a lease; may block.
        turn: held while the engine sleeps, so that no adapter is loaded meanwhile.
        free: free memory of the GPUs, bytes; None where there is none. May block.
        retry_after: what refused clients are told, seconds.
        cannot: why this server cannot give its memory away, or "".

    Attributes:
        state: see the module.
        refused: requests that were refused.
        problem: what went wrong last, or "".
    """

    def __init__(
        self,
        engine: Engine,
        traffic: Traffic,
        held: Callable[[str], Held | None],
        turn: asyncio.Lock,
        free: Callable[[], int | None],
        *,
        retry_after: int,
        cannot: str = "",
    ) -> None:
        self._engine, self._traffic, self._held = engine, traffic, held
        self._turn, self._free, self._cannot = turn, free, cannot
        self._retry_after = retry_after
        self._asked: _Asked | None = None
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.state: State = "serving"
        self.refused = 0
        self.problem = ""

    # -- what clients see ----------------------------------------------------------------

    def refusal(self, api: Api) -> Response | None:
        """The answer to a request that comes now; None where it is to be answered."""
        if self.state == "serving":
            return None
        self.refused += 1
        said = "The server is paused while a new version is trained; try again later."
        # Each in the form that its clients know: Anthropic's, else OpenAI's as vLLM writes it.
        error: dict[str, Any] = (
            {"type": "error", "error": {"type": "overloaded_error", "message": said}}
            if api == "messages"
            else {
                "error": {
                    "message": said,
                    "type": "ServiceUnavailableError",
                    "param": None,
                    "code": 503,
                }
            }
        )
        return JSONResponse(error, status_code=503, headers=self._headers)

    def ready(self) -> Response:
        """Whether a load balancer should send requests here."""
        if self.state == "serving":
            return JSONResponse({"ready": True})
        return JSONResponse(
            {"ready": False, "state": self.state}, status_code=503, headers=self._headers
        )

    @property
    def _headers(self) -> dict[str, str]:
        return {"Retry-After": str(self._retry_after)}

    # -- what a retrain asks -------------------------------------------------------------

    def now(self) -> dict[str, Any]:
        """What the server does."""
        asked = self._asked
        return {
            "state": self.state,
            "lease": asked and asked.held.name,
            "holder": asked and asked.held.who,
            "under_way": max(self._traffic.requests, self._traffic.answers),
            "problem": self.problem,
        }

    async def begin(self, lease: str, token: str, drain_seconds: float) -> Response:
        """Stand back, or say why not. Returns at once; `now` says how far it has come.

        Args:
            lease, token: one that is held in the ledger; the pause ends with it.
        """
        if self._cannot:
            return _said(409, self._cannot)
        try:
            held = await asyncio.to_thread(self._held, lease)
        except LedgerError as error:
            return _said(503, f"the ledger cannot be asked for the lease: {error.problem}")
        if held is None or held.token != token:
            return _said(403, f"the lease {lease!r} is not held with this token in our ledger")
        if self._asked is not None and self._asked.held.token != token:
            return _said(
                409, f"paused already, for {self._asked.held.what}: {self._asked.held.who}"
            )
        if self._asked is None:
            self.problem = ""
            self._asked = _Asked(held, drain_seconds, time.monotonic() + held.until - wall())
            self._ended.clear()
            self.state = "draining"
            logger.warning("paused for %s (%s)", held.what, held.who)
            self._task = asyncio.create_task(self._stand_back())
        return JSONResponse(self.now(), status_code=202)

    async def end(self, lease: str, token: str) -> Response:
        """Come back. Returns at once."""
        asked = self._asked
        if asked is not None:
            if (asked.held.name, asked.held.token) != (lease, token):
                return _said(403, f"paused for another lease: {asked.held.who} holds it")
            self._ended.set()
        return JSONResponse(self.now(), status_code=202)

    # -- one pause -----------------------------------------------------------------------

    async def _stand_back(self) -> None:
        try:
            if await self._drained():
                # No adapter is loaded into an engine that sleeps: deployments are followed after.
                async with self._turn:
                    await self._sleep()
        except Exception as error:  # whatever it is, clients must be answered again
            self.problem = f"{type(error).__name__}: {error}"
            logger.exception("the pause failed")
        finally:
            self._asked = None
            self.state = "serving"
            logger.warning("serving again; %d request(s) were refused so far", self.refused)

    async def _drained(self) -> bool:
        """Wait for what is under way; False where the pause ended before."""
        assert self._asked is not None
        patience = time.monotonic() + self._asked.drain_seconds
        look = time.monotonic() + _LOOK
        while not self._traffic.quiet and time.monotonic() < patience:
            if self._ended.is_set():
                return False
            if time.monotonic() >= look:
                if not await self._wanted():
                    return False
                look = time.monotonic() + _LOOK
            await asyncio.sleep(_STEP)
        if not self._traffic.quiet:
            logger.warning("cut off after %g s: %s", self._asked.drain_seconds, self.now())
        return True

    async def _sleep(self) -> None:
        before = await asyncio.to_thread(self._free)
        await self._engine.sleep(1)
        after = await asyncio.to_thread(self._free)
        self.state = "paused"
        try:
            while not self._ended.is_set() and await self._wanted():
                await self._wait(_LOOK)
        finally:
            self.state = "waking"
            if before is not None and after is not None:
                await self._room(after - before)
            await self._engine.wake_up()

    async def _room(self, needed: int) -> None:
        """Wait until the memory that was given is free again."""
        started, told = time.monotonic(), 0.0
        while (free := await asyncio.to_thread(self._free)) is not None:
            if free >= needed - _SLACK:
                break
            if time.monotonic() - told > 60:
                told = time.monotonic()
                self.problem = (
                    f"cannot wake: {needed / 2**30:.1f} GiB of GPU memory are needed, "
                    f"{free / 2**30:.1f} GiB are free; waiting for {told - started:.0f} s"
                )
                logger.error(self.problem)
            await asyncio.sleep(_LOOK)
        self.problem = ""

    async def _wanted(self) -> bool:
        """Whether the lease still holds. Without the ledger it holds as long as it last said."""
        asked = self._asked
        assert asked is not None
        try:
            held = await asyncio.to_thread(self._held, asked.held.name)
        except LedgerError as error:
            logger.error("the lease %s cannot be looked at: %s", asked.held.name, error.problem)
            return time.monotonic() < asked.until
        if held is None or held.token != asked.held.token:
            logger.warning("the lease %s of %s is over", asked.held.name, asked.held.who)
            return False
        self._asked = asked._replace(until=time.monotonic() + held.until - wall())
        return True

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)


def _said(status: int, problem: str) -> Response:
    return JSONResponse({"error": {"message": problem, "code": status}}, status_code=status)
