"""The command that asks a stronger model: `flywheel distill`."""

from __future__ import annotations

import sys

import click

from flywheel.commands.console import Context, alias_argument, json_option, show


@click.command()
@alias_argument
@click.option("--count", "--limit", "limit", type=click.IntRange(1), help="Most rows.")
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
@click.option(
    "--retrain",
    is_flag=True,
    help="Train on what was accepted, put it before the gate, compare it with the teacher.",
)
@click.option("--url", envvar="FLYWHEEL_URL", help="The live server of --retrain, ending in /v1.")
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
    retrain: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Ask a stronger model for corrections; goes on where it was cut off.

    Sent is the conversation as the ledger has it, redacted. Rows whose text was not stored are
    left out.
    """
    from curate.distill import distill as run

    if retrain and not dry_run:
        if limit is None:
            raise click.UsageError("--retrain needs --count: how many questions are asked")
        _whole(shared, shared.alias(alias), limit, budget, accept, tag, cluster, url, as_json)
        return
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


def _whole(
    shared: Context,
    alias: str,
    count: int,
    budget: float | None,
    accept: str,
    tag: str | None,
    cluster: int | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Distil, retrain, judge, compare."""
    from flywheel.distilling import markdown
    from flywheel.distilling import run as whole
    from ledger.errors import GateRefused

    done = whole(
        shared.settings,
        shared.config,
        shared.store,
        alias,
        count=count,
        accept=accept,  # type: ignore[arg-type]
        budget=budget,
        tag=tag,
        cluster=cluster,
        url=url,
        say=lambda line: click.echo(line, err=True),
    )
    show(
        {**done.report.model_dump(mode="json"), "file": str(done.file)},
        as_json=as_json,
        text=lambda: f"{markdown(done.report)}\n\n{done.file}",
    )
    if done.report.verdict != "pass":
        sys.exit(GateRefused.exit_code)
