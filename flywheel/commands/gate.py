"""The gate by hand: `flywheel gate`, `flywheel gate --replay RUN`, `flywheel gate packs`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flywheel.commands.console import Context, alias_argument, json_option, show, url_option
from ledger.deployments import Deployments, parse_version, version_name
from ledger.errors import GateRefused, UsageError

if TYPE_CHECKING:
    from eval.verdict import GateReport
    from ledger.store import Store

#: How the folder of a gate by hand is named, with the alias before `-gate`.
NAME = "%Y-%m-%d_%Hh%Mm%Ss"

alias_option = click.option("--alias", metavar="ALIAS", help="The alias, where there are several.")
because_option = click.option("--because", default="", help="Why; recorded, and needed.")


class _Gate(click.Group):
    """A group whose first word may be an alias instead of a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["--alias", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Gate, invoke_without_command=True, subcommand_metavar="[ALIAS] | packs …")
@alias_option
@click.option("--version", metavar="N", help="The version to judge; by default the candidate.")
@click.option("--baseline", metavar="N", help="What it would replace; by default what is live.")
@url_option
@click.option("--also", multiple=True, metavar="MODEL", help="Scored for information; repeatable.")
@click.option("--no-cache", is_flag=True, help="Ask again what earlier gates asked.")
@click.option("--replay", metavar="RUN", help="Judge a run again from its file, with no model.")
@json_option
@click.pass_context
def gate(
    context: click.Context,
    alias: str | None,
    version: str | None,
    baseline: str | None,
    url: str | None,
    also: tuple[str, ...],
    no_cache: bool,
    replay: str | None,
    as_json: bool,
) -> None:
    """Put a version before its gate by hand, or a stored run once more.

    A version is asked on the live server, as in a retrain; the verdict is recorded and holds from
    then on. Exits 0 on a pass, 100 on a refusal.
    """
    if context.invoked_subcommand is not None:
        return
    shared: Context = context.obj
    if replay is not None:
        _replay(shared, replay, as_json)
        return
    _judge(shared, shared.alias(alias), version, baseline, url, also, no_cache, as_json)


def _judge(
    shared: Context,
    alias: str,
    version: str | None,
    baseline: str | None,
    url: str | None,
    also: tuple[str, ...],
    no_cache: bool,
    as_json: bool,
) -> None:
    import asyncio

    from rich.console import Console

    from eval.asking import Bar
    from eval.gate import run_gate, server_key, server_url
    from eval.gate import show as print_out
    from flywheel.rollout import operator

    settings = shared.settings
    state, base = Deployments(shared.store).state(alias), settings.model.name
    number = state.candidate if version is None else parse_version(version, alias)
    if number is None:
        raise UsageError(
            f"{alias} has no candidate", remedy=f"Name a version: flywheel gate {alias} --version N"
        )
    old = state.live if baseline is None else parse_version(baseline, alias)
    folder = settings.runs / f"{time.strftime(NAME, time.gmtime())}-{alias}-gate"
    with Bar(Console(stderr=True)) as progress:
        report = asyncio.run(
            run_gate(
                settings,
                alias,
                version_name(alias, number, base),
                version_name(alias, old, base),
                url or server_url(settings),
                server_key(settings),
                folder,
                progress.update,
                also=also,
                cache=not no_cache,
                who=operator(),
            )
        )
    if as_json:
        show(report.model_dump(mode="json"), as_json=True, text=str)
    else:
        print_out(report, folder, settings)
    _end(report, folder)


def _replay(shared: Context, run: str, as_json: bool) -> None:
    from eval.replay import replay
    from eval.reports import print_report, write_reports

    folder = Path(run) if Path(run).is_dir() else shared.settings.runs / run
    done = replay(folder, shared.store)
    write_reports(done.report, done.results, folder)
    if as_json:
        show(done.as_json(), as_json=True, text=str)
    else:
        print_report(done.report, done.results)
    for note in done.notes():
        print(f"gate: {note}", file=sys.stderr)
    _end(done.report, folder)


def _end(report: GateReport, folder: Path) -> None:
    if not report.passed:
        raise GateRefused(
            f"{report.candidate}: {report.verdict}",
            remedy=f"Every answer that changed: {folder}/gate.html",
        )


@gate.group()
def packs() -> None:
    """The gate packs of an alias: which bind, and letting them demand less."""


@packs.command("list")
@alias_argument
@json_option
@click.pass_obj
def list_packs(shared: Context, alias: str | None, as_json: bool) -> None:
    """List the packs that gate the next version, and all that happened to them."""
    name = shared.alias(alias)
    found = _packs(shared, name)
    show(found, as_json=as_json, text=lambda: _packs_text(name, found))


@packs.command()
@click.argument("name")
@alias_option
@because_option
@click.pass_obj
def accept(shared: Context, name: str, alias: str | None, because: str) -> None:
    """Let a pack demand less than it did, as the configuration has it now."""
    from eval.packs.history import accept as accept_pack
    from flywheel.rollout import operator
    from ledger.packs import load_packs

    of = shared.alias(alias)
    configured = load_packs(shared.settings.alias(of).gate)
    lines = accept_pack(shared.store, of, configured, name, who=operator(), why=because)
    click.echo(f"{name} of {of} demands less from now on:")
    for line in lines:
        click.echo(f"  {line}")


@packs.command()
@click.argument("name")
@alias_option
@because_option
@click.pass_obj
def remove(shared: Context, name: str, alias: str | None, because: str) -> None:
    """Let a pack go that the configuration has no more."""
    from eval.packs.history import remove as remove_pack
    from flywheel.rollout import operator
    from ledger.packs import load_packs

    of = shared.alias(alias)
    configured = load_packs(shared.settings.alias(of).gate)
    remove_pack(shared.store, of, configured, name, who=operator(), why=because)
    click.echo(f"{name} gates no version of {of} any more")


def _packs(shared: Context, alias: str) -> dict[str, Any]:
    from eval.packs.strictness import loosened
    from ledger.packs import LoadedPack, load_packs

    store: Store = shared.store
    configured = load_packs(shared.settings.alias(alias).gate)
    binding = store.binding_packs(alias)
    names = {one.pack.name for one in configured}
    gating = []
    for one in configured:
        event = binding.get(one.pack.name)
        less = loosened(LoadedPack.of_content(event.content), one) if event else []
        gating.append(_one(one, "configured", event is not None, less))
    gating += [
        _one(LoadedPack.of_content(event.content), "recorded", True, [])
        for name, event in binding.items()
        if name not in names
    ]
    events = [
        {key: value for key, value in event._asdict().items() if key != "content"}
        for event in store.pack_events(alias)
    ]
    return {"alias": alias, "packs": gating, "events": events}


def _one(loaded: Any, origin: str, binds: bool, less: list[str]) -> dict[str, Any]:
    return {
        "name": loaded.pack.name,
        "hash": loaded.pack_hash,
        "origin": origin,
        "binds": binds,
        "demands_less": less,
        "sets": [
            {"name": one.name, "kind": one.kind, "role": one.role, "margin": one.margin}
            | {"questions": len(loaded.questions.get(one.name, ()))}
            for one in loaded.pack.sets
        ],
    }


def _packs_text(alias: str, found: dict[str, Any]) -> str:
    lines = [] if found["packs"] else [f"{alias} has no gate pack"]
    for one in found["packs"]:
        where = "" if one["origin"] == "configured" else ", from the record"
        lines.append(f"{one['name']}{' binds' if one['binds'] else ''}{where}")
        for part in one["sets"]:
            questions = "" if part["kind"] == "failures" else f"{part['questions']} questions, "
            margin = "" if part["margin"] is None else f"margin {100 * part['margin']:g} points"
            lines.append(f"  {part['name']:<20} {part['role']:<12} {questions}{margin}")
        lines += [f"  ! {line}" for line in one["demands_less"]]
    for event in found["events"]:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(event["ts"]))
        why = f": {event['why']}" if event["why"] else ""
        lines.append(f"{when} {event['name']} {event['action']} by {event['who']}{why}")
    return "\n".join(lines)
