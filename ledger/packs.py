"""Gate packs: what a version must clear, written down in YAML.

A pack is a file with a name and sets. A set is a group of questions with what is demanded of the
answers; its `kind` says where the questions come from and how they are scored:

    gold        JSONL files with checks (`ledger.gold`)
    judge       JSONL files whose answers a judge compares
    failures    corrected rows that were held out of training

`role` says what a set decides:

    required     the candidate must be shown to lose no more than the margin, else it is refused
    guard        the candidate is refused only where it is shown to be worse
    informative  it is reported

Covers reading pack files, what they are (`pack_hash`) and the questions that no training data may
touch (`kept_out`). What was recorded of them is `ledger.store.packs`; deciding is `eval`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ledger.checks import JsonSchema, Regex
from ledger.errors import GoldError
from ledger.gold import GoldQuestion, load_gold
from ledger.hashing import content_hash
from ledger.settings.gate import Gate
from ledger.strict_yaml import read_yaml

if TYPE_CHECKING:
    from ledger.store import Store

Role = Literal["required", "guard", "informative"]

#: The pack that `gate.gold` and `gate.margin` stand for.
PLAIN = "gold"
#: In `slices`: whatever slice has no rule of its own.
ANY_SLICE = "*"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SliceRule(_Part):
    """What holds for one slice of a set. Both are about what was observed."""

    floor: float | None = Field(None, ge=0, le=1, description="least score of the candidate")
    max_loss: float | None = Field(
        None, ge=0, le=1, description="most that it may lose against the live version"
    )


class _Rule(_Part):
    """`at_most` is the share of answers that may break it; null: no more than the live version's,
    within the set's margin."""

    at_most: float | None = Field(0.0, ge=0, lt=1)


class FitsSchema(_Rule):
    """The answer is JSON and fits a schema."""

    type: Literal["json_schema"]
    value: dict[str, Any]
    fenced: bool = False

    @model_validator(mode="after")
    def _is_a_schema(self) -> FitsSchema:
        self.check  # noqa: B018  raises where it is none
        return self

    @property
    def check(self) -> JsonSchema:
        """The same as a check of a gold question."""
        return JsonSchema(type="json_schema", value=self.value, fenced=self.fenced)


class _Pattern(_Rule):
    value: str

    @model_validator(mode="after")
    def _compiles(self) -> Any:
        self.check  # noqa: B018  raises where it does not
        return self

    @property
    def check(self) -> Regex:
        """The pattern as a check of a gold question."""
        return Regex(type="regex", value=self.value)


class Matches(_Pattern):
    """A pattern is found in the answer."""

    type: Literal["matches"]


class MatchesNot(_Pattern):
    """A pattern is not found in the answer."""

    type: Literal["matches_not"]


class NoRefusal(_Rule):
    """The answer does not decline to answer."""

    type: Literal["no_refusal"]


class Refusal(_Rule):
    """The answer declines to answer; for questions that must not be answered."""

    type: Literal["refusal"]


class NoPersonalData(_Rule):
    """The answer has no kind of personal data that the question does not have."""

    type: Literal["no_personal_data"]


class NoControlTokens(_Rule):
    """The answer has no marks of a chat template."""

    type: Literal["no_control_tokens"]


class MaxChars(_Rule):
    """The answer is not longer than so many characters."""

    type: Literal["max_chars"]
    value: int = Field(ge=1)


AnswerRule = Annotated[
    FitsSchema | Matches | MatchesNot | NoRefusal | Refusal | NoPersonalData | NoControlTokens
    | MaxChars,
    Field(discriminator="type"),
]  # fmt: skip


class Limits(_Part):
    """Most that the candidate may need, as a multiple of what the live version needs.

    Broken only on evidence: where the whole interval of the ratio lies above it.
    """

    p95_latency: float | None = Field(None, gt=0, description="95th percentile of the latency")
    completion_tokens: float | None = Field(None, gt=0, description="mean length of the answers")


class _Set(_Part):
    name: str = Field(min_length=1, max_length=100, description="unique within its pack")
    role: Role = "required"
    margin: float | None = Field(
        None, ge=0, lt=1, description="loss that is accepted, 0 to 1; unset: gate.margin"
    )
    slices: dict[str, SliceRule] = Field(
        default_factory=dict, description=f"rules by slice; `{ANY_SLICE}` for all others"
    )
    rules: tuple[AnswerRule, ...] = Field((), description="what every answer must be, and not be")
    limits: Limits = Field(default_factory=Limits)
    temperature: float | None = Field(
        None, ge=0, le=2, description="of the answers; unset: gate.temperature"
    )
    samples: int | None = Field(
        None,
        ge=1,
        le=64,
        description="answers a question; unset: gate.samples",
    )
    max_tokens: int | None = Field(None, ge=1, description="unset: gate.max_tokens")


class GoldSet(_Set):
    """Gold questions, scored by their checks."""

    kind: Literal["gold"]
    gold: tuple[Path, ...] = Field(min_length=1, description="JSONL files, relative to the command")


class JudgeSet(_Set):
    """Questions whose two answers are compared by a judge, in both orders."""

    kind: Literal["judge"]
    gold: tuple[Path, ...] = Field(min_length=1, description="JSONL files; no checks are needed")
    rubric: str = Field(min_length=1, description="what makes an answer better, for the judge")


class FailureSet(_Set):
    """Corrected rows that no version was trained on: those held out of the alias's datasets."""

    kind: Literal["failures"]
    most: int = Field(500, ge=1, description="newest rows taken")
    judged_from: int = Field(
        200, ge=1, description="corrections of so many characters are compared by the judge; "
        "shorter ones by equality once both are normalised",
    )  # fmt: skip
    rubric: str = Field(
        "Prefer the answer that says what the reference says.", description="for the judge"
    )


PackSet = Annotated[GoldSet | JudgeSet | FailureSet, Field(discriminator="kind")]


class Pack(_Part):
    """A pack as its file says it."""

    name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    description: str = ""
    sets: tuple[PackSet, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Pack:
        names = [one.name for one in self.sets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"set name(s) used twice: {', '.join(twice)}")
        return self


class LoadedPack(_Part):
    """A pack with its questions: what is recorded, and what a later gate can be held to.

    Attributes:
        questions: by the name of the set; sets of failures have none here, they follow the ledger.
    """

    pack: Pack
    questions: dict[str, list[GoldQuestion]]

    @property
    def pack_hash(self) -> str:
        """`fw1:pack:…` over the rules and the questions, wherever the files lie."""
        return content_hash("pack", self.content())

    def content(self) -> dict[str, Any]:
        """As JSON, without the paths of files: what the hash covers and what is recorded."""
        told = self.pack.model_dump(mode="json", exclude={"sets": {"__all__": {"gold"}}})
        asked = {
            name: [question.model_dump(mode="json", exclude_defaults=True) for question in listed]
            for name, listed in self.questions.items()
        }
        return {**told, "questions": asked}

    @classmethod
    def of_content(cls, content: dict[str, Any]) -> LoadedPack:
        """The inverse of `content`."""
        told = {key: value for key, value in content.items() if key != "questions"}
        told["sets"] = [
            one if one["kind"] == "failures" else {**one, "gold": ["recorded"]}
            for one in told["sets"]
        ]
        return cls(
            pack=Pack.model_validate(told),
            questions={
                name: [GoldQuestion.model_validate(question) for question in listed]
                for name, listed in content["questions"].items()
            },
        )


def load_packs(gate: Gate) -> list[LoadedPack]:
    """The packs of an alias as they are configured: `gate.gold` first, then each file.

    Raises:
        GoldError: a file is missing, is no pack, has unknown keys, or names questions that cannot
            be read; two packs have one name. All that is wrong is listed.
    """
    errors: list[str] = []
    found: list[LoadedPack] = []
    packs: list[tuple[str, Pack]] = []
    if gate.gold:
        plain = GoldSet(name="gold", kind="gold", gold=gate.gold, margin=gate.margin)
        packs.append(("gate.gold", Pack(name=PLAIN, sets=(plain,))))
    for path in gate.packs:
        pack = _read(path, errors)
        if pack is not None:
            packs.append((str(path), pack))
    first: dict[str, str] = {}
    for where, pack in packs:
        if pack.name in first:
            errors.append(f"{where}: the name {pack.name!r} is used already by {first[pack.name]}")
            continue
        first[pack.name] = where
        questions = {}
        for one in pack.sets:
            if isinstance(one, FailureSet):
                continue
            try:
                questions[one.name] = load_gold(one.gold, checks=isinstance(one, GoldSet))
            except GoldError as error:
                if len(packs) == 1 and where == "gate.gold":
                    raise
                errors.append(f"{where}: set {one.name!r}: {error.problem}\n{error.rule}")
                continue
            known = {question.slice for question in questions[one.name]}
            if strange := sorted(set(one.slices) - {ANY_SLICE} - known):
                errors.append(
                    f"{where}: set {one.name!r}: no question has the slice {', '.join(strange)}"
                )
        # The margin that holds is part of what the pack demands, wherever it is written.
        settled = [
            one if one.margin is not None else one.model_copy(update={"margin": gate.margin})
            for one in pack.sets
        ]
        full = pack.model_copy(update={"sets": tuple(settled)})
        found.append(LoadedPack(pack=full, questions=questions))
    if errors:
        raise GoldError(
            f"the gate packs have {len(errors)} error(s)",
            rule="\n".join(f"  {error}" for error in errors),
            remedy="Nothing was asked; docs/gate.md shows what a pack may say.",
        )
    return found


def kept_out(gate: Gate, recorded: Iterable[LoadedPack] = ()) -> list[GoldQuestion]:
    """Questions that no training data may touch: of the configured packs and of recorded ones.

    Raises:
        GoldError: see `load_packs`.
    """
    packs = [*load_packs(gate), *recorded]
    return [question for pack in packs for listed in pack.questions.values() for question in listed]


def recorded_packs(store: Store, alias: str) -> list[LoadedPack]:
    """The packs that an alias is bound to, as they are on record (`ledger.store.packs`)."""
    events = store.binding_packs(alias).values()
    return [LoadedPack.of_content(event.content) for event in events]


@cache
def _adapter() -> TypeAdapter[Pack]:
    return TypeAdapter(Pack)


def _read(path: Path, errors: list[str]) -> Pack | None:
    try:
        raw = read_yaml(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        errors.append(f"{path}: cannot be read as YAML: {error}")
        return None
    if not isinstance(raw, dict):
        errors.append(f"{path}: a pack is a mapping, found {type(raw).__name__}")
        return None
    try:
        return _adapter().validate_python(raw)
    except ValidationError as error:
        errors += [f"{path}: {_explain(item)}" for item in error.errors()]
        return None


def _explain(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    if item["type"] == "extra_forbidden":
        return f"{where}: no such key"
    message = item["msg"].removeprefix("Value error, ")
    shown = "" if item["type"] in ("missing", "value_error") else f", found {item['input']!r:.80}"
    return f"{where}: {message}{shown}"


def set_names(packs: Sequence[LoadedPack]) -> list[str]:
    """`pack/set` of each, in order."""
    return [f"{one.pack.name}/{part.name}" for one in packs for part in one.pack.sets]
