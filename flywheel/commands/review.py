"""The command about rows that need eyes: `flywheel review`."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from flywheel.commands.console import Context, alias_argument, json_option, show

if TYPE_CHECKING:
    from curate.judging.queue import QueueItem


@click.command()
@alias_argument
@click.option("--list", "only_list", is_flag=True, help="Show the queue and stop.")
@click.option("--limit", default=20, show_default=True, help="Most rows of --list.")
@click.option("--terminal", is_flag=True, help="Review here instead of in a browser.")
@click.option("--host", help="Address instead of curate.review.host.")
@click.option("--port", type=int, help="TCP port instead of curate.review.port.")
@click.option("--people", is_flag=True, help="List who may log in.")
@click.option("--add", metavar="NAME", help="Let somebody log in; prints their key once.")
@click.option(
    "--role",
    type=click.Choice(["viewer", "reviewer", "operator"]),
    default="reviewer",
    show_default=True,
    help="The role of --add.",
)
@click.option("--remove", metavar="NAME", help="Let somebody log in no more.")
@json_option
@click.pass_obj
def review(
    shared: Context,
    alias: str | None,
    only_list: bool,
    limit: int,
    terminal: bool,
    host: str | None,
    port: int | None,
    people: bool,
    add: str | None,
    role: str,
    remove: str | None,
    as_json: bool,
) -> None:
    """Go through the answers that need eyes, on a page in the browser."""
    if people or add or remove:
        _people(shared, add, role, remove, as_json)
        return
    name = shared.alias(alias)
    if as_json or only_list:
        from curate.judging.queue import as_json as row_as_json
        from curate.judging.queue import queue
        from curate.tagging.sweep import sweep

        sweep(shared.settings, shared.store)
        items = queue(shared.store, shared.settings, name, limit)
        found = [row_as_json(item) for item in items]
        show(found, as_json=as_json, text=lambda: _queue_text(items))
    elif terminal:
        from curate.judging.terminal import review as loop
        from curate.tagging.sweep import sweep
        from flywheel.rollout import operator

        sweep(shared.settings, shared.store)
        author = operator().removeprefix("operator:")
        done = loop(shared.store, shared.settings, name, author)
        click.echo(", ".join(f"{count} {what}" for what, count in done._asdict().items()))
    else:
        from curate.review.serving import serve
        from flywheel.rollout import operator

        who = operator().removeprefix("operator:")
        serve(
            shared.settings,
            shared.store,
            name,
            operator=who,
            say=click.echo,
            host=host,
            port=port,
        )


def _people(shared: Context, add: str | None, role: str, remove: str | None, as_json: bool) -> None:
    """Add somebody, take somebody out, or list who there is."""
    from curate.review.keys import People, Role, keys_file

    known = People(keys_file(shared.settings))
    if remove:
        known.remove(remove)
        show({"removed": remove}, as_json=as_json, text=lambda: f"{remove} may log in no more")
        return
    if add:
        key = known.add(add, cast(Role, role))
        article = "an" if role == "operator" else "a"
        show(
            {"name": add, "role": role, "key": key},
            as_json=as_json,
            text=lambda: f"{add} is {article} {role}. The key, shown this once:\n{key}",
        )
        return
    found = [{"name": one.name, "role": one.role} for one in known.all()]
    lines = [f"{one['name']:<20} {one['role']}" for one in found]
    show(found, as_json=as_json, text=lambda: "\n".join(lines) or "nobody may log in yet")


def _queue_text(items: list[QueueItem]) -> str:
    from curate.judging.terminal import render

    return "\n\n".join(map(render, items)) or "nothing waits"
