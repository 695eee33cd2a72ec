"""What a retrain spent on training and on its gate, written into the ledger once each.

A training takes every GPU that it runs on, so its seconds count once a process. A gate shares
the box with users: its seconds are counted whole, which is the most that it can have taken.
"""

from __future__ import annotations

from pathlib import Path

from eval.results import EvalResults, load
from ledger import pricing
from ledger.files import read_json
from ledger.settings import Settings
from ledger.store import Spent, SpentOn, Store

_TRAINED = "train.json"


def record_training(
    settings: Settings, store: Store, alias: str, version: str, run: Path
) -> Spent | None:
    """Write down what the training of a version took; None where that was done before."""
    model = settings.model.name
    if SpentOn("training", model, version) in store.spending_by_version(alias):
        return None
    found = read_json(run / _TRAINED)
    processes = found["hardware"].get("processes") or 1
    seconds = float(found["seconds"]) * processes
    spent = Spent(1, int(found["tokens"]), 0, pricing.of_box(settings, seconds), seconds)
    store.add_spending(alias, "training", model, spent, version=version)
    return spent


def record_gate(
    settings: Settings, store: Store, alias: str, version: str, run: Path
) -> Spent | None:
    """Write down what the gate of a run took; None where that was done before."""
    results, model = load(run, store), settings.model.name
    since = store.spending_by_version(alias, since=results.created)
    if SpentOn("gate", model, version) in since:
        return None
    new = [
        answer
        for one in results.sets
        for given in one.answers.values()
        for samples in given.values()
        for answer in samples
        if not answer.cached
    ]
    spent = Spent(
        len(new),
        sum(answer.prompt_tokens for answer in new),
        sum(answer.completion_tokens for answer in new),
        pricing.of_box(settings, results.seconds),
        results.seconds,
    )
    store.add_spending(alias, "gate", model, spent, version=version)
    return spent


def usage(results: EvalResults, model: str) -> pricing.Use:
    """What a model's answers in a gate took.

    The box was busy for the whole pass with all that was asked in it, so a token took the seconds
    of the pass over its tokens; answers kept from earlier gates count at the same rate.
    """
    mine = asked = said = everybody = 0
    for one in results.sets:
        for name, given in one.answers.items():
            for samples in given.values():
                for answer in samples:
                    tokens = answer.prompt_tokens + answer.completion_tokens
                    everybody += 0 if answer.cached else tokens
                    if name == model:
                        mine += 1
                        asked += answer.prompt_tokens
                        said += answer.completion_tokens
    seconds = results.seconds / everybody * (asked + said) if everybody else None
    return pricing.Use(mine, asked, said, seconds)
