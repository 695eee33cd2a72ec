"""The card of a version with what came after it was made: scores, verdict, events.

The folder's own README.md never changes. This copy is rendered for `versions show --card` and for
where it is pushed to; its header is the hub's form, scores stand in it as `model-index`
(https://huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from ledger.deployments import Deployments
from ledger.errors import RegistryError
from ledger.records import Evaluation
from ledger.registry import Version
from ledger.registry.standing import standings
from ledger.settings import Settings
from ledger.store import Store

CARD = "README.md"
_SCORES = "## Evaluation"


def rendered(settings: Settings, store: Store, version: Version, place: str | None = None) -> str:
    """The card with scores.

    Args:
        place: where it is pushed to, for the lines that say how to use it.

    Raises:
        RegistryError: the version has no card, or it is damaged.
    """
    from huggingface_hub import EvalResult, ModelCard

    file, manifest = version.path / CARD, version.manifest
    try:
        card = ModelCard(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise RegistryError(f"{file} is no model card: {error}") from error
    verdict = store.evaluations(manifest.alias).get(version.name)
    data: Any = card.data
    sharing = settings.sharing
    data.license = data.license or sharing.license
    data.language = data.language or list(sharing.languages) or None
    data.datasets = data.datasets or list(sharing.datasets) or None
    scored = list(scores(verdict))
    if verdict is not None and scored:
        data.model_name = version.name
        data.eval_results = [
            EvalResult(
                task_type="text-generation",
                dataset_type="flywheel-gate",
                dataset_name=name,
                dataset_revision=revision,
                metric_type="accuracy",
                metric_name="mean score, 0 to 1",
                metric_value=round(candidate, 6),
                verified=False,
            )
            for name, candidate, _, revision in scored
        ]
    head, _, rest = card.text.partition(_SCORES)
    _, more, after = rest.partition("\n## ")
    parts = [head.rstrip(), _evaluation(verdict, scored), _history(store, version)]
    if more:
        parts.insert(2, f"## {after.strip()}")
    if place is not None:
        parts.append(_use(version, place))
    card.text = "\n\n".join(["", *[part for part in parts if part]]) + "\n"
    return str(card)


def scores(verdict: Evaluation | None) -> Iterator[tuple[str, float, float, str | None]]:
    """Name, the candidate's score, the baseline's, and the hash of each set of a verdict."""
    if verdict is None:
        return
    report = verdict.report
    sets: Sequence[dict[str, Any]] = report.get("sets") or ()
    for one in sets:
        yield (
            f"{one['pack']}/{one['name']}",
            one["candidate"],
            one["baseline"],
            one.get("question_hash"),
        )
    if not sets and report.get("gold_candidate") is not None:
        yield "gold", report["gold_candidate"], report["gold_baseline"], report.get("gold_hash")


def _evaluation(
    verdict: Evaluation | None, scored: list[tuple[str, float, float, str | None]]
) -> str:
    if verdict is None:
        return f"{_SCORES}\n\nNot judged."
    lines = [
        _SCORES,
        "",
        f"The gate of {_when(verdict.ts)} says **{verdict.verdict}** against "
        f"`{verdict.baseline}` (run `{verdict.run_id}`).",
    ]
    lines += [f"{reason[:1].upper()}{reason[1:]}." for reason in verdict.report.get("reasons", ())]
    if scored:
        lines += ["", "| set | this version | before |", "|---|---|---|"]
        lines += [f"| {name} | {new:.1%} | {old:.1%} |" for name, new, old, _ in scored]
    return "\n".join(lines)


def _history(store: Store, version: Version) -> str:
    manifest = version.manifest
    events = Deployments(store).events(manifest.alias)
    stand = standings(
        manifest.alias, [manifest.version], events, store.evaluations(manifest.alias)
    )[manifest.version]
    lines = ["## Deployment", "", f"It is {stand.state}."]
    lines += [f"- {why}" for why in stand.why]
    lines += [
        f"- {_when(event.ts)}: {event.kind}"
        + (f" at {event.share:g} %" if event.share else "")
        + f" by {event.who}"
        + (f": {event.why}" if event.why else "")
        for event in events
        if event.version == manifest.version
    ]
    return "\n".join(lines)


def _use(version: Version, place: str) -> str:
    manifest = version.manifest
    folder = f"{manifest.alias}/v{manifest.version}"
    base, repository = manifest.base_model, place.removeprefix("hf://")
    return (
        "## Use\n\n```python\n"
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
        f'model = PeftModel.from_pretrained(base, "{repository}", subfolder="{folder}")\n'
        "```\n\n"
        f"With Flywheel: `flywheel pull {manifest.alias} {place} --version {manifest.version}`."
    )


def _when(ts: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ts))
