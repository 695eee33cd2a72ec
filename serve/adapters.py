"""Adapters in the running vLLM: loaded before they get traffic, never replaced in place.

A version keeps its name, its folder and its integer id for ever (all three from the registry),
so vLLM's prefix cache and its workers, which know an adapter by these, can never mix two of
them up. What is no longer needed is only taken off the list of names: requests under way keep
their adapter, and the engine evicts it when it needs the room. A name that a request was just sent
to stays until vLLM has looked it up, or that request would be told that there is no such model.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams

from ledger.deployments import Deployment, version_name
from ledger.errors import RegistryError
from ledger.registry import Registry, Version

logger = logging.getLogger("flywheel.adapters")


class Adapters:
    """The versions that this server can answer with.

    Args:
        engine: vLLM's engine client.
        models: vLLM's `OpenAIServingModels`, whose `lora_requests` maps names to adapters.
        base: the base model's served name, and `fingerprint`: what its weights are.

    Attributes:
        turn: held while adapters are loaded; who holds it keeps new ones out of the engine.
    """

    def __init__(
        self,
        engine: Any,
        models: Any,
        registry: Registry,
        *,
        base: str,
        fingerprint: str,
        max_rank: int,
    ) -> None:
        self._engine, self._models, self._registry = engine, models, registry
        self._base, self._fingerprint, self._max_rank = base, fingerprint, max_rank
        self._states: dict[str, Deployment] = {}
        self._looked_up: Counter[str] = Counter()  # names that vLLM is about to look up
        self._leaving: set[str] = set()
        self.turn = asyncio.Lock()
        self._warmed = 0
        self.problems: dict[str, str] = {}

    def deployment(self, alias: str) -> Deployment | None:
        """What this server does for an alias now; None for a name that is not an alias."""
        return self._states.get(alias)

    def name(self, alias: str, version: int) -> str:
        """The pinned name of a version."""
        return version_name(alias, version, self._base)

    def serves(self, name: str) -> bool:
        """Whether a pinned name answers here."""
        return name == self._base or name in self._models.lora_requests

    @contextmanager
    def staying(self, name: str) -> Iterator[None]:
        """Keep a name while a request for it is handed to vLLM."""
        self._looked_up[name] += 1
        try:
            yield
        finally:
            self._looked_up[name] -= 1
            if not self._looked_up[name]:
                del self._looked_up[name]
                if name in self._leaving:
                    self._drop(name)

    async def follow(self, states: dict[str, Deployment]) -> None:
        """Load what new states need, then switch to them.

        A candidate or previous version that cannot be loaded is left out and named in
        `problems`; a live version that cannot be loaded leaves its alias as it was.
        """
        async with self.turn:
            for alias, state in states.items():
                if self._states.get(alias) != state:
                    await self._follow_one(alias, state)
            self._forget()

    async def _follow_one(self, alias: str, state: Deployment) -> None:
        broken = set()
        for version in state.resident:
            name = self.name(alias, version)
            try:
                await self._load(alias, version)
                self.problems.pop(name, None)
            except RegistryError as error:
                broken.add(version)
                self.problems[name] = str(error)
                logger.error("%s cannot be served: %s", name, error)
        if state.live in broken and alias in self._states:
            logger.error("%s stays as it is: event %d is not followed", alias, state.seq)
            return
        if state.live in broken:
            raise RegistryError(
                f"{self.name(alias, state.live)} is live but cannot be served: "
                f"{self.problems[self.name(alias, state.live)]}",
                remedy=f"Repair its folder, or go back with `flywheel rollback {alias}`.",
            )
        if state.candidate in broken:
            logger.error("%s gets no traffic for v%s", alias, state.candidate)
            state = Deployment(
                alias, seq=state.seq, history=state.history, since=state.since, why=state.why
            )
        self._states[alias] = state
        logger.info(
            "%s: live %s, candidate %s at %g %%", alias, state.live, state.candidate, state.share
        )

    async def _load(self, alias: str, version: int) -> None:
        name = self.name(alias, version)
        if name in self._models.lora_requests:
            self._leaving.discard(name)
            return
        found = await asyncio.to_thread(self._checked, alias, version)
        request = LoRARequest(
            lora_name=name, lora_int_id=found.manifest.lora_id, lora_path=str(found.path.resolve())
        )
        try:
            await self._engine.add_lora(request)
        except Exception as error:  # whatever the engine says of the file: it is not servable
            raise RegistryError(f"vLLM cannot load {name}: {error}") from error
        await self.warm_up(request)
        self._models.lora_requests[name] = request

    async def warm_up(self, adapter: LoRARequest | None = None) -> None:
        """Answer one token, so that no client waits for what a first answer sets up."""
        one = SamplingParams(max_tokens=1, temperature=0.0)
        prompt = {"prompt_token_ids": [0]}
        self._warmed += 1
        stream = self._engine.generate(
            prompt, one, f"flywheel-warm-up-{self._warmed}", lora_request=adapter
        )
        async for _ in stream:
            pass

    def _checked(self, alias: str, version: int) -> Version:
        """A version that is whole and fits this server. Reads the disk."""
        return self._registry.servable(
            alias, version, fingerprint=self._fingerprint, max_rank=self._max_rank
        )

    def _forget(self) -> None:
        wanted = {
            self.name(alias, version)
            for alias, state in self._states.items()
            for version in state.resident
        }
        for name in [n for n in self._models.lora_requests if "@v" in n and n not in wanted]:
            if self._looked_up[name]:
                self._leaving.add(name)
            else:
                self._drop(name)

    def _drop(self, name: str) -> None:
        del self._models.lora_requests[name]
        self._leaving.discard(name)
