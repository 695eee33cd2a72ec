"""The command about clusters: `flywheel clusters`."""

from __future__ import annotations

from typing import Any

import click

from flywheel.commands.console import Context, alias_argument, json_option, show
from flywheel.commands.times import Span, SpanType

_WIDTH = 44


@click.command()
@alias_argument
@click.option(
    "--since", type=SpanType(), default="7d", show_default=True, help="How far back: 12h, 7d, 4w."
)
@click.option(
    "--update/--no-update",
    default=True,
    help="Take in new rows first (no: only look).",
)
@json_option
@click.pass_obj
def clusters(shared: Context, alias: str | None, since: Span, update: bool, as_json: bool) -> None:
    """What people ask: groups of questions, with their failures, corrections and pairs."""
    from curate import clusters as found
    from ledger.store import now

    name, start = shared.alias(alias), now() - since.seconds
    done = None
    if update:
        done = found.update(
            shared.settings, shared.store, name, say=lambda line: click.echo(line, err=True)
        )
    rows = found.counts(shared.store, name, since=start)
    value = {
        "alias": name,
        "since": start,
        "updated": done and {**done._asdict(), "reported": [f._asdict() for f in done.reported]},
        "clusters": [_plain(row) for row in rows],
    }
    show(value, as_json=as_json, text=lambda: table(name, since, rows, done))


def table(alias: str, since: Span, rows: list[Any], done: Any) -> str:
    """Clusters for a person, those with most failures and corrections first."""
    lines = [f"{alias}, the last {since}"]
    if done is not None:
        lines[0] += f" · {done.seen} new answers, {done.placed} looked at"
    if not rows:
        return f"{lines[0]}\nno clusters yet: there are too few questions with text"
    lines.append(
        f"{'':4}{'cluster':<{_WIDTH}}{'share':>8}{'failed':>8}{'corr.':>7}{'pairs':>7}  first seen"
    )
    for row in rows:
        number = "" if row.cluster is None else str(row.cluster)
        name = row.name if len(row.name) < _WIDTH else f"{row.name[: _WIDTH - 2]}…"
        lines.append(
            f"{number:>3} {name:<{_WIDTH}}{_percent(row.share):>8}{_percent(row.failure_rate):>8}"
            f"{row.corrections:>7}{row.pairs:>7}  {_day(row.first_seen)}"
            f"{'  not in the training data' if row.new else ''}"
        )
    for one in done.reported if done is not None else ():
        lines.append(
            f"new: {one.name} ({one.share:.0%} of recent traffic, {one.tagged} rows queued)"
        )
    return "\n".join(lines)


def _plain(row: Any) -> dict[str, Any]:
    shares = {
        name: value and value._asdict()
        for name, value in (("share", row.share), ("failure_rate", row.failure_rate))
    }
    return {**row._asdict(), **shares}


def _percent(share: Any) -> str:
    return "-" if share is None else f"{share.value:.1%}"


def _day(ts: float | None) -> str:
    from datetime import UTC, datetime

    return "-" if ts is None else f"{datetime.fromtimestamp(ts, UTC):%Y-%m-%d %H:%M}"
