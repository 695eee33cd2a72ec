"""The commands about tags and the acceptance policy: `flywheel tag`, `flywheel acceptance`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flywheel.commands.console import Context, alias_argument, json_option, show
from flywheel.commands.times import Moment
from ledger.clock import now

if TYPE_CHECKING:
    from curate.tagging.trial import Trial


@click.command(name="tag")
@click.argument("words", nargs=-1, metavar="[ROW TAG | ALIAS]")
@click.option("--because", default="", help="Why; recorded.")
@click.option(
    "--rule",
    "rules",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Apply the rules of a file to rows that are there.",
)
@click.option("--dry-run", is_flag=True, help="Only say what the rules would do.")
@click.option("--since", type=Moment(), help="Rows since then (7d, 12h, a date).  [default: 7d]")
@click.option(
    "--window",
    type=(Moment(), Moment()),
    metavar="FROM TO",
    help="Tag every row of a window instead: flywheel tag --window FROM TO [ALIAS] TAG.",
)
@json_option
@click.pass_obj
def tag(
    shared: Context,
    words: tuple[str, ...],
    because: str,
    rules: tuple[Path, ...],
    dry_run: bool,
    since: float | None,
    window: tuple[float, float] | None,
    as_json: bool,
) -> None:
    """Put a tag on a logged answer (ROW is the completion's id), on a window, or by rule."""
    if rules and window is not None:
        raise click.UsageError("--rule and --window are two ways to choose rows: take one")
    if not rules and (dry_run or since is not None):
        raise click.UsageError("--dry-run and --since go with --rule")
    if rules:
        _by_rule(shared, words, rules, dry_run, since, as_json)
    elif window is not None:
        _window(shared, words, window, because, as_json)
    else:
        _one(shared, words, because, as_json)


def _one(shared: Context, words: tuple[str, ...], because: str, as_json: bool) -> None:
    from curate.tagging.tags import add_tag
    from flywheel.rollout import operator

    if len(words) != 2:
        raise click.UsageError("say which answer and which tag: flywheel tag ROW TAG")
    row, name = words
    new = add_tag(shared.store, row, name, operator(), because)
    said = f"{row} is tagged {name}" if new else f"{row} had this tag from you already"
    show({"row": row, "tag": name, "new": new}, as_json=as_json, text=lambda: said)


def _window(
    shared: Context,
    words: tuple[str, ...],
    window: tuple[float, float],
    because: str,
    as_json: bool,
) -> None:
    from curate.tagging.tags import tag_window
    from flywheel.rollout import operator

    if len(words) not in (1, 2):
        raise click.UsageError("say which tag: flywheel tag --window FROM TO [ALIAS] TAG")
    alias, name = shared.alias(words[0] if len(words) == 2 else None), words[-1]
    start, end = window
    new = tag_window(shared.store, alias, start, end, name, operator(), because)
    result = {"alias": alias, "tag": name, "since": start, "until": end, "new": new}
    show(result, as_json=as_json, text=lambda: f"{new} rows of {alias} are newly tagged {name}")


def _by_rule(
    shared: Context,
    words: tuple[str, ...],
    files: tuple[Path, ...],
    dry_run: bool,
    since: float | None,
    as_json: bool,
) -> None:
    from curate.tagging.rules import load_rules
    from curate.tagging.trial import run

    if len(words) > 1:
        raise click.UsageError("with --rule only an alias can be named")
    alias = shared.alias(words[0]) if words else None
    if since is None:
        since = now() - 7 * 86_400.0
    done = run(shared.store, load_rules(files), since=since, alias=alias, dry=dry_run)
    show(
        [one._asdict() for one in done],
        as_json=as_json,
        text=lambda: "\n\n".join(_trial_text(one, dry_run) for one in done),
    )


def _trial_text(one: Trial, dry: bool) -> str:
    would = "would be " if dry else ""
    lines = [
        f"{one.rule}: {one.matched} rows match, {one.sampled} are in its sample, "
        f"{one.already} have its tag already",
        f"  {one.tagged} {would}tagged {one.tag} ({one.per_day:g} a day), "
        f"{one.queued} {would}new in the queue",
    ]
    if one.timeouts:
        lines.append(f"  its pattern took too long on {one.timeouts} rows; they were not tagged")
    if one.examples:
        lines.append(f"  such as {', '.join(one.examples)}")
    return "\n".join(lines)


@click.command()
@alias_argument
@click.option("--since", type=Moment(), help="Corrections sent since then (7d, 12h, a date).")
@json_option
@click.pass_obj
def acceptance(shared: Context, alias: str | None, since: float | None, as_json: bool) -> None:
    """Say what became of corrections, why, and whose were held back."""
    from curate.acceptance.summary import summary, text

    found = summary(shared.store, shared.alias(alias), since=since)
    show(found.as_json(), as_json=as_json, text=lambda: text(found))
