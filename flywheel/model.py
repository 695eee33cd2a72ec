"""Getting the base model onto this machine: the embedded one, or one from the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flywheel import embedded
from ledger.errors import ConfigError
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
    if path.is_dir():
        return path
    try:
        return model_folder(settings)
    except ConfigError:
        return _from_hub(settings.model.path, say)


def _from_hub(name: str, say: Callable[[str], None]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    say(f"Fetching {name} from the Hugging Face hub …")
    try:
        return Path(snapshot_download(name, ignore_patterns=["*.bin", "*.pt", "*.pth", "*.gguf"]))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model.path {name!r} is neither a folder nor to be fetched from the hub: {first}",
            remedy="Check the name and the way to huggingface.co (HF_TOKEN for gated models), or "
            "set model.path to a folder with the model.",
        ) from error
