"""The command that asks a stronger model: `flywheel distill`."""

from __future__ import annotations

import click

from flywheel.console import Context, alias_argument, json_option, show


@click.command()
@alias_argument
@click.option("--limit", type=click.IntRange(1), help="Most rows.")
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    help="Most money, in the currency of the price table.",
)
@click.option(
    "--accept",
    type=click.Choice(["operator", "check", "judge"]),
    default="operator",
    show_default=True,
    help="Who agrees before an answer is trained on.",
)
@click.option("--tag", help="Only rows with this tag.")
@click.option("--cluster", type=int, metavar="C", help="Only rows of this cluster.")
@click.option("--dry-run", is_flag=True, help="Say what it would ask and cost, and ask nothing.")
@json_option
@click.pass_obj
def distill(
    shared: Context,
    alias: str | None,
    limit: int | None,
    budget: float | None,
    accept: str,
    tag: str | None,
    cluster: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Ask a stronger model for corrections; goes on where it was cut off.

    Sent is the conversation as the ledger has it, redacted. Rows whose text was not stored are
    left out.
    """
    from curate.distill import distill as run

    done = run(
        shared.settings,
        shared.store,
        shared.alias(alias),
        accept=accept,  # type: ignore[arg-type]
        limit=limit,
        budget=budget,
        tag=tag,
        cluster=cluster,
        dry_run=dry_run,
        say=lambda line: click.echo(line, err=True),
    )
    show(done.as_json(), as_json=as_json, text=done.text)
