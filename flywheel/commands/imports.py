"""The command that takes in what other systems logged: `flywheel import`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from flywheel.commands.console import Context, json_option, show

_FORMATS = ("openai", "langfuse", "tensorzero", "csv")


@click.command(name="import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--format", "form", type=click.Choice(_FORMATS), help="Guessed unless given.")
@click.option("--alias", help="Whose rows they become.")
@click.option(
    "--as",
    "mode",
    type=click.Choice(["pairs", "answers"]),
    help="Its answers are right, or only what was said; unset: what the format means.",
)
@click.option("--dry-run", is_flag=True, help="Read the file and change nothing.")
@json_option
@click.pass_obj
def import_(
    shared: Context,
    file: Path,
    form: str | None,
    alias: str | None,
    mode: Literal["pairs", "answers"] | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take in rows and pairs of another system: OpenAI JSONL, Langfuse, TensorZero, CSV."""
    from curate.imports import imported

    done = imported(
        shared.settings,
        shared.store,
        file,
        shared.alias(alias),
        format=form,
        mode=mode,
        dry_run=dry_run,
        say=lambda line: click.echo(line, err=True),
    )
    show(done.as_json(), as_json=as_json, text=done.text)
    if done.empty:
        sys.exit(1)
