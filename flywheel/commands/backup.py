"""`flywheel backup`."""

from __future__ import annotations

from pathlib import Path

import click

from flywheel.commands.console import Context, json_option, show


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--keys",
    "keys_folder",
    type=click.Path(path_type=Path),
    help="Copy the key files too, to another folder: never keep the two in one place.",
)
@click.option(
    "--no-versions", is_flag=True, help="List the versions only; their files are safe elsewhere."
)
@click.option("--check", is_flag=True, help="Look whether an older backup is whole.")
@json_option
@click.pass_obj
def backup(
    shared: Context,
    folder: Path,
    keys_folder: Path | None,
    no_versions: bool,
    check: bool,
    as_json: bool,
) -> None:
    """Copy the ledger as it is at one moment, and the versions, while everything runs."""
    from flywheel.backup import backup as run
    from flywheel.backup import check as look
    from flywheel.backup import text

    if check:
        said = look(folder)
        show({"folder": str(folder), "said": said}, as_json=as_json, text=lambda: said)
        return
    done = run(shared.settings, folder, keys=keys_folder, versions=not no_versions)
    show(done.as_json(), as_json=as_json, text=lambda: text(done))
