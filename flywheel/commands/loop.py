"""`flywheel tick`, `flywheel loop`, `flywheel triggers`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import click

from flywheel.commands.console import Context, alias_argument, json_option, show, url_option
from flywheel.commands.times import Span, SpanType

if TYPE_CHECKING:
    from flywheel.loop.tick import Tick
    from ledger.store import Store

_dry = click.option("--dry-run", is_flag=True, help="Say what would be done and do none of it.")


def _ticker(
    shared: Context,
    alias: str | None,
    url: str | None,
    *,
    store: Store | None = None,
    dry_run: bool = False,
    train: bool = True,
    to_stderr: bool = False,
) -> Callable[[], Tick]:
    from flywheel.loop.tick import tick
    from flywheel.loop.wheel import Engine

    def say(line: str) -> None:
        click.echo(line, err=to_stderr)

    settings = shared.settings
    aliases = [shared.alias(alias)] if alias else None
    wheel = Engine(settings, shared.config, url, say)
    return lambda: tick(
        settings,
        store or shared.store,
        wheel,
        aliases=aliases,
        dry_run=dry_run,
        train=train,
        say=say,
    )


def _meanwhile(shared: Context, url: str | None) -> Tick:
    """What must not wait while one alias trains: watching the others, and their rollouts."""
    from ledger.store import Store

    with closing(Store.open(shared.settings)) as store:  # of this thread alone
        return _ticker(shared, None, url, store=store, train=False)()


@click.command()
@alias_argument
@url_option
@_dry
@json_option
@click.pass_obj
def tick(shared: Context, alias: str | None, url: str | None, dry_run: bool, as_json: bool) -> None:
    """Do what is due, once: roll out or back, curate, watch, retrain. For cron and CronJobs."""
    done = _ticker(shared, alias, url, dry_run=dry_run, to_stderr=as_json)()
    nothing = "" if done.steps or done.busy else "nothing was due"
    decided = "\n".join(one.text() for one in done.decisions.values()) if dry_run else nothing
    show(done.as_json(), as_json=as_json, text=lambda: decided)
    if done.failed:
        sys.exit(1)


@click.command()
@alias_argument
@url_option
@_dry
@click.option(
    "--every", "span", type=SpanType(), default="5m", show_default=True, help="Between two ticks."
)
@click.pass_obj
def loop(shared: Context, alias: str | None, url: str | None, dry_run: bool, span: Span) -> None:
    """Tick again and again until stopped; a tick under way is finished first."""
    from flywheel.loop.every import every
    from flywheel.stopping import ASKED

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ASKED.set())
    click.echo(f"A tick every {span}; Ctrl-C ends it after the one under way.")
    turn = _ticker(shared, alias, url, dry_run=dry_run)
    several = alias is None and len(shared.settings.aliases) > 1 and not dry_run
    meanwhile = partial(_meanwhile, shared, url) if several else None
    every(span.seconds, turn, meanwhile=meanwhile, stop=ASKED, say=click.echo)


@click.command()
@alias_argument
@click.option("--explain", is_flag=True, help="Every trigger's reason, those that are quiet too.")
@click.option("--history", type=click.IntRange(1), default=5, help="Newest decisions to show.")
@json_option
@click.pass_obj
def triggers(
    shared: Context, alias: str | None, explain: bool, history: int, as_json: bool
) -> None:
    """Say what would start a retrain now, and what came of earlier ones."""
    from flywheel.loop.explain import explained, text

    found = explained(shared.settings, shared.store, shared.alias(alias), history)
    show(found, as_json=as_json, text=lambda: text(found, all_of_them=explain))
