"""Settings of the gate."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from ledger.settings.curation import Teacher
from ledger.settings.section import Section


class Gate(Section):
    """What a version must clear before it gets traffic."""

    gold: tuple[Path, ...] = Field(
        (), description="gold sets, JSONL; together with `margin` the simplest pack"
    )
    packs: tuple[Path, ...] = Field((), description="gate packs, YAML (docs/gate.md)")
    margin: float = Field(
        0.02, ge=0, lt=1, description="loss against the live version that is still accepted, 0 to 1"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="level of the interval, 0 to 1")
    resamples: int = Field(10_000, ge=1000, description="bootstrap resamples")
    concurrency: int | None = Field(
        None,
        ge=1,
        description="questions asked at once; unset: three quarters of what the server answers at "
        "once (serve.vllm.max_num_seqs), so that users do not queue behind them",
    )
    base: bool = Field(
        True, description="ask the base model, too, for information; its answers are kept"
    )
    cache_days: float = Field(
        90, ge=0, description="how long answers count in later gates, days; 0: not at all"
    )
    max_tokens: int = Field(256, ge=1, description="longest answer, tokens")
    timeout_seconds: float = Field(120, gt=0, description="longest wait for one answer, seconds")
    probes: int = Field(
        4, ge=1, description="questions on which the candidate must differ from the base in logprob"
    )
    temperature: float = Field(
        0.0, ge=0, le=2, description="sampling temperature of the answers; a set may have its own"
    )
    samples: int = Field(
        1, ge=1, le=64, description="answers a question where the temperature is above 0"
    )
    judge: Teacher | None = Field(
        None, description="the model that compares answers in sets of the kind `judge`"
    )
