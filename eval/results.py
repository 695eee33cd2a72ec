"""What a gate asked and was told: the content of `eval_results.json`.

Everything that a verdict follows from, so that `eval.verdict.judge` needs no model and no server.
Questions of gold sets stand in it as they are, not redacted, for a check could not be repeated on
anything else. Questions that are stored rows, and all that was said to them, stand in it sealed
with the keys of their users (`ledger.store.lines`): who is forgotten is forgotten here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.client import Answer, TokenLogprob
from ledger.errors import RecordError
from ledger.files import read_json, write_json
from ledger.gold import GoldQuestion, gold_hash
from ledger.hashing import content_hash
from ledger.packs import FailureSet, LoadedPack, Pack, PackSet
from ledger.settings import Gate
from ledger.store import Line, Store

RESULTS = "eval_results.json"

#: The kind of file that lines are sealed for.
KIND = "eval"

#: Logprobs closer than this are taken for equal, nats.
SAME_NATS = 1e-3


class Stored(BaseModel):
    """Base of everything in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Probe(Stored):
    """The first tokens of three answers to one question, asked one after the other."""

    question: str
    base: list[TokenLogprob]
    candidate: list[TokenLogprob]
    base_again: list[TokenLogprob]

    @property
    def differs(self) -> bool:
        """Whether the candidate differs from the base by more than the base from itself.

        A server that batches and caches does not compute the same prompt alike twice.
        """
        noise = _distance(self.base, self.base_again)
        return _distance(self.base, self.candidate) > max(SAME_NATS, 2 * noise)


class CheckOutcome(Stored):
    """The result of one check; `reason` is "" where it passed."""

    passed: bool
    reason: str


Preferred = Literal["candidate", "baseline", "tie"]


class Judgement(Stored):
    """What a judge said of one sample of a question, asked in both orders.

    `candidate_first` and `baseline_first` are its words as they came; `preferred` follows from
    them and is derived again by every replay.
    """

    question: str
    sample: int
    candidate_first: str
    baseline_first: str
    preferred: Preferred


class Calibration(Stored):
    """What a judge said of a pair of answers of which people said which is better."""

    question: str
    pair: int
    human: Literal["a", "b", "tie"]
    a_first: str
    b_first: str
    judged: Literal["a", "b", "tie"]


class JudgeUse(Stored):
    """Which model judged, and what it took. `cost` is None where no price is set."""

    model: str
    calls: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


class SetResults(Stored):
    """One set: its rules, what was asked, and what was said.

    Attributes:
        pack, name: together they name it.
        rules: the set as its pack says it, with the margin that held.
        sampling: `temperature`, `seed`, `samples`, `max_tokens`; sample i has the seed plus i.
        questions: of a set of failures the id is the row's, the slice its cluster's name.
        question_hash: of gold sets over the questions; of failures over the rows' ids.
        users: the subject who wrote the correction, by row; such rows are sealed with both keys.
        answers: by model, then by question, one a sample.
        checks: of each answer, in the same order; there to be read: verdicts are derived from
            the answers' texts.
        left_out: rows of a set of failures that only a judge could score, and there is none.
        forgotten: questions of the file that nobody can read any more.
    """

    pack: str
    name: str
    rules: PackSet
    sampling: dict[str, float]
    questions: list[GoldQuestion]
    question_hash: str
    answers: dict[str, dict[str, list[Answer]]]
    checks: dict[str, dict[str, list[list[CheckOutcome]]]] = Field(default_factory=dict)
    judgements: list[Judgement] = Field(default_factory=list)
    calibrations: list[Calibration] = Field(default_factory=list)
    users: dict[str, str] = Field(default_factory=dict)
    left_out: int = 0
    forgotten: int = 0

    @property
    def key(self) -> str:
        """`pack/set`."""
        return f"{self.pack}/{self.name}"

    @property
    def of_users(self) -> bool:
        """Whether its questions are stored rows."""
        return isinstance(self.rules, FailureSet)


class PackUsed(Stored):
    """A pack that was part of a gate.

    Attributes:
        origin: `configured`, or `recorded` where it is held to although the configuration has it
            no more.
    """

    name: str
    pack_hash: str
    description: str
    origin: Literal["configured", "recorded"]


class EvalResults(Stored):
    """All that a verdict follows from, and under which conditions it was asked."""

    format: Literal[2] = 2
    run_id: str
    alias: str
    candidate: str
    baseline: str
    base_model: str
    also: list[str] = Field(default_factory=list)
    created: float = Field(description="seconds since the epoch, UTC")
    seconds: float = Field(description="spent asking")
    gate: Gate
    packs: list[PackUsed]
    sets: list[SetResults]
    probes: list[Probe]
    bootstrap_seed: int
    packages: dict[str, str]
    template_hash: str | None = None
    asked: int = Field(0, description="answers given now")
    cached: int = Field(0, description="answers that earlier gates had")
    judge: JudgeUse | None = None
    report: dict[str, Any] | None = Field(None, description="the `GateReport` of that time")


def question_hash(questions: list[GoldQuestion], *, of_users: bool) -> str:
    """What `SetResults.question_hash` holds."""
    if of_users:
        return content_hash("rows", sorted(question.id for question in questions))
    return gold_hash(questions)


def save(results: EvalResults, folder: Path, store: Store) -> None:
    """Write `eval_results.json`; questions that are stored rows are sealed."""
    written = results.model_dump(mode="json")
    for one, content in zip(results.sets, written["sets"], strict=True):
        if one.of_users:
            content["lines"] = store.sealed_lines(_lines(one, content), KIND)
            content["questions"], content["answers"] = [], {}
            content["checks"], content["judgements"], content["users"] = {}, [], {}
    write_json(folder / RESULTS, written)


def load(folder: Path, store: Store) -> EvalResults:
    """Read a run's `eval_results.json`.

    Raises:
        RecordError: there is none, or it is damaged, see `parse`.
    """
    try:
        return parse(read_json(folder / RESULTS), store)
    except FileNotFoundError:
        raise RecordError(
            f"{folder} has no {RESULTS}",
            rule="It is written when a gate is through.",
            remedy="Name the folder of a run, such as the last one in var/runs.",
        ) from None
    except ValueError as error:
        raise RecordError(str(error)) from error


def parse(content: Mapping[str, Any], store: Store | None = None) -> EvalResults:
    """Results from the content of the file. What cannot be read any more is counted.

    Args:
        store: opens sealed lines; None where there are none.

    Raises:
        RecordError: it is not such a file, or its questions were changed.
    """
    version = content.get("format")
    if version == 1:
        raise RecordError(
            "these results have the format 1, this version reads 2",
            field="format",
            remedy="Judge the version again: `flywheel gate --version N`.",
        )
    told = dict(content)
    try:
        told["sets"] = [_opened(dict(one), store) for one in content.get("sets", ())]
        results = EvalResults.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RecordError(
            f"not the results of a gate: {field}: {first['msg']}", field=field
        ) from error
    for one in results.sets:
        if one.forgotten:
            continue  # their ids are in the hash
        found = question_hash(one.questions, of_users=one.of_users)
        if found != one.question_hash:
            raise RecordError(
                f"the questions of {one.key} have the hash {found}, the file says "
                f"{one.question_hash}",
                field="question_hash",
                rule="Results belong to the questions that were asked.",
            )
    _check_packs(results)
    return results


def _check_packs(results: EvalResults) -> None:
    """Derive the hash of each pack again, from the rules and questions of its sets."""
    for used in results.packs:
        sets = [one for one in results.sets if one.pack == used.name]
        loaded = LoadedPack(
            pack=Pack(
                name=used.name,
                description=used.description,
                sets=tuple(one.rules for one in sets),
            ),
            questions={one.name: one.questions for one in sets if not one.of_users},
        )
        if loaded.pack_hash != used.pack_hash:
            raise RecordError(
                f"the rules and questions of the pack {used.name!r} have the hash "
                f"{loaded.pack_hash}, the file says {used.pack_hash}",
                field="packs",
                rule="Results belong to the pack that was asked.",
            )


def _lines(one: SetResults, content: dict[str, Any]) -> list[Line]:
    """What is said of each row of a set, as lines to seal."""
    said: dict[str, list[dict[str, Any]]] = {}
    for judgement in content["judgements"]:
        said.setdefault(judgement["question"], []).append(judgement)
    lines = []
    for question in content["questions"]:
        row_id = question["id"]
        fields = {
            "question": question,
            "answers": {m: given[row_id] for m, given in content["answers"].items()},
            "checks": {m: given[row_id] for m, given in content["checks"].items()},
            "judgements": said.get(row_id, []),
        }
        lines.append(Line(row_id, one.users.get(row_id), fields))
    return lines


def _opened(content: dict[str, Any], store: Store | None) -> dict[str, Any]:
    lines = content.pop("lines", None)
    if lines is None:
        return content
    if store is None:
        raise RecordError(
            f"{content.get('pack')}/{content.get('name')} holds sealed text",
            remedy="Open it with the ledger whose keys sealed it.",
        )
    content |= {"questions": [], "answers": {}, "checks": {}, "judgements": []}
    forgotten = 0
    for line in store.opened_lines(lines, KIND):
        if line is None:
            forgotten += 1
            continue
        row_id = line["row_id"]
        content["questions"].append(line["question"])
        content["judgements"] += line["judgements"]
        for kind in ("answers", "checks"):
            for model, given in line[kind].items():
                content[kind].setdefault(model, {})[row_id] = given
    return content | {"forgotten": forgotten}


def _distance(a: list[TokenLogprob], b: list[TokenLogprob]) -> float:
    """Largest difference of logprobs, nats; infinite where the tokens differ."""
    if [item.token for item in a] != [item.token for item in b]:
        return float("inf")
    return max((abs(x.logprob - y.logprob) for x, y in zip(a, b, strict=True)), default=0.0)
