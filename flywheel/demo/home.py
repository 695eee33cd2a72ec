"""What every demo begins with: an empty folder, and a configuration of its own in it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from flywheel.demo.stream import Message, write_gold
from flywheel.running import free_port
from ledger.errors import ConfigError
from ledger.files import write_atomic
from ledger.settings import Settings, load


def the_alias(template: Settings, config: str) -> str:
    """The one alias of a configuration.

    Raises:
        ConfigError: it has several.
    """
    alias = template.only_alias
    if alias is None:
        raise ConfigError(
            f"{config} has {len(template.aliases)} aliases", rule="The demo plays with one."
        )
    return alias


def fresh_home(home: Path) -> Path:
    """An empty folder for the demo; what an earlier demo left is moved aside, once."""
    if home.exists():
        previous = home.with_name(f"{home.name}-previous")
        shutil.rmtree(previous, ignore_errors=True)
        home.rename(previous)
    home.mkdir(parents=True)
    return home


def own_config(
    config: str,
    home: Path,
    alias: str,
    gold: Sequence[Message],
    *more: Mapping[str, Any],
) -> tuple[Settings, Path]:
    """The demo's configuration: the given one with its own folder, port and gold set.

    Args:
        more: settings on top, by section; sections within sections are merged, too.
    """
    file = home / "gold.jsonl"
    write_gold(file, list(gold))
    raw = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    raw["var"] = str(home)
    raw.setdefault("ledger", {})["url"] = f"sqlite:///{home / 'ledger.db'}"
    raw.setdefault("privacy", {})["key_file"] = str(home / "keys" / "subject.key")
    raw.setdefault("serve", {})["port"] = free_port()
    raw["aliases"][alias] = raw["aliases"][alias] or {}
    raw["aliases"][alias].setdefault("gate", {})["gold"] = [str(file)]
    raw.setdefault("curate", {})["trusted_sources"] = ["user", "operator"]
    for one in more:
        _merge(raw, one)
    own = home / "config.yaml"
    write_atomic(own, yaml.safe_dump(raw, sort_keys=False).encode())
    return load(own), own


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, Mapping):
            into[name] = into.get(name) or {}
            _merge(into[name], value)
        else:
            into[name] = value


def some(labels: Sequence[str]) -> str:
    """The first few of them."""
    return ", ".join(labels[:6]) + (", …" if len(labels) > 6 else "")
