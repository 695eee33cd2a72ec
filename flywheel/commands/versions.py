"""The commands about versions: `versions`, `verify`, `sign`, `push`, `pull`, `prune`."""

from __future__ import annotations

import sys
from typing import Any

import click

from flywheel.commands.console import Context, alias_argument, json_option, show, url_option
from flywheel.commands.times import Span, SpanType

_PLACE = "PLACE is hf://owner/name, or what fsspec reads: s3://bucket/folder, file:///folder."
_version_option = click.option("--version", metavar="N", help="4, v4 or ALIAS@v4.")


class _Listing(click.Group):
    """A group whose words are an alias where they are no subcommand: `versions support`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        wants_help = args[:1] in (["--help"], ["-h"])
        if not wants_help and (not args or args[0] not in self.commands):
            args = ["list", *args]
        return super().parse_args(context, args)


@click.group(cls=_Listing)
def versions() -> None:
    """The versions of an alias: `flywheel versions [ALIAS]` lists them, `show` tells all of one."""


@versions.command("list")
@alias_argument
@json_option
@click.pass_obj
def list_(shared: Context, alias: str | None, as_json: bool) -> None:
    """List versions with parents, data, scores, verdicts and what is live."""
    from flywheel.versions import versions as look
    from flywheel.versions import versions_text

    name = shared.alias(alias)
    found = look(shared.settings, shared.store, name)
    show(found, as_json=as_json, text=lambda: versions_text(name, found))


@versions.command("show")
@click.argument("version")
@click.option("--alias", help="Where VERSION does not say it.")
@click.option("--card", "as_card", is_flag=True, help="Print its model card with its scores.")
@json_option
@click.pass_obj
def show_(shared: Context, version: str, alias: str | None, as_card: bool, as_json: bool) -> None:
    """Show all that is known of VERSION: 4, v4 or ALIAS@v4."""
    from flywheel.versions import card, show_text
    from flywheel.versions import show as look

    named = version.partition("@")[0] if "@" in version else None
    name = shared.alias(alias or named)
    if as_card:
        text = card(shared.settings, shared.store, name, version)
        show({"card": text}, as_json=as_json, text=lambda: text)
        return
    found = look(shared.settings, shared.store, name, version)
    show(found, as_json=as_json, text=lambda: show_text(found))


@click.command()
@alias_argument
@_version_option
@json_option
@click.pass_obj
def verify(shared: Context, alias: str | None, version: str | None, as_json: bool) -> None:
    """Recompute every hash of versions: files, manifest, data, base model, signature.

    Exits 1 and names each file that differs.
    """
    from ledger.deployments import Deployments
    from ledger.registry.verify import verify_alias

    names = [shared.alias(alias)] if alias or version else sorted(shared.settings.aliases)
    found = []
    for name in names:
        state = Deployments(shared.store).state(name)
        only = None if version is None else _number(version, name)
        found += verify_alias(shared.settings, shared.store, name, state, only)
    show([one._asdict() for one in found], as_json=as_json, text=lambda: _verified(found))
    if any(one.problems for one in found):
        sys.exit(1)


def _verified(found: list[Any]) -> str:
    if not found:
        return "there are no versions"
    lines = []
    for one in found:
        said = "DIFFERS" if one.problems else "ok"
        signed = "" if one.signature == "none" else f", signature {one.signature}"
        lines.append(f"{one.version}: {said}{signed}")
        lines += [f"  {problem}" for problem in one.problems]
        lines += [f"  ({note})" for note in one.notes]
    return "\n".join(lines)


@click.command()
@alias_argument
@_version_option
@json_option
@click.pass_obj
def sign(shared: Context, alias: str | None, version: str | None, as_json: bool) -> None:
    """Sign versions with signing.private_key; all that are not signed unless one is named."""
    from flywheel.rollout import operator
    from ledger.registry import Registry

    name, registry = shared.alias(alias), Registry.of(shared.settings)
    if version is None:
        wanted = [v for v in registry.versions(name) if v.pruned is None]
    else:
        wanted = [registry.get(name, _number(version, name))]
    signed = [v.name for v in wanted if registry.sign(v, shared.store, who=operator())]
    text = f"signed {', '.join(signed)}" if signed else "all were signed before"
    show({"signed": signed}, as_json=as_json, text=lambda: text)


@click.command(epilog=_PLACE)
@click.argument("alias")
@click.argument("place", required=False)
@_version_option
@click.option("--with-data", is_flag=True, help="Push what it was trained on too, sealed.")
@json_option
@click.pass_obj
def push(
    shared: Context,
    alias: str,
    place: str | None,
    version: str | None,
    with_data: bool,
    as_json: bool,
) -> None:
    """Push a version to PLACE, by default sharing.url; the live one unless another is named.

    Training data stays here unless it is asked for. What is there under its name and differs is
    never replaced.
    """
    from flywheel.rollout import operator
    from flywheel.sharing import place_of
    from flywheel.sharing import push as run

    name = shared.alias(alias)
    done = run(
        shared.settings,
        shared.store,
        place_of(shared.settings, place),
        name,
        _number(version, name) if version else _live(shared, name),
        who=operator(),
        with_data=with_data,
        say=lambda line: click.echo(line, err=True),
    )
    data = "; its training data stays here (--with-data)" if done.without_data else ""
    what = "is at" if done.new else "was there already:"
    signed = ", signed" if done.signed else ""
    text = f"{done.version} {what} {done.url}{signed}{data}"
    show(done._asdict(), as_json=as_json, text=lambda: text)


@click.command(epilog=_PLACE)
@click.argument("alias")
@click.argument("place", required=False)
@_version_option
@click.option("--as-new", is_flag=True, help="Give it the next number here.")
@json_option
@click.pass_obj
def pull(
    shared: Context,
    alias: str,
    place: str | None,
    version: str | None,
    as_new: bool,
    as_json: bool,
) -> None:
    """Pull a version from PLACE, by default sharing.url; the newest there unless one is named.

    Nothing appears here before every hash agrees. It gets no traffic: `promote` asks for the
    verdict of its gate here.
    """
    from flywheel.rollout import operator
    from flywheel.sharing import place_of
    from flywheel.sharing import pull as run

    name = shared.alias(alias)
    done = run(
        shared.settings,
        shared.store,
        place_of(shared.settings, place),
        name,
        _number(version, name) if version else None,
        who=operator(),
        as_new=as_new,
        say=lambda line: click.echo(line, err=True),
    )
    what = "came from" if done.new else "was here already, as at"
    text = f"{done.version} {what} {done.origin} (adapter id {done.lora_id})"
    show(done._asdict(), as_json=as_json, text=lambda: text)


@click.command()
@alias_argument
@click.option(
    "--older-than", type=SpanType(), required=True, help="Least time since it was turned away: 90d."
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@url_option
@json_option
@click.pass_obj
def prune(
    shared: Context,
    alias: str | None,
    older_than: Span,
    dry_run: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Let the weights of rejected versions go; manifest, card, verdict and reasons stay.

    Never touched: what is live or was, the way back, candidates, and what waits for its gate.
    """
    from flywheel.rollout import operator
    from flywheel.server import Server
    from ledger.registry import Registry
    from ledger.registry.prune import prune as run

    found: dict[str, Any] = {}
    loaded = Server.of(shared.settings, url).loaded()
    for name in [shared.alias(alias)] if alias else sorted(shared.settings.aliases):
        found[name] = run(
            Registry.of(shared.settings),
            shared.store,
            name,
            older_than=older_than.seconds,
            who=operator(),
            loaded=loaded,
            dry_run=dry_run,
        )
    value = {
        name: {"pruned": [one._asdict() for one in done.pruned], "kept": done.kept}
        for name, done in found.items()
    }
    show({"dry_run": dry_run, **value}, as_json=as_json, text=lambda: _pruned(found, dry_run))


def _pruned(found: dict[str, Any], dry_run: bool) -> str:
    lines, freed = [], 0
    for done in found.values():
        for one in done.pruned:
            freed += one.size
            lines.append(
                f"{one.version}  {one.state} {one.age / 86_400:.0f} days ago, "
                f"{one.size / 2**20:.1f} MiB: {one.why}"
            )
        lines += [f"{name}  stays: {why}" for name, why in done.kept.items()]
    verb = "would be freed" if dry_run else "freed"
    return "\n".join([*lines, f"{freed / 2**20:.1f} MiB {verb}"])


def _number(text: str, alias: str) -> int:
    from ledger.deployments import parse_version
    from ledger.errors import UsageError

    number = parse_version(text, alias)
    if number == 0:
        raise UsageError("the base model is not in the registry", remedy="Name a version: 4.")
    return number


def _live(shared: Context, alias: str) -> int:
    from ledger.deployments import Deployments
    from ledger.errors import UsageError

    live = Deployments(shared.store).state(alias).live
    if live == 0:
        raise UsageError(
            f"the base model is live for {alias}", remedy="Name a version: --version 4."
        )
    return live
