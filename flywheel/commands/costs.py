"""`flywheel costs`."""

from __future__ import annotations

import click

from flywheel.commands.console import Context, alias_argument, json_option, show
from flywheel.commands.times import Moment


@click.command()
@alias_argument
@click.option(
    "--since",
    type=Moment(),
    default="30d",
    show_default=True,
    help="From then on: 30d, 12h, a date.",
)
@json_option
@click.pass_obj
def costs(shared: Context, alias: str | None, since: float, as_json: bool) -> None:
    """Say what serving, training, gates and teachers took, and what 1,000 answers cost."""
    from flywheel.costs import costs as bill
    from flywheel.costs import text
    from ledger.clock import now

    aliases = None if alias is None else [shared.alias(alias)]
    found = bill(shared.settings, shared.store, since=since, until=now(), aliases=aliases)
    show(found.as_json(), as_json=as_json, text=lambda: text(found))
