"""What many tests share: limits on threads, and a configuration in a folder of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.settings import Settings, parse
from ledger.store import Store

# Before anything imports torch: two tests' worth of threads on a small machine is slower.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# What the person who runs the tests has set must not reach them.
for name in ("FLYWHEEL_CONFIG", "FLYWHEEL_API_KEYS", "FLYWHEEL_URL", "FLYWHEEL_USER"):
    os.environ.pop(name, None)

MakeSettings = Callable[..., Settings]


@pytest.fixture
def make_settings(tmp_path: Path) -> MakeSettings:
    """Settings under `tmp_path`; keyword arguments replace values section by section."""

    def make(**sections: Any) -> Settings:
        raw: dict[str, Any] = {
            "var": str(tmp_path / "var"),
            "model": {"name": "base", "path": str(tmp_path / "model")},
            "aliases": {"support": {}},
            "ledger": {"url": f"sqlite:///{tmp_path}/var/ledger.db"},
            "privacy": {"key_file": str(tmp_path / "var/keys/subject.key")},
        }
        for section, values in sections.items():
            old = raw.get(section)
            raw[section] = {**old, **values} if isinstance(old, dict) else values
        return parse(raw, name="test")

    return make


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    """The plainest settings."""
    return make_settings()


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """A new ledger."""
    opened = Store.open(settings)
    yield opened
    opened.close()
