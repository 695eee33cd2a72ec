"""Which place is meant."""

from __future__ import annotations

from flywheel.sharing.bucket import FsspecPlace
from flywheel.sharing.hub import HUB, HubPlace
from flywheel.sharing.place import Place
from ledger.errors import ConfigError
from ledger.settings import Settings


def place_of(settings: Settings, url: str | None) -> Place:
    """The place meant: the URL given, else `sharing.url`.

    Raises:
        ConfigError: neither is there, or nothing here reads it.
    """
    wanted = url or settings.sharing.url
    if not wanted:
        raise ConfigError(
            "no place was named, and sharing.url is not set",
            remedy="Name one: hf://owner/name, s3://bucket/folder, file:///folder.",
        )
    if wanted.startswith(HUB):
        return HubPlace(wanted, private=settings.sharing.private)
    return FsspecPlace(wanted)
