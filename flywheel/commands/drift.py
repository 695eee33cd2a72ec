"""The command about drift: `flywheel drift`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from flywheel.commands.console import Context, alias_argument, json_option, show, url_option

_MARKS = {"drift": "DRIFT", "quiet": "quiet", "too_few": "too few", "warming_up": "warming up"}


@click.command()
@alias_argument
@click.option("--watch-once", is_flag=True, help="Take in what came since the last look first.")
@url_option
@click.option(
    "--begin-anew",
    metavar="SIGNAL",
    help="Take what comes from now on as usual for a signal: a new warm-up.",
)
@json_option
@click.pass_obj
def drift(
    shared: Context,
    alias: str | None,
    watch_once: bool,
    url: str | None,
    begin_anew: str | None,
    as_json: bool,
) -> None:
    """Whether users, questions or answers have changed: each signal with its interval."""
    from eval import drift as watching
    from ledger.store import now

    name, settings, store = shared.alias(alias), shared.settings, shared.store
    if begin_anew is not None:
        known = [one.name for one in watching.look(settings, store, name, now=now())]
        if begin_anew not in known:
            raise click.UsageError(
                f"{begin_anew!r} is not watched; it is one of: {', '.join(known)}"
            )
        watching.begin_anew(store, name, begin_anew, now=now())
    new: list[Any] = []
    if watch_once:
        from flywheel.server import server_url

        ask = watching.gold_asker(settings, name, url or server_url(settings))
        found = watching.watch(settings, store, name, now=now(), ask_gold=ask)
        signals, new = found.signals, found.new_alerts
    else:
        signals = watching.look(settings, store, name, now=now())
    wrong = watching.problems(store.watches(name))
    value = {
        "alias": name,
        "signals": [asdict(one) for one in signals],
        "new_alerts": [one._asdict() for one in new],
        "problems": wrong,
    }
    show(value, as_json=as_json, text=lambda: table(signals, new, wrong))


def table(signals: list[Any], new: list[Any], wrong: list[str]) -> str:
    """The signals for a person, a line each."""
    lines = [
        f"{_MARKS[one.state]:<10} {one.said.partition(': ')[0]:<12} {one.said.partition(': ')[2]}"
        for one in signals
    ]
    lines += [f"new        {one.said}" for one in new]
    lines += [f"problem    {one}" for one in wrong]
    return "\n".join(lines)
