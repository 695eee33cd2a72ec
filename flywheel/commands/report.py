"""`flywheel report`."""

from __future__ import annotations

from pathlib import Path

import click

from flywheel.commands.console import Context, alias_argument, json_option, show


@click.command()
@alias_argument
@click.option(
    "--days",
    type=click.IntRange(1, 366),
    default=7,
    show_default=True,
    help="The last so many days of UTC, today among them.",
)
@click.option("--week", is_flag=True, help="The last full week instead, as the loop writes it.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to write to; by default var/reports."
)
@json_option
@click.pass_obj
def report(
    shared: Context, alias: str | None, days: int, week: bool, out: Path | None, as_json: bool
) -> None:
    """Write what the wheel did lately: a page (Markdown) with a picture (PNG)."""
    from flywheel import weekly
    from ledger.clock import now

    name = shared.alias(alias)
    period = weekly.last_week(now()) if week else weekly.last_days(now(), days)
    page = weekly.write(shared.settings, shared.store, name, period=period, folder=out)
    result = {"alias": name, "page": str(page), "picture": str(page.with_suffix(".png"))}
    show(result, as_json=as_json, text=lambda: page.read_text(encoding="utf-8") + f"\n{page}")
