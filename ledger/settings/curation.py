"""Settings of curation: what is looked at, what is accepted, and how it becomes a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ledger.settings.section import Section


class Acceptance(Section):
    """Which corrections need eyes, and how many of them one person can bring in."""

    people: int = Field(
        2, ge=1, description="reviewers, none of them its author, who accept a correction together "
        "where no operator does",
    )  # fmt: skip
    pairs_per_subject: int = Field(
        20, ge=0, description="most new pairs of one user in a dataset that the one before had not"
    )
    pairs_per_subject_ever: int = Field(
        200, ge=0, description="most pairs of one user in a dataset"
    )
    pairs_per_cluster: int = Field(
        500, ge=0, description="most new pairs by users of one cluster in a dataset"
    )
    new_subject_hours: float = Field(
        24, ge=0, description="corrections of users first seen less than so long ago wait, hours"
    )
    burst: int = Field(
        20, ge=1, description="corrections of one user, or of one text by several users, within "
        "`burst_hours`; further ones wait",
    )  # fmt: skip
    burst_hours: float = Field(1, gt=0, description="window of a burst, hours")
    min_edit: float = Field(
        0.0, ge=0, le=1, description="corrections closer than this to the answer wait; 0 is the "
        "same text, 1 nothing in common (normalised Levenshtein distance)",
    )  # fmt: skip
    max_edit: float = Field(
        1.0, ge=0, le=1, description="corrections further than this from an answer of at least "
        "200 characters wait",
    )  # fmt: skip
    max_chars: int = Field(
        16_384, ge=1, description="corrections longer than this are rejected, characters"
    )
    languages: tuple[str, ...] = Field(
        (),
        description="languages that a correction may be in, ISO 639-1; unset: that of its answer "
        "or question, where the text is long enough to tell",
    )
    refusals: bool = Field(
        False, description="whether a correction may refuse to answer (`I cannot help with …`)"
    )


class Clusters(Section):
    """How questions that are alike are found."""

    embedding: Literal["tfidf", "endpoint"] = Field(
        "tfidf",
        description="`tfidf` needs no model; `endpoint` asks an OpenAI-compatible /v1/embeddings, "
        "such as vLLM's with a pooling model",
    )
    url: str | None = Field(None, description="address of the endpoint, ending in /v1")
    model: str | None = Field(None, description="its model")
    key_variable: str = Field(
        "FLYWHEEL_EMBEDDING_KEY", description="environment variable with its API key"
    )
    sample_a_day: int = Field(
        2000, ge=0, description="answers a UTC day that stand for all traffic; rows with a tag, "
        "feedback or a correction come on top",
    )  # fmt: skip
    min_size: int = Field(5, ge=2, description="fewest questions that make a cluster")
    similarity: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="least cosine of a question to its cluster's centre; larger makes smaller "
        "clusters, embedding models need more",
    )
    new_share: float = Field(
        0.10, gt=0, le=1, description="a cluster that no training data has is reported as new at "
        "this share of recent traffic",
    )  # fmt: skip
    recent_hours: float = Field(24, gt=0, description="what counts as recent, hours")


class Datasets(Section):
    """How accepted corrections become a dataset."""

    near_duplicate: float = Field(
        0.85, gt=0, le=1, description="Jaccard similarity of two questions' character 5-grams "
        "from which one of them is left out; 1 leaves out only equal ones",
    )  # fmt: skip
    heldout_share: float = Field(
        0.05, ge=0, lt=0.5, description="share of the conversations that is not trained on, for "
        "the loss on unseen pairs",
    )  # fmt: skip
    replay_share: float = Field(
        0.10, ge=0, lt=1, description="share of the dataset that replays answers which were good "
        "already, as far as there are any that somebody called good",
    )  # fmt: skip


class Review(Section):
    """The review page."""

    host: str = Field("127.0.0.1", description="address to listen on; elsewhere put TLS before it")
    port: int = Field(8100, ge=1, le=65535, description="TCP port")
    keys_file: Path | None = Field(
        None, description="who may log in: hashes of keys, mode 0600; unset: `review.keys` beside "
        "`privacy.key_file`",
    )  # fmt: skip
    session_hours: float = Field(12, gt=0, description="how long a login holds, hours")
    lease_minutes: float = Field(
        15, gt=0, description="how long a row on somebody's screen is kept from others, minutes"
    )
    secure_cookies: bool = Field(
        False, description="send cookies over TLS only; for a page behind a TLS proxy"
    )


class Teacher(Section):
    """A model behind an OpenAI-compatible endpoint, and what it costs."""

    url: str = Field(description="address, ending in /v1")
    model: str = Field(description="its name there")
    key_variable: str = Field(
        "FLYWHEEL_TEACHER_KEY", description="environment variable with the API key"
    )
    instructions: str = Field("", description="system message before the conversation's own")
    prompt_price: float | None = Field(None, ge=0, description="currency per million prompt tokens")
    completion_price: float | None = Field(
        None, ge=0, description="currency per million completion tokens"
    )
    temperature: float = Field(0.0, ge=0, le=2, description="sampling temperature")
    max_tokens: int = Field(1024, ge=1, description="longest answer, tokens")
    concurrency: int = Field(8, ge=1, description="questions asked at once")
    timeout_seconds: float = Field(120, gt=0, description="longest wait for one answer, seconds")
    retries: int = Field(5, ge=0, description="further attempts after a passing error")


class Curate(Section):
    """Which rows are looked at, and which corrections become training pairs."""

    low_confidence_nats: float = Field(
        -3.0, le=0, description="rows whose mean logprob is below this are tagged `low_confidence`"
    )
    low_confidence_percent: float | None = Field(
        None,
        gt=0,
        lt=100,
        description="instead: the least sure percent of what the same version says",
    )
    rules: tuple[Path, ...] = Field(
        (), description="files of rules that tag rows as they come in, YAML (docs/curation.md)"
    )
    trusted_sources: tuple[Literal["user", "operator", "teacher"], ...] = Field(
        ("operator",),
        description="sources whose corrections become pairs at once where nothing speaks "
        "against them; others wait for review",
    )
    acceptance: Acceptance = Field(
        default_factory=Acceptance, description="which corrections need eyes"
    )
    clusters: Clusters = Field(
        default_factory=Clusters, description="groups of questions that are alike"
    )
    dataset: Datasets = Field(default_factory=Datasets, description="how pairs become a dataset")
    review: Review = Field(default_factory=Review, description="the review page")
    teacher: Teacher | None = Field(
        None, description="a stronger model that `flywheel distill` asks"
    )
    judge: Teacher | None = Field(
        None, description="a model that compares answers; unset: the teacher is not judged"
    )
