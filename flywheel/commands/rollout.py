"""`flywheel rollout`, `flywheel promote`, `flywheel rollback`: what gets traffic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from flywheel.commands.console import Context, alias_argument, json_option, show, url_option
from ledger.clock import now
from ledger.deployments import Change, name_or_none, version_name

_because = click.option("--because", default="", help="Why; recorded.")


@click.command()
@alias_argument
@click.option("--version", metavar="N", help="A version instead of the candidate; base is one.")
@click.option("--share", type=click.FloatRange(0, 100, min_open=True), help="Percent of traffic.")
@click.option("--because", default="", help="Why; recorded.")
@click.option("--force", is_flag=True, help="Although its gate did not pass; needs --because.")
@json_option
@click.pass_obj
def promote(
    shared: Context,
    alias: str | None,
    version: str | None,
    share: float | None,
    because: str,
    force: bool,
    as_json: bool,
) -> None:
    """Give a version traffic: all of it, or --share percent."""
    from flywheel.rollout import promote as change

    done = change(
        shared.settings,
        shared.store,
        shared.alias(alias),
        version=version,
        share=share,
        because=because,
        force=force,
    )
    _show_change(shared, done, as_json)


@click.command()
@alias_argument
@click.option("--because", default="", help="Why; recorded.")
@json_option
@click.pass_obj
def rollback(shared: Context, alias: str | None, because: str, as_json: bool) -> None:
    """Drop a running canary, else go back to the previous version. Needs only the ledger."""
    from flywheel.rollout import rollback as change

    _show_change(shared, change(shared.store, shared.alias(alias), because=because), as_json)


class _Rollout(click.Group):
    """`flywheel rollout support` is `flywheel rollout show support`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take an alias where a command would stand."""
        if args and args[0] not in self.commands:
            args = ["show", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_Rollout, invoke_without_command=True)
@click.pass_context
def rollout(context: click.Context) -> None:
    """Show how far a rollout is and what it waits for; take it further, stop it, end it."""
    if context.invoked_subcommand is None:
        context.invoke(show_rollout)


@rollout.command("show")
@alias_argument
@json_option
@click.pass_obj
def show_rollout(shared: Context, alias: str | None, as_json: bool) -> None:
    """Show the stage, its evidence, and what is due."""
    from flywheel.rollout.shown import look, text

    found = look(shared.settings, shared.store, shared.alias(alias), now=now())
    show(found, as_json=as_json, text=lambda: text(found))


@rollout.command()
@alias_argument
@url_option
@json_option
@click.pass_obj
def advance(shared: Context, alias: str | None, url: str | None, as_json: bool) -> None:
    """Do what is due: compare out of sight, expand, go back, ask; what the loop does."""
    from flywheel.rollout import advance as change
    from flywheel.rollout import operator
    from flywheel.rollout.shadow import shadow
    from flywheel.rollout.shown import look, text
    from flywheel.server import server_url

    settings, store, name = shared.settings, shared.store, shared.alias(alias)
    seen = shadow(settings, store, name, url=url or server_url(settings), now=now())
    if seen.said:
        click.echo(seen.said, err=as_json)
    done = change(settings, store, name, now=now(), who=operator())
    if done is not None:
        _show_change(shared, done, as_json)
        return
    found = look(settings, store, name, now=now())
    show(found, as_json=as_json, text=lambda: f"nothing is due\n{text(found)}")


@rollout.command()
@alias_argument
@_because
@json_option
@click.pass_obj
def pause(shared: Context, alias: str | None, because: str, as_json: bool) -> None:
    """Stop the stage's clock; shares and users stay. Harm that is shown still goes back."""
    from flywheel.rollout import pause as change

    _mark(shared, change, alias, because, as_json)


@rollout.command()
@alias_argument
@_because
@json_option
@click.pass_obj
def resume(shared: Context, alias: str | None, because: str, as_json: bool) -> None:
    """Let the stage's clock go on."""
    from flywheel.rollout import resume as change

    _mark(shared, change, alias, because, as_json)


@rollout.command()
@alias_argument
@_because
@json_option
@click.pass_obj
def abort(shared: Context, alias: str | None, because: str, as_json: bool) -> None:
    """End the rollout: all traffic goes to the live version. Needs only the ledger."""
    from flywheel.rollout import abort as change

    _mark(shared, change, alias, because, as_json)


def _mark(
    shared: Context,
    change: Callable[..., Change],
    alias: str | None,
    because: str,
    as_json: bool,
) -> None:
    _show_change(shared, change(shared.store, shared.alias(alias), because=because), as_json)


def _show_change(shared: Context, done: Change, as_json: bool) -> None:
    state, base = done.after, shared.settings.model.name
    live = version_name(state.alias, state.live, base)
    candidate = name_or_none(state.alias, state.candidate, base)
    result: dict[str, Any] = {
        "event": done.event.seq,
        "kind": done.event.kind,
        "alias": state.alias,
        "live": live,
        "candidate": candidate,
        "share": state.share,
        "paused": state.paused,
    }
    trying = f", {candidate} gets {state.share:g} %" if candidate else ""
    trying += " (paused)" if state.paused else ""
    text = f"{state.alias}: {live} is live{trying} (event {done.event.seq}; servers follow at once)"
    show(result, as_json=as_json, text=lambda: text)
