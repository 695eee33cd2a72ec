"""The commands about gold sets: `flywheel gold import`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flywheel.commands.console import Context, json_option, show

if TYPE_CHECKING:
    from eval.goldimport import Imported

_SHOWN = 20  # left out questions on the terminal; --json has all


@click.group()
def gold() -> None:
    """Gold sets: questions with known answers that judge each version."""


@gold.command(name="import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--from",
    "form",
    required=True,
    type=click.Choice(["promptfoo", "inspect", "openai-evals"]),
    help="The tool that it is written for.",
)
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), help="The gold set, JSONL.")
@click.option(
    "--check",
    type=click.Choice(["exact", "normalised", "contains", "icontains", "starts"]),
    default="normalised",
    show_default=True,
    help="How an answer is compared with a target, where the file does not say.",
)
@click.option("--prompt", help="Template of the user's message: '{{question}}'.")
@click.option("--target", help="Template of the right answer: '{{label}}'.")
@click.option("--system", help="System message for conversations that have none.")
@click.option("--slice", "slice_", metavar="FIELD", help="Field that is the question's slice.")
@click.option("--max-tokens", type=click.IntRange(1), help="Longest answer to each question.")
@click.option("--prefix", help="Of the ids that are made up; by default the file's name.")
@click.option("--replace", is_flag=True, help="Although the gold set is there already.")
@click.option("--dry-run", is_flag=True, help="Read the file and write nothing.")
@json_option
@click.pass_obj
def import_gold(
    shared: Context,
    file: Path,
    form: str,
    to: Path | None,
    check: str,
    prompt: str | None,
    target: str | None,
    system: str | None,
    slice_: str | None,
    max_tokens: int | None,
    prefix: str | None,
    replace: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a gold set of what another tool asks; exits 1 where not all could be carried over."""
    from eval.goldimport import Options
    from eval.goldimport import import_gold as run

    if to is None and not dry_run:
        raise click.UsageError("name the gold set: --to configs/gold/NAME.jsonl, or --dry-run")
    options = Options(
        check=check,  # type: ignore[arg-type]
        prompt=prompt,
        target=target,
        system=system,
        slice=slice_,
        max_tokens=max_tokens,
        prefix=prefix,
    )
    written = None if dry_run else to
    made = run(file, form, written, options=options, replace=replace)
    result = {**made.as_json(), "file": str(written) if written and made.questions else None}
    show(result, as_json=as_json, text=lambda: _text(made, written))
    if made.left_out:
        sys.exit(1)


def _text(made: Imported, written: Path | None) -> str:
    where = f" to {written}" if written and made.questions else " (nothing is written)"
    lines = [f"{len(made.questions)} question(s) carried over{where}"]
    if made.left_out:
        lines.append(f"{len(made.left_out)} left out:")
        reasons = Counter(one.reason for one in made.left_out).most_common()
        lines += [f"  {count:>5}  {reason}" for reason, count in reasons[:_SHOWN]]
        lines.append("  first of them:")
        lines += [f"    {one.where}: {one.reason}" for one in made.left_out[:_SHOWN]]
        if (more := len(made.left_out) - _SHOWN) > 0:
            lines.append(f"    and {more} more; --json lists them all")
    lines += [
        f"lost in all, without bearing on what is right: {k} ({n})" for k, n in made.notes.items()
    ]
    return "\n".join(lines)
