"""Starting vLLM with the plugin in it: the command line, the environment, the checks before.

`prepare` finds everything that would go wrong minutes later inside vLLM and says it at once;
`launch` then replaces this process by vLLM's API server, so that signals reach it directly.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ledger.deployments import Deployments
from ledger.errors import ConfigError, RegistryError
from ledger.fingerprint import base_fingerprint, template_hash
from ledger.loopback import is_loopback
from ledger.model import model_folder
from ledger.registry import Registry
from ledger.settings import CONFIG_VARIABLE, KEYS_VARIABLE, Settings, api_keys
from ledger.store import Store

_SERVER = "vllm.entrypoints.openai.api_server"
_PLUGINS = "VLLM_PLUGINS"
_DRAIN_SECONDS = 30
# An idle connection must be closed by the client or the balancer, never by the server: a request
# that is on its way at that moment is lost. Clients close after 5 s (httpx, and with it `openai`),
# which is vLLM's own value, too; balancers after 60 s.
_KEEP_ALIVE_SECONDS = 75
# Ours to set: a second value on the command line would contradict what the checks saw.
_OURS = {
    "--model": "model.path",
    "--served-model-name": "model.name",
    "--host": "serve.host",
    "--port": "serve.port",
    "--dtype": "model.dtype",
    "--max-model-len": "model.max_length",
    "--max-loras": "serve.max_loras",
    "--max-lora-rank": "serve.max_lora_rank",
    "--api-key": KEYS_VARIABLE,
    "--api-server-count": "one server a process; start several behind a load balancer",
}


class Launch(NamedTuple):
    """How vLLM is started."""

    command: list[str]
    environment: dict[str, str]
    summary: list[str]
    port: int


def prepare(
    settings: Settings,
    config: str,
    extra: Sequence[str],
    *,
    cuda: bool,
    host: str | None = None,
    port: int | None = None,
) -> Launch:
    """Check everything that can be checked without a model, and write the command.

    Args:
        config: the configuration file's path.
        extra: vLLM options from the command line, passed through.
        cuda: whether this machine has a CUDA device.
        host, port: instead of those in `serve`.

    Raises:
        ConfigError: no keys for an open address, a taken port, an option that is ours, …
        RegistryError: the live version of an alias cannot be served.
    """
    keys = api_keys(settings.serve)
    host, port = host or settings.serve.host, port or settings.serve.port
    _check_address(host, port, keys)
    _check_extra(extra)
    from ledger.redact.names import detector_of

    detector_of(settings.privacy.names, settings.privacy.names_model)
    folder = model_folder(settings)
    fingerprint = base_fingerprint(folder)
    template_hash(folder)
    shown = f"[{host}]" if ":" in host else host
    summary = [
        f"http://{shown}:{port}/v1  ({len(keys) or 'no'} API key(s))",
        *_serves(settings, fingerprint),
    ]
    options: dict[str, Any] = {
        "model": str(folder),
        "served_model_name": settings.model.name,
        "host": host,
        "port": port,
        "dtype": settings.model.dtype,
        "max_model_len": settings.model.max_length,
        "enable_lora": True,
        "max_loras": max(settings.serve.max_loras, 3 * len(settings.aliases)),
        "max_lora_rank": settings.serve.max_lora_rank,
        "disable_uvicorn_access_log": True,
        # Without it a SIGTERM kills the engine under requests that then wait for it for ever.
        "shutdown_timeout": _DRAIN_SECONDS,
        **_beside_training(settings, cuda=cuda),
        **settings.serve.vllm,
    }
    command = [sys.executable, "-m", _SERVER, *_flags(options), *extra]
    environment = dict(os.environ)
    environment |= {
        CONFIG_VARIABLE: config,
        "VLLM_NO_USAGE_STATS": "1",  # nothing about our users leaves the box
        "DO_NOT_TRACK": "1",
    }
    environment.setdefault("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", str(_KEEP_ALIVE_SECONDS))
    plugins = [name for name in environment.get(_PLUGINS, "").split(",") if name]
    environment[_PLUGINS] = ",".join(dict.fromkeys([*plugins, "flywheel"]))
    if not cuda:
        cores = sorted(os.sched_getaffinity(0))
        environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
        _prefer_intel_openmp(environment)
    environment |= settings.serve.env
    return Launch(command, environment, summary, port)


def _beside_training(settings: Settings, *, cuda: bool) -> dict[str, Any]:
    """What vLLM has to know of training on the same GPU. On a CPU it has no such options."""
    if not cuda:
        return {}
    if settings.train.beside_server == "side_by_side":
        return {"gpu_memory_utilization": settings.train.server_share}
    return {"enable_sleep_mode": True} if settings.train.beside_server == "pause" else {}


def _prefer_intel_openmp(environment: dict[str, str]) -> None:
    """vLLM's advice for CPUs: with Intel's OpenMP small batches are 2 to 3 times as fast."""
    library = Path(sys.prefix) / "lib" / "libiomp5.so"
    loaded = environment.get("LD_PRELOAD", "")
    if library.is_file() and "libiomp5" not in loaded:
        environment["LD_PRELOAD"] = f"{library}:{loaded}".rstrip(":")


def launch(plan: Launch) -> NoReturn:
    """Become vLLM's API server."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, plan.command, plan.environment)


def _flags(options: dict[str, Any]) -> list[str]:
    """vLLM's command line from its options: true is `--flag`, false is `--no-flag`."""
    words: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else "--no-" + flag.removeprefix("--"))
        elif isinstance(value, list | tuple):
            words += [flag, *map(str, value)]
        elif isinstance(value, dict):
            words += [flag, json.dumps(value)]
        elif value is not None:
            words += [flag, str(value)]
    return words


def _check_address(host: str, port: int, keys: list[str]) -> None:
    if not keys and not is_loopback(host):
        raise ConfigError(
            f"serve.host is {host} and there are no API keys",
            rule="Without keys the server listens on loopback only.",
            remedy=f"Set {KEYS_VARIABLE} or serve.api_keys_file, or listen on 127.0.0.1.",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror}",
                remedy="Stop what uses the port, or set serve.port (`--port`).",
            ) from None


def _check_extra(extra: Sequence[str]) -> None:
    for word in extra:
        flag = word.split("=", 1)[0].replace("_", "-")
        if flag in _OURS:
            raise ConfigError(
                f"{flag} cannot be passed through to vLLM",
                rule=f"It is set by {_OURS[flag]}.",
            )


def _serves(settings: Settings, fingerprint: str) -> list[str]:
    """What answers for each alias; raises where a live version cannot be served."""
    registry, store = Registry.of(settings), Store.open(settings)
    states = Deployments(store).states(sorted(settings.aliases))
    store.close()
    lines = []
    for alias, state in states.items():
        if state.live:
            try:
                registry.servable(
                    alias,
                    state.live,
                    fingerprint=fingerprint,
                    max_rank=settings.serve.max_lora_rank,
                )
            except RegistryError as error:
                raise RegistryError(
                    f"{alias}@v{state.live} is live but cannot be served: {error.problem}",
                    rule=error.rule,
                    remedy=f"{error.remedy} Or go back: flywheel rollback {alias}".strip(),
                ) from None
        answers = f"{alias}@v{state.live}" if state.live else f"{settings.model.name} (base)"
        trying = f", {alias}@v{state.candidate} at {state.share:g} %" if state.candidate else ""
        lines.append(f"model {alias!r} → {answers}{trying}")
    return lines
