"""Settings of the registry: who signs versions, and where they are shared."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from ledger.settings.section import Section


class Signing(Section):
    """Signatures of versions."""

    private_key: Path | None = Field(
        None,
        description="key that signs, PEM of the curve P-256, P-384 or P-521; the variable "
        "FLYWHEEL_SIGNING_PASSWORD holds its password where it has one; new versions are signed "
        "where it is set",
    )
    public_key: Path | None = Field(None, description="key that signatures are checked with, PEM")
    required: bool = Field(
        False, description="serve, promote and pull only versions with a valid signature"
    )


class Sharing(Section):
    """Where versions are pushed to and pulled from, and what their card says to strangers."""

    url: str | None = Field(
        None,
        description="where `push` and `pull` go when none is named: `hf://owner/name`, or what "
        "fsspec reads (`s3://bucket/folder`, `file:///folder`)",
    )
    private: bool = Field(True, description="a repository that `push` makes on the hub is private")
    license: str | None = Field(
        None, description="license of the adapters, as the hub writes it (`apache-2.0`)"
    )
    languages: tuple[str, ...] = Field((), description="languages of the answers, ISO 639")
    datasets: tuple[str, ...] = Field(
        (), description="public datasets on the hub that the adapters were trained on, beside the "
        "corrections",
    )  # fmt: skip
