"""What all commands of the command line share: the configuration, and how results are shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from typing import Any

import click

from flywheel.hardware import load_fitting
from ledger.settings import Settings
from ledger.store import Store


class Context:
    """What all commands share: the configuration, read on first use."""

    def __init__(self, config: str | None) -> None:
        self._config = config
        self._loaded: tuple[Settings, str] | None = None

    @property
    def settings(self) -> Settings:
        """The configuration."""
        return self._load()[0]

    @property
    def config(self) -> str:
        """Its file."""
        return self._load()[1]

    @cached_property
    def store(self) -> Store:
        """Its ledger."""
        return Store.open(self.settings)

    def _load(self) -> tuple[Settings, str]:
        if self._loaded is None:
            self._loaded = load_fitting(self._config)
        return self._loaded

    def alias(self, given: str | None) -> str:
        """The alias meant: the one given, or the only one there is."""
        name = given or self.settings.only_alias
        if name is None:
            names = ", ".join(sorted(self.settings.aliases))
            raise click.UsageError(f"name one of the aliases: {names}")
        self.settings.alias(name)
        return name


def show(value: Any, *, as_json: bool, text: Callable[[], str]) -> None:
    """Print a result for a program or for a person."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False) if as_json else text())


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
url_option = click.option("--url", envvar="FLYWHEEL_URL", help="The live server, ending in /v1.")
alias_argument = click.argument("alias", required=False)
