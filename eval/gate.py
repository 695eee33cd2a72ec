"""The gate: ask the live server as candidate and as baseline, and say pass or not.

    python -m eval.gate --config C --alias support --candidate support@v2 \\
        --baseline support@v1 --run var/runs/<id>

Exits 0 on a pass, 100 on fail and underpowered, 1 where something is broken, 2 on wrong usage.
Asks the very server that users talk to, so it also proves that the adapter is live there. How
a verdict follows from the answers is `eval.verdict`.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from eval import command, scoring
from eval import results as stored
from eval.asking import Bar, Pass, ask, concurrency, identities
from eval.client import Client
from eval.judge.ask import judged, needs_judge
from eval.packs.history import held_to, take_up
from eval.packs.plan import empty_sets, used, wanted
from eval.results import RESULTS, EvalResults, Probe, SetResults
from eval.verdict import GateReport, judge, recompute
from ledger import settings as configuration
from ledger.errors import FlywheelError, GateRefused, GoldError, ServerError, UsageError
from ledger.fingerprint import template_hash as hash_of_template
from ledger.model import model_folder
from ledger.packs import load_packs
from ledger.records import Evaluation
from ledger.settings import Settings
from ledger.store import Store, now

__all__ = ["RESULTS", "GateReport", "recompute", "run_gate"]

BOOTSTRAP_SEED = 0

_PACKAGES = ("flywheel", "numpy", "openai", "jsonschema", "regex", "pydantic")


async def run_gate(
    settings: Settings,
    alias: str,
    candidate: str,
    baseline: str,
    base_url: str,
    api_key: str,
    run_dir: Path,
    on_progress: Callable[[int, int, int], None] | None = None,
    *,
    also: Sequence[str] = (),
    template_hash: str | None = None,
    retries: int = 4,
    cache: bool = True,
    who: str = "gate",
) -> GateReport:
    """Judge a candidate; write `<run_dir>/eval_results.json` and record the verdict.

    Args:
        candidate, baseline: pinned names as served, or the base model's name for the baseline.
        on_progress: called with (answers there, answers wanted, those from earlier gates), first
            for the server's answers, then for a judge's.
        also: models to score for information, in the same pass; the base model is one where
            `gate.base` says so.
        template_hash: of the chat template that the server uses, kept with the results; None:
            that of the model's folder.
        retries: attempts after a failed request.
        cache: whether answers of earlier gates count; see `eval.asking`.
        who: who wants it, kept with packs that are asked for the first time.

    Raises:
        UsageError: candidate and baseline are one, the candidate is the base model, or a pack
            demands less than it did.
        GoldError: see `ledger.packs.load_packs` and `eval.packs.plan.empty_sets`.
        DatasetError: a dataset with past failures is damaged.
        ServerError: the server fails, or does not serve one of the models. Nothing is written.
        LedgerError: the verdict cannot be recorded.
    """
    gate, base = settings.alias(alias).gate, settings.model.name
    if candidate in (baseline, base):
        raise UsageError(
            f"candidate {candidate!r} is also the {'baseline' if candidate == baseline else 'base'}"
            f"{'' if candidate == baseline else ' model'}",
            rule="The gate compares a new adapter with what is live.",
        )
    configured = load_packs(gate)
    also = [*also, base] if gate.base else also
    models = list(dict.fromkeys([candidate, baseline, *also]))
    store = Store.open(settings)  # a ledger that cannot be written is found before minutes of work
    try:
        held = held_to(store, alias, configured)
        if not held:
            raise GoldError(
                f"{alias} has no gate pack",
                rule="A version is judged on questions with known answers.",
                remedy=f"Name a gold set under aliases.{alias}.gate.gold, or a pack under "
                "gate.packs.",
            )
        sets = empty_sets(held, gate, store=store, alias=alias, run_dir=run_dir)
        async with Client(
            base_url,
            api_key,
            concurrency=concurrency(settings, alias),
            timeout_seconds=gate.timeout_seconds,
            retries=retries,
        ) as client:
            await _require_served(client, [*models, base])
            probes = await _probe(client, sets, candidate, base, gate.probes)
            live = any(probe.differs for probe in probes)
            take_up(store, alias, held, who=who)
            asked = await ask(
                client,
                wanted(sets, models, [candidate, baseline]) if live else [],
                models,
                store=store,
                alias=alias,
                known=identities(settings, alias, models) if cache else None,
                days=gate.cache_days,
                on_progress=on_progress if live else None,
            )
        answered = [_answered(one, asked) for one in sets] if live else sets
        judge_use = None
        if live and gate.judge is not None and any(map(needs_judge, answered)):
            answered, judge_use = await judged(
                answered,
                gate.judge,
                candidate=candidate,
                baseline=baseline,
                store=store,
                alias=alias,
                days=gate.cache_days,
                on_progress=on_progress,
            )
        results = EvalResults(
            run_id=run_dir.name,
            alias=alias,
            candidate=candidate,
            baseline=baseline,
            base_model=base,
            also=[model for model in models if model not in (candidate, baseline)],
            created=now(),
            seconds=asked.seconds,
            gate=gate,
            packs=used(held),
            sets=answered,
            probes=probes,
            bootstrap_seed=BOOTSTRAP_SEED,
            packages=_versions(),
            template_hash=template_hash or _template(settings),
            asked=asked.asked,
            cached=asked.cached,
            judge=judge_use,
        )
        report = judge(results)
        results = results.model_copy(update={"report": report.model_dump(mode="json")})
        stored.save(results, run_dir, store)
        from eval.reports import write_reports  # templates and a plot: not for who only replays

        write_reports(report, results, run_dir)
        store.add_evaluation(
            Evaluation(
                run_id=report.run_id,
                ts=results.created,
                alias=alias,
                candidate=candidate,
                baseline=baseline,
                verdict=report.verdict,
                report=report.model_dump(mode="json"),
            )
        )
    finally:
        store.close()
    return report


def show(report: GateReport, folder: Path, settings: Settings) -> None:
    """Print a report with the broken answers of the run that it was made from."""
    from eval.reports import print_report

    store = Store.open(settings)
    try:
        print_report(report, stored.load(folder, store))
    finally:
        store.close()


def refusal(report: GateReport, folder: Path) -> GateRefused:
    """The error that says that a version was refused."""
    return GateRefused(
        f"{report.candidate}: {report.verdict}",
        remedy=f"Every answer that changed: {folder / 'gate.html'}",
    )


async def _require_served(client: Client, wanted: Sequence[str]) -> None:
    served = await client.models()
    missing = [name for name in dict.fromkeys(wanted) if name not in served]
    if missing:
        raise ServerError(
            f"{client.base_url} does not serve {', '.join(missing)}",
            rule=f"It serves {', '.join(served) or 'nothing'}.",
            remedy="Publish the version and wait until the server lists it in /v1/models; "
            "`flywheel status` shows what is loaded.",
        )


async def _probe(
    client: Client, sets: Sequence[SetResults], candidate: str, base: str, count: int
) -> list[Probe]:
    """Probe questions spread over the gold sets, one request at a time so that batches are alike.

    Rows of users are no probes: what is said to them would stand in the open.
    """
    questions = [question for one in sets if not one.of_users for question in one.questions]
    count = min(count, len(questions))
    probes = []
    for question in (questions[i * len(questions) // count] for i in range(count)):
        probes.append(
            Probe(
                question=question.id,
                base=await client.probe(base, question.messages),
                candidate=await client.probe(candidate, question.messages),
                base_again=await client.probe(base, question.messages),
            )
        )
    return probes


def _answered(one: SetResults, asked: Pass) -> SetResults:
    """A set with its answers, and what its checks say of them."""
    answers: dict[str, dict[str, Any]] = {}
    for model, given in asked.answers.items():
        own = {q.id: said for q in one.questions if (said := given.get(f"{one.key}/{q.id}"))}
        if own:
            answers[model] = own
    filled = one.model_copy(update={"answers": answers})
    return filled.model_copy(update={"checks": scoring.outcomes(filled)})


def _template(settings: Settings) -> str | None:
    try:
        return hash_of_template(model_folder(settings))
    except FlywheelError:
        return None  # the model is on another machine


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # run from a checkout that is not installed
    return found


def server_key(settings: Settings) -> str:
    """A key that the configured server accepts; any text where it asks for none."""
    return next(iter(configuration.api_keys(settings.serve)), "none")


def server_url(settings: Settings) -> str:
    """The API of the configured server, as seen from its own machine."""
    host = settings.serve.host
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.serve.port}/v1"


@click.command(help="Judge a version on the gold questions of an alias.")
@click.option("--config", required=True, envvar=configuration.CONFIG_VARIABLE, help="YAML file")
@click.option("--alias", required=True, help="the name that clients ask for")
@click.option("--candidate", required=True, help="the new version, as served: support@v2")
@click.option("--baseline", required=True, help="what it would replace: support@v1, or the base")
@click.option("--base-url", help="the server's API; by default the one that `serve:` describes")
@click.option("--run", "run_dir", required=True, type=click.Path(path_type=Path), help="folder")
@click.option("--also", multiple=True, help="a model to score for information; may be repeated")
@click.option("--no-cache", is_flag=True, help="ask again what earlier gates asked")
@click.option("--template-hash", help="of the server's chat template, kept with the results")
@click.option("--teacher", is_flag=True, help="ask the teacher too, for information")
def _command(
    config: str,
    alias: str,
    candidate: str,
    baseline: str,
    base_url: str | None,
    run_dir: Path,
    also: tuple[str, ...],
    template_hash: str | None,
    no_cache: bool,
    teacher: bool,
) -> None:
    settings = configuration.load(config)
    console = Console(stderr=True)
    with Bar(console) as progress:
        report = asyncio.run(
            run_gate(
                settings,
                alias,
                candidate,
                baseline,
                base_url or server_url(settings),
                server_key(settings),
                run_dir,
                progress.update,
                also=also,
                template_hash=template_hash,
                cache=not no_cache,
            )
        )
    show(report, run_dir, settings)
    if teacher:
        _show_teacher(settings, alias, run_dir, console)
    if not report.passed:
        raise refusal(report, run_dir)


def _show_teacher(settings: Settings, alias: str, run_dir: Path, console: Console) -> None:
    """Ask the teacher what was asked here. The verdict is there; a teacher that is away is told."""
    from eval.teacher import run_teacher, text

    try:
        with Bar(console, "teacher") as progress:
            click.echo(text(run_teacher(settings, alias, run_dir, progress.update)))
    except FlywheelError as error:
        click.echo(f"teacher: {error}", err=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return command.run(_command, "gate", arguments)


if __name__ == "__main__":
    sys.exit(main())
