"""Settings: what serving, training and teachers cost."""

from __future__ import annotations

from pydantic import Field

from ledger.settings.section import Section


class TokenPrice(Section):
    """What a model's tokens cost."""

    prompt: float = Field(ge=0, description="per million prompt tokens")
    completion: float = Field(ge=0, description="per million completion tokens")


class Prices(Section):
    """What serving and training cost. What a teacher costs is in `curate.teacher`."""

    currency: str = Field("USD", description="what all prices are in, also those of teachers")
    gpu_hour: float | None = Field(
        None, ge=0, description="price of an hour of the box that serves and trains; unset: unknown"
    )
    boxes: int = Field(
        1,
        ge=0,
        description="how many such boxes are paid for day and night, busy or idle; 0: only the "
        "hours used are paid",
    )
    models: dict[str, TokenPrice] = Field(
        default_factory=dict,
        description="price of tokens by version (`support@v4`), alias or the base model's name, "
        "where they are paid by the token (`{prompt: 0.1, completion: 0.4}`); others cost the "
        "seconds that the box was busy with them, at `gpu_hour`",
    )
