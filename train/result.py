"""What a finished training is: `train.json`, written last, so that it means complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ledger.errors import DatasetError
from ledger.files import write_json

FILE = "train.json"
ADAPTER = "adapter"
#: The adapter of the first stage, where a second one follows.
FIRST = "sft"
_STAGE = "stage.json"


class Stage(BaseModel):
    """One finished stage of a run: `sft`, or a second one on preferences.

    `looks` are [step, loss on the held-out pairs]. `heldout` and `kl` compare the adapter with
    what the stage began with: the base model, or the adapter of the first stage.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["sft", "dpo", "kto"]
    recipe: str = Field(description="hash of the data, the base and the settings trained with")
    examples: int
    left_out: dict[str, dict[str, str]] = Field(
        default_factory=dict, description="of this stage: reason → row id → detail"
    )
    steps: int
    planned_steps: int
    loss: list[float] = Field(description="of each step; of SFT nats a token")
    looks: list[tuple[int, float]] = Field(default_factory=list)
    best_step: int | None = Field(
        None, description="the step whose adapter was kept; None: the last"
    )
    stopped_early: bool = False
    heldout: dict[str, float] | None = None
    kl: dict[str, dict[str, float]] = Field(default_factory=dict)
    tokens: int
    seconds: float
    adapter_parameters: int
    details: dict[str, Any] = Field(default_factory=dict)


class TrainResult(BaseModel):
    """One finished training run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: str
    recipe: str = Field(description="hash of the data, the base and the settings trained with")
    dataset_id: str
    base_model: str
    base_fingerprint: str
    template_hash: str
    pairs: int = Field(description="examples trained on")
    sources: dict[str, int] = Field(description="of these, by the correction's source")
    kinds: dict[str, int] = Field(
        default_factory=dict, description="of these, corrections and replayed good answers"
    )
    left_out: dict[str, dict[str, str]] = Field(description="reason → row id → detail")
    notes: dict[str, dict[str, str]] = Field(description="trained on, but worth a look; as above")
    lengths: dict[str, int] = Field(description="of the examples, tokens")
    end_of_turn: str
    settings: dict[str, Any] = Field(description="the `train` section")
    chosen: dict[str, Any] = Field(
        default_factory=dict,
        description="the numbers trained with; `why` says of each that was left open what "
        "decided it (`train.recipe`)",
    )
    dtype: str
    steps: int = Field(description="of the first stage, as are the loss and the looks")
    planned_steps: int | None = None
    loss: list[float] = Field(description="of each step, nats a token")
    looks: list[tuple[int, float]] = Field(
        default_factory=list, description="[step, loss on the held-out pairs]"
    )
    best_step: int | None = Field(
        None, description="the step whose adapter was kept; None: the last"
    )
    stopped_early: bool = Field(False, description="the held-out loss did not get lower any more")
    heldout: dict[str, float] | None = Field(
        None,
        description="loss on pairs that were held out, `before` of the base model and `after` with "
        "the adapter, nats a token of their answers; None where nothing was held out",
    )
    kl: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="KL(adapter ‖ base) by kind of answer (`train.divergence`), nats a token: "
        "`before` of an adapter that has not learned anything, `after`, and the `most` of a token",
    )
    preference: Stage | None = Field(None, description="the second stage, where there was one")
    tokens: int = Field(description="tokens seen, all epochs, padding not counted")
    seconds: float = Field(description="time in steps, over all parts of an interrupted run")
    tokens_per_second: float
    seed: int
    adapter_parameters: int
    adapter_sha256: str
    hardware: dict[str, Any]
    versions: dict[str, str]
    created: float = Field(description="when it was done, seconds since the epoch, UTC")


def write(run_dir: Path, result: TrainResult) -> None:
    """Write the result; the run is complete from then on."""
    write_json(run_dir / FILE, result.model_dump())


def write_stage(folder: Path, stage: Stage) -> None:
    """Write what is known of a stage beside its adapter; the stage is complete from then on."""
    write_json(folder / _STAGE, stage.model_dump())


def read_stage(folder: Path, recipe: str) -> Stage | None:
    """A finished stage of a recipe; None where there is none, or it is of another recipe."""
    try:
        found = Stage.model_validate_json((folder / _STAGE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return None
    return found if found.recipe == recipe else None


def read(run_dir: Path) -> TrainResult | None:
    """The result of a finished run; None where training has not finished.

    Raises:
        DatasetError: the file is damaged.
    """
    file = run_dir / FILE
    try:
        return TrainResult.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValidationError, ValueError) as error:
        raise DatasetError(
            f"{file} is damaged: {error}", remedy="Remove it and run the same command again."
        ) from error
