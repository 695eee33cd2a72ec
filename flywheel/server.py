"""Talking to the running server as an operator does: is it there, what does it do now."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

from ledger.errors import ConfigError, ServerError
from ledger.settings import Settings, api_keys

URL_VARIABLE = "FLYWHEEL_URL"
# How long a server may take to fall asleep or to wake, seconds: tens of GiB go to the CPU's memory.
_ASLEEP = 180.0
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


def server_url(settings: Settings, port: int | None = None) -> str:
    """The address of the API that this configuration's server listens on, ending in `/v1`."""
    host = settings.serve.host
    host = _ANYWHERE.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{host}:{port or settings.serve.port}/v1"


_LOSSES = {
    "dropped_records": "record(s) dropped: no room in memory, or the writer died of them",
    "capture_failures": "answer(s) that could not be recorded",
    "malformed_records": "record(s) left out by the log's writer",
    "unconfirmed_records": "record(s) that a writer died with (durability fast)",
    "redaction_failures": "text(s) not kept because redaction failed or took too long",
}


def losses(numbers: dict[str, Any]) -> list[str]:
    """What a server's log lost since its start and what is wrong now, a line each.

    Args:
        numbers: from `Server.numbers`.
    """
    lines = [f"{int(numbers[name])} {what}" for name, what in _LOSSES.items() if numbers.get(name)]
    if seconds := numbers.get("ledger_failing_seconds"):
        waiting = int(numbers.get("backlog_records", 0))
        lines.append(f"the log cannot be written for {seconds:.0f} s; {waiting} record(s) wait")
    elif numbers.get("writer_up") == 0:
        lines.append("the log's writer is not up")
    return lines


class Server:
    """A running server.

    Args:
        url: ends in `/v1`.
        key: an API key, or None where the server asks for none.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=10.0)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @classmethod
    def of(cls, settings: Settings, url: str | None = None) -> Server:
        """The server of a configuration."""
        return cls(url or server_url(settings), next(iter(api_keys(settings.serve)), None))

    def deployments(self) -> dict[str, Any]:
        """What the server does for each alias now.

        Raises:
            ServerError: no answer, or not from a server with the plugin.
            ConfigError: the key is refused.
        """
        answer = self._get(f"{self.url}/deployments")
        if answer.status_code == 401:
            raise ConfigError(
                f"the server at {self.url} refuses our API key",
                remedy="Use the keys it was started with (FLYWHEEL_API_KEYS or the key file).",
            )
        if answer.status_code != 200:
            raise ServerError(
                f"{self.url}/deployments answers {answer.status_code}",
                rule="What listens there is not a server with the Flywheel plugin.",
            )
        found: dict[str, Any] = answer.json()
        return found

    def loaded(self) -> set[str]:
        """Pinned names of the versions that it answers with; none where no server is up.

        Raises:
            ConfigError: the key is refused.
            ServerError: what listens there is something else.
        """
        try:
            answer = self._get(f"{self.url}/models")
        except ServerError:
            return set()
        if answer.status_code == 401:
            raise ConfigError(f"the server at {self.url} refuses our API key")
        if answer.status_code != 200:
            raise ServerError(f"{self.url}/models answers {answer.status_code}")
        return {one["id"] for one in answer.json()["data"] if "@v" in one["id"]}

    def pause(self, lease: str, token: str, drain_seconds: float) -> float:
        """Have it finish what is under way and give its GPU memory away, until the lease ends.

        Returns:
            Seconds waited.

        Raises:
            ServerError: it cannot, or does not in time.
        """
        body = {"lease": lease, "token": token, "drain_seconds": drain_seconds}
        self._ask_pause("POST", body)
        started = time.monotonic()
        while (now := self.paused())["state"] != "paused":
            if now["state"] == "serving" or time.monotonic() - started > drain_seconds + _ASLEEP:
                raise ServerError(
                    f"the server at {self.url} did not pause: {now['problem'] or now['state']}",
                    remedy="Its log says more. train.beside_server has other ways.",
                )
            time.sleep(0.05)
        return time.monotonic() - started

    def resume(self, lease: str, token: str) -> float:
        """Have it take its memory back and answer again.

        Returns:
            Seconds waited.

        Raises:
            ServerError: it is away, or has not come back in time.
        """
        self._ask_pause("DELETE", {"lease": lease, "token": token})
        started = time.monotonic()
        while (now := self.paused())["state"] != "serving":
            if time.monotonic() - started > _ASLEEP:
                raise ServerError(
                    f"the server at {self.url} is still {now['state']}: {now['problem']}",
                    remedy="It goes on trying by itself; its log says what is in the way.",
                )
            time.sleep(0.05)
        return time.monotonic() - started

    def paused(self) -> dict[str, Any]:
        """What `serve.pause` says: `state`, whose lease, what is under way, what went wrong."""
        found: dict[str, Any] = self._get(f"{self.url}/pause").json()
        return found

    def _ask_pause(self, method: str, body: dict[str, Any]) -> None:
        try:
            answer = self._client.request(method, f"{self.url}/pause", json=body)
        except httpx.HTTPError as error:
            raise self._away(error) from None
        if answer.status_code != 202:
            try:
                said = answer.json()["error"]["message"]
            except (ValueError, KeyError, TypeError):
                said = f"{answer.status_code} {answer.text[:200]}"
            raise ServerError(
                f"the server at {self.url} does not pause: {said}",
                remedy="It has to be of this version and use the same ledger as we do."
                if answer.status_code in (403, 404)
                else "",
            )

    def wait_for_event(self, alias: str, seq: int, *, seconds: float = 60.0) -> float:
        """Wait until the server follows a deployment event of an alias.

        Returns:
            Seconds waited.

        Raises:
            ServerError: it does not within `seconds`.
        """
        return self._wait(
            lambda now: now["aliases"].get(alias, {}).get("event", -1) >= seq,
            f"follow event {seq} of {alias}",
            seconds,
        )

    def wait_for_candidate(self, alias: str, name: str, *, seconds: float = 120.0) -> float:
        """Wait until a candidate is loaded.

        Raises:
            ServerError: it cannot be loaded, with the server's reason, or is not in time.
        """

        def loaded(now: dict[str, Any]) -> bool:
            if reason := now["problems"].get(name):
                raise ServerError(f"the server cannot load {name}: {reason}")
            return bool(now["aliases"].get(alias, {}).get("candidate") == name)

        return self._wait(loaded, f"load {name}", seconds)

    def numbers(self) -> dict[str, float]:
        """The `flywheel_*` numbers without labels, from `/metrics`; counts since its start.

        Raises:
            ServerError: no answer.
        """
        text = self._get(f"{self.url.removesuffix('/v1')}/metrics").text
        found = {}
        for line in text.splitlines():
            name, _, value = line.partition(" ")
            if name.startswith("flywheel_") and "{" not in name:
                found[name.removeprefix("flywheel_").removesuffix("_total")] = float(value)
        return found

    def _get(self, url: str) -> httpx.Response:
        try:
            return self._client.get(url)
        except httpx.HTTPError as error:
            raise self._away(error) from None

    def _away(self, error: Exception) -> ServerError:
        return ServerError(
            f"no server answers at {self.url} ({type(error).__name__})",
            remedy="Start it with `make serve`, or name another with --url.",
        )

    def _wait(self, done: Callable[[dict[str, Any]], bool], what: str, seconds: float) -> float:
        started = time.monotonic()
        while not done(self.deployments()):
            if time.monotonic() - started > seconds:
                raise ServerError(
                    f"the server at {self.url} did not {what} within {seconds:g} s",
                    remedy="Its log says why; `flywheel doctor` checks the registry.",
                )
            time.sleep(0.05)
        return time.monotonic() - started
