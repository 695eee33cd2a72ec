"""Where the base model is on this machine."""

from __future__ import annotations

from pathlib import Path

from ledger.errors import ConfigError
from ledger.settings import Settings


def model_folder(settings: Settings) -> Path:
    """The folder of the base model; one from the hub must have been fetched before.

    Raises:
        ConfigError: it is not there.
    """
    folder = Path(settings.model.path)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(settings.model.path, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise ConfigError(
            f"model.path {settings.model.path!r} is neither a folder nor a model fetched before",
            remedy="`flywheel doctor --fetch` fetches it from the Hugging Face hub.",
        ) from None
