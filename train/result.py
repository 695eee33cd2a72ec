"""What a finished training is: `train.json`, written last, so that it means complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ledger.errors import DatasetError
from ledger.files import write_json

FILE = "train.json"
ADAPTER = "adapter"


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
    left_out: dict[str, dict[str, str]] = Field(description="reason → row id → detail")
    notes: dict[str, dict[str, str]] = Field(description="trained on, but worth a look; as above")
    lengths: dict[str, int] = Field(description="of the examples, tokens")
    end_of_turn: str
    settings: dict[str, Any] = Field(description="the `train` section")
    dtype: str
    steps: int
    loss: list[float] = Field(description="of each step, nats a token")
    heldout: dict[str, float] | None = Field(
        None,
        description="loss on pairs that were held out, `before` of the base model and `after` with "
        "the adapter, nats a token of their answers; None where nothing was held out",
    )
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
