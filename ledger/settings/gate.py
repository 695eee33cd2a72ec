"""Settings of the gate."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from ledger.settings.section import Section


class Gate(Section):
    """What a version must clear before it gets traffic."""

    gold: tuple[Path, ...] = Field((), description="gold sets, JSONL")
    margin: float = Field(
        0.02, ge=0, lt=1, description="loss against the live version that is still accepted, 0 to 1"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="level of the interval, 0 to 1")
    resamples: int = Field(10_000, ge=1000, description="bootstrap resamples")
    concurrency: int = Field(16, ge=1, description="questions asked at once")
    max_tokens: int = Field(256, ge=1, description="longest answer, tokens")
    timeout_seconds: float = Field(120, gt=0, description="longest wait for one answer, seconds")
    probes: int = Field(
        4, ge=1, description="questions on which the candidate must differ from the base in logprob"
    )
