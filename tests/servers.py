"""Real servers for tests: one of ours and one plain vLLM, on the tiny model, started once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import openai

from flywheel.running import RunningServer, free_port
from flywheel.server import Server
from ledger.deployments import Deployments
from ledger.records import Interaction
from ledger.registry import Registry
from ledger.settings import Settings
from ledger.store import Store
from serve.launch import prepare

KEY = "test-key-of-the-tests"
# What both servers are started with, beyond the plugin.
VLLM = {
    "max_num_seqs": 32,
    "enable_auto_tool_choice": True,
    "tool_call_parser": "hermes",
    "enforce_eager": True,
}
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1"}


@dataclass
class Ours:
    """A running server with the plugin and everything behind it."""

    settings: Settings
    config: Path
    model: Path
    running: RunningServer
    store: Store

    @property
    def url(self) -> str:
        return self.running.url

    @property
    def deployments(self) -> Deployments:
        return Deployments(self.store)

    @property
    def registry(self) -> Registry:
        return Registry(self.settings.registry)

    @cached_property
    def server(self) -> Server:
        return Server(self.url, KEY)

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60
        )

    @cached_property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=KEY, max_retries=0, timeout=60)

    def close(self) -> None:
        """End the server and what talks to it."""
        self.running.stop()
        self.store.close()
        for end in (self.server, self.http, self.client):
            end.close()

    def row(self, request_id: str, choice: int = 0) -> Interaction:
        """The row of an answer, once the writer has committed it."""

        def look() -> Interaction | None:
            row_id = self.store.row_id(request_id, choice)
            return None if row_id is None else self.store.interaction(row_id)

        return wait_for(look, f"the row of {request_id}#{choice}")

    def follow(self, change: Any) -> None:
        """Wait until the server does what an event says."""
        self.server.wait_for_event(change.after.alias, change.event.seq)


def wait_for(look: Callable[[], Any], what: str, seconds: float = 10.0) -> Any:
    """What `look` returns once it is neither None nor False."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(0.02)


def start_ours(settings: Settings, config: Path, model: Path, log: Path) -> Ours:
    """Start `flywheel serve` and wait for it."""
    running = RunningServer.flywheel(config, free_port(), log, FLYWHEEL_API_KEYS=KEY)
    running.start()
    return Ours(settings, config, model, running, Store.open(settings))


def start_plain(settings: Settings, config: Path, log: Path) -> RunningServer:
    """Start the very same vLLM without the plugin."""
    port = free_port()
    plan = prepare(settings, str(config), (), cuda=False, port=port)
    command = [*plan.command, "--api-key", KEY]
    environment = {**plan.environment, "VLLM_PLUGINS": ""}
    assert command[0] == sys.executable
    return RunningServer(command, port, log, environment=environment).start()
