"""The command line: one thin function a command; the work is elsewhere.

Exit codes: 0 done, 1 broken, 2 usage, 100 refused by the gate, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from flywheel import __version__
from flywheel.hardware import has_cuda, load_fitting
from ledger.errors import FlywheelError
from ledger.settings import Settings

Command = Callable[..., Any]


class _Context:
    """What all commands share: the configuration, read on first use."""

    def __init__(self, config: str | None) -> None:
        self._config = config
        self._loaded: tuple[Settings, str] | None = None

    @property
    def settings(self) -> Settings:
        return self._load()[0]

    @property
    def config(self) -> str:
        return self._load()[1]

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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--config", "-c", metavar="FILE", help="Configuration; by default what fits here.")
@click.version_option(__version__)
@click.pass_context
def cli(context: click.Context, config: str | None) -> None:
    """Serve a model, log its answers, learn from corrections, swap in what is better."""
    context.obj = _Context(config)


def main() -> None:
    """Run a command; an error that we raise on purpose is a message, not a traceback."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except FlywheelError as error:
        print(f"flywheel: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)


def show(value: Any, *, as_json: bool, text: Callable[[], str]) -> None:
    """Print a result for a program or for a person."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False) if as_json else text())


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
alias_argument = click.argument("alias", required=False)


@cli.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--port", type=int, help="TCP port instead of serve.port.")
@click.option("--host", help="Address instead of serve.host.")
@click.argument("vllm_options", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def serve(
    shared: _Context, port: int | None, host: str | None, vllm_options: tuple[str, ...]
) -> None:
    """Start vLLM with the plugin in it. Options it does not know go to vLLM as they are."""
    from flywheel.model import fetch
    from serve.launch import launch, prepare

    fetch(shared.settings, say=lambda line: click.echo(line))
    plan = prepare(
        shared.settings, shared.config, vllm_options, cuda=has_cuda(), host=host, port=port
    )
    click.echo("Flywheel serves " + "\n                ".join(plan.summary))
    click.echo(f"Starting vLLM (ready when http://…:{plan.port}/health answers) …")
    launch(plan)


if __name__ == "__main__":
    main()
