"""Every setting of the project, defined once, with its unit beside it.

A configuration is one YAML file (see `configs/`). Unknown keys are refused, and all errors
of a file are reported together. Objects are passed on whole; no setting is copied into a
second place. Relative paths are taken from the directory in which a command runs.

`docs/configuration.md` is made from these descriptions and a test keeps it so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from ledger.errors import ConfigError
from ledger.settings.curation import Curate
from ledger.settings.drift import Drift
from ledger.settings.gate import Gate
from ledger.settings.prices import Prices
from ledger.settings.registry import Sharing, Signing
from ledger.settings.rollout import Rollout
from ledger.settings.section import Section
from ledger.settings.train import Train
from ledger.settings.triggers import Triggers
from ledger.strict_yaml import read_yaml

CONFIG_VARIABLE = "FLYWHEEL_CONFIG"
KEYS_VARIABLE = "FLYWHEEL_API_KEYS"
MASTER_VARIABLE = "FLYWHEEL_MASTER_KEY"


class Model(Section):
    """The base model that all adapters stand on."""

    name: str = Field(description="name under which the base model itself is served")
    path: str = Field(description="a folder, or a repository on the Hugging Face hub")
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="number format of serving and training"
    )
    max_length: int = Field(
        2048, ge=64, description="longest prompt plus answer, in tokens, served and trained on"
    )
    embedded: bool = Field(
        False, description="make `path` from the model embedded in a PyPI package when it is absent"
    )


class Serve(Section):
    """The vLLM server and the plugin in it."""

    host: str = Field(
        "127.0.0.1", description="address to listen on; anything but loopback needs API keys"
    )
    port: int = Field(8000, ge=1, le=65535, description="TCP port")
    api_keys_file: Path | None = Field(
        None,
        description=f"file with one API key a line, mode 0600; the variable {KEYS_VARIABLE} "
        "(comma-separated) adds to it",
    )
    max_loras: int = Field(
        3, ge=3, description="adapters that can run in one batch: live, candidate, previous"
    )
    max_lora_rank: int = Field(16, ge=1, description="largest LoRA rank that the server accepts")
    follow_seconds: float = Field(
        0.2, gt=0, le=10, description="how often the server looks for a new deployment, seconds"
    )
    metrics_seconds: float = Field(
        15, gt=0, description="how often the server reads what only the ledger knows for "
        "`/metrics`, seconds",
    )  # fmt: skip
    retry_after_seconds: int = Field(
        15,
        ge=1,
        le=60,
        description="when a client that is refused in a pause is told to come back, seconds; "
        "OpenAI's clients heed up to 60",
    )
    buffer_mib: float = Field(
        32,
        gt=0,
        description="records waiting for the writer, MiB; beyond it they are dropped and counted",
    )
    vllm: dict[str, Any] = Field(
        default_factory=dict,
        description="vLLM's own options, passed through (`gpu_memory_utilization: 0.5`)",
    )
    env: dict[str, str] = Field(
        default_factory=dict, description="environment variables set for the server"
    )
    token_logprobs: bool = Field(
        True, description="keep each token's logprob with the answer, sealed, for the review page"
    )


class Ledger(Section):
    """Where everything that happened is kept."""

    url: str = Field("sqlite:///var/ledger.db", description="SQLAlchemy URL of the store")
    flush_ms: float = Field(
        50, ge=0, description="longest time a record waits for others before a commit, milliseconds"
    )
    batch_rows: int = Field(256, ge=1, description="most records in one commit")
    lock_seconds: float = Field(
        10, gt=0, description="how long to wait for another process's lock, seconds"
    )
    durability: Literal["fast", "process", "disk"] = Field(
        "process",
        description="what a stored row survives: `fast` loses at most the last flush when the "
        "writer is killed, `process` no acknowledged row, `disk` none when the power fails either",
    )


class Sampling(Section):
    """Which answers stay: all with feedback, a tag, a correction or low confidence, and some."""

    share: float = Field(
        0.05, ge=0, le=1, description="share of the other answers that is kept, 0 to 1"
    )
    hold_hours: float = Field(
        24, ge=0, description="how long every answer waits for late feedback, hours"
    )
    hold_mib: float = Field(
        4096, gt=0, description="text that may wait so, MiB; beyond it the oldest hours are decided"
    )
    max_rows_a_day: int | None = Field(None, ge=0, description="most sampled rows a UTC day")
    max_mib_a_day: float | None = Field(
        None, ge=0, description="most text of sampled rows a UTC day, MiB"
    )


class Keep(Section):
    """How long one kind of row is kept; unset means for ever."""

    text_days: float | None = Field(None, gt=0, description="age at which text is removed, days")
    text_mib: float | None = Field(
        None, gt=0, description="text kept in all, MiB; beyond it the oldest goes"
    )
    row_days: float | None = Field(
        None, gt=0, description="age at which the row goes and leaves its numbers, days"
    )


class Retention(Section):
    """How long rows and their text are kept. Numbers may outlive text."""

    sampled: Keep = Field(
        default_factory=lambda: Keep(text_days=90),
        description="answers that nothing is known of but that they were given",
    )
    flagged: Keep = Field(
        default_factory=lambda: Keep(text_days=180),
        description="answers with feedback, a tag or low confidence",
    )
    corrected: Keep = Field(
        default_factory=Keep, description="answers with a correction: what is trained on"
    )


class Privacy(Section):
    """What is done to text and identities before they reach the disk."""

    redaction: Literal["balanced", "high", "none"] = Field(
        "high",
        description="`balanced` hides what has a check digit or a clear marker, `high` also every "
        "shape that may be a telephone number, an address or a key",
    )
    redact_ms: float = Field(
        1000, gt=0, description="longest redaction of one row; beyond it no text is kept, ms"
    )
    names: Literal["none", "spacy", "presidio"] = Field(
        "none", description="detector of names; without one names are not removed"
    )
    names_model: str = Field("en_core_web_sm", description="spaCy model of the detector")
    names_before_training: bool = Field(
        False, description="refuse to train on rows that no name detector has seen"
    )
    key_file: Path = Field(
        Path("var/keys/subject.key"),
        description="key of the HMAC that hashes users and sessions; made on first use, mode 0600",
    )
    seal: bool = Field(True, description="encrypt text with a key for each user")
    master_key_file: Path | None = Field(
        None,
        description="key that wraps the users' keys, made on first use, mode 0600; unset: "
        "`master.key` beside `key_file`",
    )
    master_key_command: str | None = Field(
        None,
        description="command that prints the master key instead of the file, for a KMS; the "
        f"variable {MASTER_VARIABLE} goes before both",
    )

    @property
    def master_file(self) -> Path:
        """Where the master key lies when neither a variable nor a command gives it."""
        return self.master_key_file or self.key_file.with_name("master.key")


class Alias(Section):
    """A name that clients ask for."""

    description: str = Field("", description="what it is for; shown by `status` and the model card")
    gate: Gate = Field(default_factory=Gate, description="the gate of this alias")
    answer_checks: tuple[dict[str, Any], ...] = Field(
        (),
        description="checks that every correction must pass, as in a gold set "
        "(`{type: json_schema, value: {…}}`)",
    )
    rollout: Rollout | None = Field(
        None, description="the rollout of this alias; unset: the `rollout` of all"
    )


class Settings(Section):
    """A whole configuration."""

    needs: Literal["any", "cuda"] = Field(
        "any", description="hardware without which the configuration makes no sense"
    )
    var: Path = Field(Path("var"), description="folder of everything that runs make")
    shared_registry: Path | None = Field(
        None,
        description="folder of the versions where several machines share it; unset: `registry` in "
        "`var`",
    )
    model: Model
    aliases: dict[str, Alias] = Field(description="the names that clients ask for", min_length=1)
    serve: Serve = Field(default_factory=Serve)
    ledger: Ledger = Field(default_factory=Ledger)
    privacy: Privacy = Field(default_factory=Privacy)
    sampling: Sampling = Field(default_factory=Sampling)
    retention: Retention = Field(default_factory=Retention)
    curate: Curate = Field(default_factory=Curate)
    train: Train = Field(default_factory=Train)
    drift: Drift = Field(default_factory=Drift)
    triggers: Triggers = Field(default_factory=Triggers)
    rollout: Rollout = Field(default_factory=Rollout)
    prices: Prices = Field(default_factory=Prices)
    signing: Signing = Field(default_factory=Signing)
    sharing: Sharing = Field(default_factory=Sharing)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        wrong = []
        if self.train.rank is not None and self.train.rank > self.serve.max_lora_rank:
            wrong.append(
                f"train.rank is {self.train.rank} but serve.max_lora_rank is "
                f"{self.serve.max_lora_rank}: the server would refuse the adapter; raise "
                "serve.max_lora_rank or lower train.rank"
            )
        for alias in self.aliases:
            if not alias or not all(c.isalnum() or c in "-_." for c in alias) or alias[0] in "-.":
                wrong.append(
                    f"alias {alias!r}: use letters, digits, '-', '_' and '.', not '.' or '-' first"
                )
            if alias == self.model.name:
                wrong.append(
                    f"alias {alias!r} is also model.name; requests for it would be ambiguous: "
                    "rename one of them"
                )
        for name, model in (("teacher", self.curate.teacher), ("judge", self.curate.judge)):
            if model and model.prompt_price is not None and model.model in self.prices.models:
                wrong.append(
                    f"prices.models.{model.model} and curate.{name}.prompt_price both price "
                    f"{model.model}: set it in one place"
                )
        if self.train.max_length and self.train.max_length > self.model.max_length:
            wrong.append(
                f"train.max_length {self.train.max_length} is above model.max_length "
                f"{self.model.max_length}: such rows could never have been served; lower it"
            )
        if wrong:
            raise ValueError("\n  ".join(wrong))
        return self

    @property
    def registry(self) -> Path:
        """Folder of the versions, one folder an alias."""
        return self.shared_registry or self.var / "registry"

    @property
    def runs(self) -> Path:
        """Folder of the retrain runs."""
        return self.var / "runs"

    def alias(self, name: str) -> Alias:
        """The settings of one alias.

        Raises:
            ConfigError: the configuration has no such alias.
        """
        try:
            return self.aliases[name]
        except KeyError:
            raise ConfigError(
                f"alias {name!r} is not in the configuration",
                rule=f"It has: {', '.join(sorted(self.aliases))}.",
                remedy="Name one of these, or add it under `aliases:`.",
            ) from None

    def rollout_of(self, alias: str) -> Rollout:
        """How an alias's versions get their traffic.

        Raises:
            ConfigError: the configuration has no such alias.
        """
        return self.alias(alias).rollout or self.rollout

    @property
    def only_alias(self) -> str | None:
        """The alias, where there is just one."""
        return next(iter(self.aliases)) if len(self.aliases) == 1 else None


def load(path: Path | str) -> Settings:
    """Read a configuration.

    Raises:
        ConfigError: the file is absent, not YAML, or breaks a rule; all errors are listed.
    """
    path = Path(path)
    try:
        raw = read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(
            f"no configuration at {path}",
            remedy=f"Name one with --config or {CONFIG_VARIABLE}; configs/demo.yaml runs anywhere.",
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    return parse(raw, name=str(path))


def parse(raw: Any, *, name: str) -> Settings:
    """Check a configuration that was already read from YAML.

    Raises:
        ConfigError: it breaks a rule; all errors are listed, each with its key.
    """
    if not isinstance(raw, dict):
        raise ConfigError(f"{name}: a configuration is a mapping, found {type(raw).__name__}")
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(
            f"{name}: {error.error_count()} setting(s) are wrong",
            rule="\n".join(_explain(item) for item in error.errors()),
            remedy="docs/configuration.md lists every setting.",
        ) from None


def _explain(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    if item["type"] == "extra_forbidden":
        return f"  {where}: no such setting"
    message = item["msg"].removeprefix("Value error, ")
    shown = "" if item["type"] in ("missing", "value_error") else f", found {item['input']!r}"
    return f"  {where}: {message}{shown}"


def api_keys(serve: Serve) -> list[str]:
    """The keys that clients may use; empty where the server asks for none.

    Raises:
        ConfigError: the key file is absent, empty or readable by others.
    """
    keys = [key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(",")]
    if serve.api_keys_file is not None:
        try:
            mode = serve.api_keys_file.stat().st_mode
            lines = serve.api_keys_file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ConfigError(
                f"serve.api_keys_file {serve.api_keys_file}: {error.strerror}"
            ) from error
        if mode & 0o077:
            raise ConfigError(
                f"serve.api_keys_file {serve.api_keys_file} has mode {mode & 0o777:04o}",
                rule="Keys must not be readable by others.",
                remedy=f"chmod 600 {serve.api_keys_file}",
            )
        found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not found:
            raise ConfigError(f"serve.api_keys_file {serve.api_keys_file} holds no key")
        keys += found
    return [key for key in keys if key]
