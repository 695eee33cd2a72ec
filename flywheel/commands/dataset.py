"""The commands about training data: `flywheel dataset`, `flywheel export`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flywheel.commands.console import Context, alias_argument, json_option, show

if TYPE_CHECKING:
    from ledger.store import Frozen

_SHOWN = 10  # counts of one part of a card; --json has them all
_alias_option = click.option("--alias", help="Whose datasets.")


@click.group()
def dataset() -> None:
    """Frozen datasets: what is in them, and what changed."""


@dataset.command(name="list")
@alias_argument
@json_option
@click.pass_obj
def list_datasets(shared: Context, alias: str | None, as_json: bool) -> None:
    """Show the datasets of an alias, oldest first."""
    found = shared.store.datasets(shared.alias(alias))
    show([_short(one) for one in found], as_json=as_json, text=lambda: _listed(found))


@dataset.command(name="show")
@click.argument("name", default="latest", metavar="[ID]")
@_alias_option
@json_option
@click.pass_obj
def show_dataset(shared: Context, name: str, alias: str | None, as_json: bool) -> None:
    """Show the card of a dataset: latest, previous, an id, a version or a run's folder."""
    from curate.datasets.diff import find

    one = find(shared.settings, shared.store, shared.alias(alias), name)
    show(_short(one) | {"report": one.report}, as_json=as_json, text=lambda: _card(one))


@dataset.command(name="diff")
@click.argument("a", default="previous")
@click.argument("b", default="latest")
@_alias_option
@click.option("--rows", default=10, show_default=True, help="Most row ids of each kind.")
@json_option
@click.pass_obj
def diff_datasets(
    shared: Context, a: str, b: str, alias: str | None, rows: int, as_json: bool
) -> None:
    """Show what is different in B: rows that came, went and why, changed answers."""
    from curate.datasets.diff import as_json as values
    from curate.datasets.diff import diff, find, text

    name = shared.alias(alias)
    one, other = (find(shared.settings, shared.store, name, word) for word in (a, b))
    found = diff(shared.store, one, other)
    show(values(found, rows), as_json=as_json, text=lambda: text(found, rows))


@click.command()
@alias_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["sft", "dpo", "kto"]),
    default="sft",
    show_default=True,
    help="OpenAI's chat JSONL, or preferences as TRL takes them.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@click.option("--split", type=click.Choice(["train", "heldout"]), help="Only these pairs.")
@click.option("--version", type=int, metavar="N", help="What this version was trained on instead.")
@click.pass_obj
def export(
    shared: Context,
    alias: str | None,
    form: str,
    out: Path,
    split: str | None,
    version: int | None,
) -> None:
    """Write the pairs as a training file."""
    from curate.datasets.build import prepare
    from curate.datasets.export import export as write
    from curate.datasets.export import export_version

    name = shared.alias(alias)
    if version is not None:
        count = export_version(shared.store, shared.settings, name, version, form, out=out)
        click.echo(f"{count} pairs of {name}@v{version} in {out}")
        return
    prepare(shared.settings, shared.store, name)
    pool = write(shared.store, shared.settings, name, form, out=out, split=split)
    click.echo(f"{len(pool.pairs)} pairs in {out}")
    for reason, rows in sorted(pool.left_out.items()):
        click.echo(f"  left out, {reason}: {len(rows)}")


def _short(one: Frozen) -> dict[str, Any]:
    names = ("dataset_id", "alias", "ts", "pairs", "path")
    return {name: getattr(one, name) for name in names}


def _listed(found: list[Frozen]) -> str:
    lines = []
    for one in found:
        sources = ", ".join(f"{n} {name}" for name, n in one.report.get("sources", {}).items())
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(one.ts))
        short = one.dataset_id.rpartition(":")[2][:12]
        lines.append(f"{short}  {when}  {one.pairs:>7} pairs  {sources}")
    return "\n".join(lines) or "no dataset was built yet"


def _card(one: Frozen) -> str:
    """The counts of a card, on a terminal."""
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(one.ts))
    lines = [one.dataset_id, f"{one.pairs} pairs of {one.alias}, {when}, {one.path}"]
    for part, counts in one.report.items():
        if isinstance(counts, dict) and counts:
            lines.append(part.replace("_", " "))
            lines += [f"  {count:>8}  {name}" for name, count in list(counts.items())[:_SHOWN]]
            lines += [f"  and {len(counts) - _SHOWN} more"] if len(counts) > _SHOWN else []
        elif isinstance(counts, int):
            lines.append(f"{part.replace('_', ' ')}: {counts}")
    return "\n".join(lines)
