"""Where the base model is on this machine, fetched from the hub where that is wanted."""

from __future__ import annotations

from pathlib import Path

from ledger.errors import ConfigError
from ledger.settings import Settings

# Weights as safetensors, the configuration, the tokenizer and its template; no pickles.
_WANTED = ["*.json", "*.jinja", "*.safetensors", "*.txt", "*.model"]


def model_folder(settings: Settings, *, fetch: bool = False) -> Path:
    """The folder of the base model.

    Args:
        fetch: get a model that `model.path` names on the Hugging Face hub; without it, only one
            that was fetched before is found.

    Raises:
        ConfigError: it is neither here nor to be had.
    """
    given = settings.model.path
    if Path(given).is_dir():
        return Path(given)
    if given.count("/") != 1 or given.startswith((".", "/", "~")) or Path(given).parent.is_dir():
        raise ConfigError(
            f"model.path {given}: there is no such folder",
            remedy="`flywheel doctor --fetch` makes or fetches it; or set model.path to a model's "
            "folder or to its name on the hub.",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(given, allow_patterns=_WANTED, local_files_only=not fetch))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model.path {given} cannot be fetched from the hub: {first}"
            if fetch
            else f"model.path {given} was not fetched yet",
            remedy="Check the name and the way to huggingface.co (HF_TOKEN for gated models), or "
            "set model.path to a model's folder."
            if fetch
            else "`flywheel doctor --fetch` gets it from the Hugging Face hub.",
        ) from error
