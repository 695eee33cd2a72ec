"""What one gate asks: each set with its questions and how they are sampled, before any answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.asking import Wanted
from eval.client import SEED, Sampling
from eval.packs.failures import failures
from eval.packs.history import Held
from eval.results import PackUsed, SetResults, question_hash
from eval.scoring import is_judged
from ledger.errors import GoldError
from ledger.packs import FailureSet, PackSet
from ledger.settings.gate import Gate
from ledger.store import Store


def used(held: Sequence[Held]) -> list[PackUsed]:
    """The packs, as results name them."""
    return [
        PackUsed(
            name=one.loaded.pack.name,
            pack_hash=one.loaded.pack_hash,
            description=one.loaded.pack.description,
            origin=one.origin,
        )
        for one in held
    ]


def empty_sets(
    held: Sequence[Held], gate: Gate, *, store: Store, alias: str, run_dir: Path | None
) -> list[SetResults]:
    """The sets of all packs with their questions, without answers.

    Raises:
        GoldError: no set has questions of its own, none is required, or a judge is needed and
            none is configured.
        DatasetError: see `eval.packs.failures`.
    """
    found = []
    for one in held:
        for rules in one.loaded.pack.sets:
            users: dict[str, str] = {}
            left_out = 0
            if isinstance(rules, FailureSet):
                questions, users, left_out = failures(
                    store, alias, rules, run_dir=run_dir, judged=gate.judge is not None
                )
            else:
                questions = one.loaded.questions[rules.name]
            found.append(
                SetResults(
                    pack=one.loaded.pack.name,
                    name=rules.name,
                    rules=rules,
                    sampling=_sampling(rules, gate),
                    questions=questions,
                    question_hash=question_hash(questions, of_users=isinstance(rules, FailureSet)),
                    answers={},
                    users=users,
                    left_out=left_out,
                )
            )
    if not any(one.questions and not one.of_users for one in found):
        raise GoldError(
            f"no gate pack of {alias} has questions of its own",
            rule="A version is judged on questions with known answers.",
            remedy="Name a gold set under gate.gold, or in a pack.",
        )
    if not any(one.questions and one.rules.role == "required" for one in found):
        raise GoldError(
            f"no set of {alias}'s gate packs is required, or those that are have no questions yet",
            rule="A version takes traffic where it was shown to lose no more than is accepted.",
            remedy="Give one set `role: required`.",
        )
    judged = [one.key for one in found for q in one.questions[:1] if is_judged(one, q)]
    if judged and gate.judge is None:
        raise GoldError(
            f"{', '.join(judged)}: a judge compares the answers, and there is none",
            remedy="Name a model under gate.judge.",
        )
    return found


def wanted(
    sets: Sequence[SetResults], models: Sequence[str], compared: Sequence[str]
) -> list[Wanted]:
    """The questions of all sets as they are put to the models.

    Args:
        compared: candidate and baseline; what needs a judge is put to no other model.
    """
    found = []
    for one in sets:
        asked = compared if any(is_judged(one, question) for question in one.questions) else models
        found += [
            Wanted(
                id=f"{one.key}/{question.id}",
                messages=question.messages,
                max_tokens=question.max_tokens or int(one.sampling["max_tokens"]),
                tools=question.tools,
                chat_template_kwargs=question.chat_template_kwargs,
                row_id=question.id if one.of_users else None,
                samples=int(one.sampling["samples"]),
                sampling=Sampling(temperature=one.sampling["temperature"], seed=SEED),
                models=asked,
            )
            for question in one.questions
        ]
    return found


def _sampling(rules: PackSet, gate: Gate) -> dict[str, float]:
    temperature = gate.temperature if rules.temperature is None else rules.temperature
    # Greedy answers are all the same: one is enough.
    samples = (rules.samples or gate.samples) if temperature > 0 else 1
    return {
        "temperature": temperature,
        "seed": SEED,
        "samples": samples,
        "max_tokens": rules.max_tokens or gate.max_tokens,
    }
