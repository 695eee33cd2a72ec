"""Getting the base model onto this machine: the embedded one, or one from the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flywheel import embedded
from ledger.model import model_folder
from ledger.settings import Settings


def fetch(settings: Settings, say: Callable[[str], None] = print) -> Path:
    """The base model's folder, made or fetched where it is absent.

    Raises:
        ConfigError: it is neither here nor to be had.
    """
    path = Path(settings.model.path)
    if settings.model.embedded:
        return embedded.ensure(path, say)
    if not path.is_dir():
        say(f"Looking for {path} on the Hugging Face hub …")
    return model_folder(settings, fetch=True)
