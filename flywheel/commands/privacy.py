"""The commands about people and keys: `flywheel forget`, `flywheel keys`."""

from __future__ import annotations

import click

from flywheel.commands.console import Context, json_option, show


@click.command()
@click.option("--user", metavar="ID", help="The user, as the client sent it.")
@click.option("--subject", metavar="HASH", help="The user's hash, as rows carry it.")
@click.option("--because", default="", help="Why; recorded.")
@json_option
@click.pass_obj
def forget(
    shared: Context, user: str | None, subject: str | None, because: str, as_json: bool
) -> None:
    """Make everything a person typed unreadable, and take it out of the training data."""
    from flywheel.forget import forget as run
    from flywheel.forget import subject_of, text
    from flywheel.rollout import operator

    meant = subject_of(shared.settings, user, subject)
    outcome = run(shared.settings, shared.store, meant, who=operator(), why=because)
    show(outcome._asdict(), as_json=as_json, text=lambda: text(outcome))


@click.group()
def keys() -> None:
    """The master key that all text is sealed under."""


@keys.command(name="show")
@json_option
@click.pass_obj
def show_keys(shared: Context, as_json: bool) -> None:
    """Say which master key is in use (its id, never the key)."""
    from flywheel.keys import describe, described

    found = describe(shared.settings, shared.store)
    show(found, as_json=as_json, text=lambda: described(found))


@keys.command()
@click.option("--keep-old", is_flag=True, help="Leave the old key in the key file.")
@json_option
@click.pass_obj
def rotate(shared: Context, keep_old: bool, as_json: bool) -> None:
    """Wrap all keys with a new master key; text itself is not touched."""
    from flywheel.keys import rotate as run
    from flywheel.rollout import operator

    done = run(shared.settings, shared.store, who=operator(), keep_old=keep_old)
    show(done._asdict(), as_json=as_json, text=lambda: done.text())
