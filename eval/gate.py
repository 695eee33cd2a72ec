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

from eval.asking import Bar, Wanted, ask, concurrency, identities
from eval.client import SEED, Client
from eval.report import print_report
from eval.verdict import CheckOutcome, EvalResults, GateReport, Probe, judge, recompute
from ledger import checking
from ledger import settings as configuration
from ledger.errors import FlywheelError, GateRefused, ServerError, UsageError
from ledger.files import read_json, write_json
from ledger.gold import GoldQuestion, gold_hash, load_gold
from ledger.records import Evaluation
from ledger.settings import Settings
from ledger.store import Store, now

__all__ = ["RESULTS", "GateReport", "recompute", "run_gate"]

RESULTS = "eval_results.json"
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
) -> GateReport:
    """Judge a candidate; write `<run_dir>/eval_results.json` and record the verdict.

    Args:
        candidate, baseline: pinned names as served, or the base model's name for the baseline.
        on_progress: called with (answers there, answers wanted, those from earlier gates).
        also: models to score for information, in the same pass.
        template_hash: of the chat template that the server uses, kept with the results.
        retries: attempts after a failed request.
        cache: whether answers of earlier gates count; see `eval.asking`.

    Raises:
        UsageError: candidate and baseline are one, or the candidate is the base model.
        GoldError: see `ledger.gold.load_gold`.
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
    questions = load_gold(gate.gold)
    models = list(dict.fromkeys([candidate, baseline, *also]))
    store = Store.open(settings)  # a ledger that cannot be written is found before minutes of work
    try:
        async with Client(
            base_url,
            api_key,
            concurrency=concurrency(settings, alias),
            timeout_seconds=gate.timeout_seconds,
            retries=retries,
        ) as client:
            await _require_served(client, [*models, base])
            probes = await _probe(client, questions, candidate, base, gate.probes)
            live = any(probe.differs for probe in probes)
            asked = await ask(
                client,
                _wanted(questions, gate.max_tokens) if live else [],
                models,
                store=store,
                alias=alias,
                known=identities(settings, alias, models) if cache else None,
                days=gate.cache_days,
                on_progress=on_progress,
            )
        by_model = {
            model: {name: samples[0] for name, samples in given.items()}
            for model, given in asked.answers.items()
        }
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
            gold_hash=gold_hash(questions),
            questions=questions,
            probes=probes,
            answers=by_model,
            checks=_outcomes(questions, by_model),
            sampling={"temperature": 0, "seed": SEED, "max_tokens": gate.max_tokens},
            bootstrap_seed=BOOTSTRAP_SEED,
            packages=_versions(),
            template_hash=template_hash,
        )
        report = judge(results)
        stored = results.model_copy(update={"report": report.model_dump(mode="json")})
        write_json(run_dir / RESULTS, stored.model_dump(mode="json"))
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
    client: Client, questions: Sequence[GoldQuestion], candidate: str, base: str, count: int
) -> list[Probe]:
    """Probe questions spread over the set, one request at a time so that batches are alike."""
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


def _wanted(questions: Sequence[GoldQuestion], max_tokens: int) -> list[Wanted]:
    return [Wanted(q.id, q.messages, q.max_tokens or max_tokens, q.tools) for q in questions]


def _outcomes(
    questions: Sequence[GoldQuestion], answers: dict[str, dict[str, Any]]
) -> dict[str, dict[str, list[CheckOutcome]]]:
    return {
        model: {
            q.id: [
                CheckOutcome(passed=check.passed, reason=check.reason)
                for check in checking.score(q, given[q.id].text).checks
            ]
            for q in questions
            if q.id in given
        }
        for model, given in answers.items()
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # run from a checkout that is not installed
    return found


def _key(settings: Settings) -> str:
    return next(iter(configuration.api_keys(settings.serve)), "none")


def _url(settings: Settings) -> str:
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
                base_url or _url(settings),
                _key(settings),
                run_dir,
                progress.update,
                also=also,
                template_hash=template_hash,
                cache=not no_cache,
            )
        )
    print_report(report, EvalResults.model_validate(read_json(run_dir / RESULTS)))
    if not report.passed:
        raise GateRefused(
            f"{report.candidate}: {report.verdict}", remedy=f"All answers: {run_dir / RESULTS}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        _command(arguments, prog_name="python -m eval.gate", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except FlywheelError as error:
        print(f"gate: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
