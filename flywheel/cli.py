"""The command line: one thin function a command; the work is elsewhere.

Exit codes: 0 done, 1 broken, 2 usage, 100 refused by the gate, 130 interrupted.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import click

from flywheel import __version__
from flywheel.commands.backup import backup
from flywheel.commands.clusters import clusters
from flywheel.commands.console import Context, alias_argument, json_option, show, url_option
from flywheel.commands.costs import costs
from flywheel.commands.dataset import dataset, export
from flywheel.commands.distill import distill
from flywheel.commands.drift import drift
from flywheel.commands.gate import gate
from flywheel.commands.gold import gold
from flywheel.commands.imports import import_
from flywheel.commands.loop import loop, tick, triggers
from flywheel.commands.privacy import forget, keys
from flywheel.commands.report import report
from flywheel.commands.review import review
from flywheel.commands.rollout import promote, rollback, rollout
from flywheel.commands.tag import acceptance, tag
from flywheel.commands.versions import prune, pull, push, sign, verify, versions
from flywheel.hardware import has_cuda
from ledger import clock
from ledger.errors import FlywheelError, GateRefused


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--config", "-c", metavar="FILE", help="Configuration; by default what fits here.")
@click.version_option(__version__)
@click.pass_context
def cli(context: click.Context, config: str | None) -> None:
    """Serve a model, log its answers, learn from corrections, swap in what is better."""
    context.obj = Context(config)
    if (found := clock.lapse()) is not None:
        click.echo(clock.warning(found), err=True)


def main() -> None:
    """Run a command; an error that we raise on purpose is a message, not a traceback."""
    # As Ctrl-C: whatever a command started is ended in order before it ends itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except FlywheelError as error:
        print(f"flywheel: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:  # a file that cannot be read or written, named in it
        print(f"flywheel: {error}", file=sys.stderr)
        sys.exit(1)


@cli.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--port", type=int, help="TCP port instead of serve.port.")
@click.option("--host", help="Address instead of serve.host.")
@click.argument("vllm_options", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def serve(
    shared: Context, port: int | None, host: str | None, vllm_options: tuple[str, ...]
) -> None:
    """Start vLLM with the plugin in it. Options it does not know go to vLLM as they are."""
    from flywheel.model import fetch
    from serve.launch import launch, prepare

    fetch(shared.settings, say=lambda line: click.echo(line))
    plan = prepare(
        shared.settings, shared.config, vllm_options, cuda=has_cuda(), host=host, port=port
    )
    click.echo("Flywheel serves " + "\n                ".join(plan.summary))
    click.echo(f"Starting vLLM (ready when http://…:{plan.port}/health answers) …")
    launch(plan)


@cli.command()
@alias_argument
@url_option
@click.option("--fresh", is_flag=True, help="Start anew although the last run is unfinished.")
@json_option
@click.pass_obj
def retrain(
    shared: Context, alias: str | None, url: str | None, fresh: bool, as_json: bool
) -> None:
    """Train a version on the corrections and put it before the gate; resumes what was cut off."""
    from flywheel.retrain import retrain as run

    name = shared.alias(alias)
    outcome = run(
        shared.settings,
        shared.config,
        name,
        url=url,
        fresh=fresh,
        say=lambda line: click.echo(line, err=as_json),
    )
    result = {**outcome._asdict(), "run": str(outcome.run)}
    passed = outcome.verdict == "pass"
    advice = (
        f"{outcome.version} passed. Give it traffic: flywheel promote {name} --share 5"
        if passed
        else f"{outcome.version} was refused ({outcome.verdict}); {outcome.baseline} stays live."
    )
    show(result, as_json=as_json, text=lambda: advice)
    if not passed:
        sys.exit(GateRefused.exit_code)


@cli.command()
@alias_argument
@url_option
@json_option
@click.pass_obj
def status(shared: Context, alias: str | None, url: str | None, as_json: bool) -> None:
    """Show what is live, what is tried and what waits."""
    from flywheel.status import status as look
    from flywheel.status import status_text

    settings = shared.settings
    aliases = [shared.alias(alias)] if alias else sorted(settings.aliases)
    found = look(settings, shared.store, aliases, url)
    show(found, as_json=as_json, text=lambda: status_text(found))


@cli.command()
@click.argument("row")
@click.argument("text")
@click.option("--because", default="", help="Why; recorded.")
@click.pass_obj
def correct(shared: Context, row: str, text: str, because: str) -> None:
    """Say what an answer should have been (ROW is the completion's id)."""
    from curate.judging.decisions import correct as say_right
    from flywheel.rollout import operator

    say_right(shared.store, row, text, operator().removeprefix("operator:"), because)
    click.echo(f"{row} is corrected; the next retrain learns it")


@cli.command()
@url_option
@click.option("--fetch", is_flag=True, help="Get the base model first.")
@json_option
@click.pass_obj
def doctor(shared: Context, url: str | None, fetch: bool, as_json: bool) -> None:
    """Look for what would go wrong."""
    from flywheel.doctor import examine
    from flywheel.model import fetch as get_model

    if fetch:
        get_model(shared.settings, say=lambda line: click.echo(line, err=as_json))
    found = examine(shared.settings, url)
    show(
        [finding._asdict() for finding in found],
        as_json=as_json,
        text=lambda: "\n".join(f"{f.level:<6} {f.what:<9} {_indented(f.said)}" for f in found),
    )
    if any(finding.level == "broken" for finding in found):
        sys.exit(1)


def _indented(text: str) -> str:
    return text.replace("\n", "\n" + " " * 17)


@cli.command()
@click.option("--data", type=click.Path(path_type=Path), help="Labelled CSV: text,category.")
@click.option("--gold", type=click.Path(path_type=Path), help="Gold CSV, else a fifth of --data.")
@click.option(
    "--labels",
    type=click.IntRange(2),
    default=10,
    show_default=True,
    help="Only so many categories, the most frequent ones; more need more messages.",
)
@click.option("--messages", type=click.IntRange(8), help="Users' messages, [320; loop: 220].")
@click.option("--gold-size", type=click.IntRange(10), help="Gold questions, [100; loop: 50].")
@click.option("--loop", "alone", is_flag=True, help="Nobody steers: drift, retrain, rollback.")
@json_option
@click.pass_obj
def demo(
    shared: Context,
    data: Path | None,
    gold: Path | None,
    labels: int,
    messages: int | None,
    gold_size: int | None,
    alone: bool,
    as_json: bool,
) -> None:
    """Watch the whole loop: serve, correct, retrain, gate, canary, rollback."""
    from flywheel.demo import alone as by_itself
    from flywheel.demo import play
    from ledger.files import write_json

    def say(line: str) -> None:
        click.echo(line, err=as_json)

    given = {"messages": messages, "gold_size": gold_size}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    chosen |= {"data": data, "gold": gold, "labels": labels}
    report: by_itself.AloneReport | play.Report
    if alone:
        report = by_itself.alone(shared.config, by_itself.Options(**chosen), say)
    else:
        report = play.play(shared.config, play.Options(**chosen), say)
    file = shared.settings.var / ("demo-loop" if alone else "demo") / "report.json"
    write_json(file, report.model_dump())
    show(report.model_dump(), as_json=as_json, text=lambda: f"\n{report.table()}\n\n{file}")
    if not report.sound:
        sys.exit(1)


def _choose_config(context: click.Context, _parameter: click.Parameter, file: str | None) -> None:
    if file is not None:
        context.obj = Context(file)


for _command in (
    *(
        acceptance,
        clusters,
        dataset,
        distill,
        drift,
        export,
        forget,
        gate,
        gold,
        import_,
        keys,
        promote,
        review,
        rollback,
        rollout,
        tag,
    ),
    *(versions, verify, sign, push, pull, prune),
    *(tick, loop, triggers),
    *(costs, report, backup),
):
    cli.add_command(_command)


def _take_config(command: click.Command) -> None:
    """So that it may stand behind the command too: `flywheel serve --config configs/gpu.yaml`."""
    command.params.append(
        click.Option(
            ["--config", "-c"],
            metavar="FILE",
            expose_value=False,
            callback=_choose_config,
            help="Configuration; by default what fits here.",
        )
    )
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        _take_config(below)


for _command in cli.commands.values():
    _take_config(_command)


if __name__ == "__main__":
    main()
