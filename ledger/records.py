"""What is stored, as records that refuse unknown fields.

A record is checked where it comes in and never changes after. The store keeps the text
fields (`messages`, `response`, `correction`, `reason`, `metadata`, …) redacted, and the
rest as columns that can be queried.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from ledger import marks
from ledger.errors import RecordError

Api = Literal["chat", "completions", "responses", "messages"]
Source = Literal["user", "operator", "teacher"]
Decision = Literal["proposed", "accepted", "rejected"]

#: The author of a correction by a user of whom nothing is known.
ANONYMOUS = "anonymous"
_TAG = r"^[a-z0-9][a-z0-9_:.-]*$"
TagName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_TAG)]
#: Most tags in one piece of feedback.
MAX_FEEDBACK_TAGS = 8
#: The longest text that a piece of feedback may carry, in characters.
MAX_FEEDBACK_TEXT = 65_536


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Interaction(Record):
    """One answer: what was asked, what was said, by which version, how sure it was."""

    row_id: str = Field(description="`request_id`, with `#<choice>` for a choice above 0")
    request_id: str = Field(description="the completion's id, as the client saw it")
    choice: int = Field(0, ge=0, description="index among the completion's choices")
    ts: float = Field(description="when the request came in, seconds since the epoch, UTC")
    api: Api
    alias: str | None = Field(None, description="the alias asked for; None if a version was named")
    version: str = Field(description="the pinned name that answered, as in the answer's `model`")
    base_model: str
    deployment: int = Field(0, ge=0, description="the deployment event that routed the request")
    arm: Literal["live", "candidate", "pinned"] = "pinned"
    messages: list[dict[str, Any]] | None = None
    response: str | None = Field(None, description="the generated text, tool-call markup included")
    tools: list[dict[str, Any]] | None = None
    metadata: dict[str, Any] | None = None
    finish_reason: str | None = Field(
        None, description="stop, length, … as vLLM says; `disconnected` where the client went away"
    )
    sampling: dict[str, Any] = Field(default_factory=dict)
    chat_template_kwargs: dict[str, Any] | None = None
    template_hash: str | None = None
    stored_text: bool = Field(True, description="False where the client sent `store: false`")
    mean_logprob: float | None = Field(None, description="mean over the answer's tokens, nats")
    min_logprob: float | None = Field(None, description="of the least likely token, nats")
    token_logprobs: list[tuple[int, float]] | None = Field(
        None,
        description="for each token of the answer its characters and its logprob, nats; None where "
        "redaction changed the answer",
    )
    prompt_tokens: int = Field(0, ge=0)
    completion_tokens: int = Field(0, ge=0)
    ttft_ms: float | None = Field(None, description="time to the first token, milliseconds")
    latency_ms: float | None = Field(None, description="time to the last token, milliseconds")
    subject: str | None = Field(None, description="keyed hash of the user")
    session: str | None = Field(None, description="keyed hash of the session")
    kept_because: str = "held"
    held: bool = Field(True, description="whether it is still open if the row stays")
    inclusion_probability: float = Field(1.0, gt=0, le=1)


class FeedbackIn(Record):
    """The body of `POST /v1/feedback`."""

    id: str = Field(min_length=1, max_length=512, description="the completion's id")
    choice: int = Field(0, ge=0, le=1023)
    rating: Literal["up", "down"] | None = None
    score: float | None = Field(None, ge=0, le=1, description="0 is worst, 1 is best")
    correction: str | None = Field(
        None, min_length=1, max_length=MAX_FEEDBACK_TEXT, description="what should have been said"
    )
    reason: str | None = Field(None, min_length=1, max_length=MAX_FEEDBACK_TEXT)
    regenerate: bool | None = Field(None, description="the user asked for another answer")
    report: bool | None = Field(None, description="the user reported the answer")
    success: bool | None = Field(None, description="whether the task the answer served succeeded")
    tags: list[TagName] | None = Field(
        None, min_length=1, max_length=MAX_FEEDBACK_TAGS, description="marks to put on the answer"
    )
    user: str | None = Field(
        None, min_length=1, max_length=512, description="who says so; hashed, never stored as it is"
    )

    @field_validator("score", mode="before")
    @classmethod
    def _no_bool_score(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("a score is a number from 0 to 1; use `success` for yes or no")
        return value

    @field_validator("tags")
    @classmethod
    def _not_ours(cls, tags: list[str] | None) -> list[str] | None:
        if ours := sorted(marks.OURS.intersection(tags or ())):
            raise ValueError(f"{', '.join(ours)}: Flywheel puts these tags itself")
        return tags

    @model_validator(mode="after")
    def _says_something(self) -> FeedbackIn:
        says = (
            "rating", "score", "correction", "reason", "regenerate", "report", "success", "tags",
        )  # fmt: skip
        if all(getattr(self, name) is None for name in says):
            raise ValueError(f"feedback must say something: give one of {', '.join(says)}")
        return self


class Feedback(Record):
    """One piece of feedback as stored."""

    feedback_id: str = Field(description="keyed hash of the content, so that a repeat is known")
    row_id: str
    ts: float
    rating: Literal["up", "down"] | None = None
    score: float | None = None
    correction: str | None = None
    reason: str | None = None
    regenerate: bool | None = None
    report: bool | None = None
    success: bool | None = None
    subject: str | None = None

    @property
    def negative(self) -> bool:
        """True where the user was not content: down, score < 0.5, regenerate, report, failure."""
        return is_negative(self)


def is_negative(given: Any) -> bool:
    """What `Feedback.negative` says, of anything with its fields: a row of the table, say."""
    return (
        given.rating == "down"
        or (given.score is not None and given.score < 0.5)
        or bool(given.regenerate)
        or bool(given.report)
        or given.success is False
    )


class Tag(Record):
    """A mark on a row: an appended statement, never a rewrite of the row."""

    row_id: str
    tag: TagName
    who: str = Field(description="`rule:…`, `operator:…`, `user:<subject>`")
    why: str = ""
    ts: float


class Correction(Record):
    """A statement about what a row should have said; the last one about a row holds."""

    row_id: str
    ts: float
    source: Source
    author: str = Field(description="a subject hash, an operator's name or a teacher's model")
    text: str = Field(min_length=1, description="what should have been said")
    decision: Decision
    why: str = ""


def known_user(source: Source, author: str) -> str | None:
    """The subject who wrote a correction, where a user of whom something is known did."""
    return author if source == "user" and author != ANONYMOUS else None


class DeploymentEvent(Record):
    """One change of what is live. `seq` is set by the ledger."""

    seq: int = 0
    alias: str
    ts: float
    kind: Literal[
        "candidate", "share", "promote", "rollback", "withdraw",
        "begin", "expand", "supersede", "pause", "resume", "ask", "abort",
    ]  # fmt: skip
    version: int | None = Field(None, ge=0, description="the version meant; 0 is the base model")
    share: float | None = Field(None, ge=0, le=100, description="percent of the traffic")
    who: str
    why: str = ""
    report: dict[str, Any] | None = Field(
        None, description="numbers that the decision rests on; no text of users"
    )


class DatasetRecord(Record):
    """A frozen dataset: which rows went in, under which content hash."""

    dataset_id: str
    ts: float
    alias: str
    path: str
    pairs: int = Field(ge=0)
    row_ids: list[str]
    report: dict[str, Any] | None = Field(None, description="what the dataset's card says")


class Evaluation(Record):
    """One verdict of the gate."""

    run_id: str
    ts: float
    alias: str
    candidate: str
    baseline: str
    verdict: Literal["pass", "fail", "underpowered"]
    report: dict[str, Any]


def parse_feedback(body: Any) -> FeedbackIn:
    """Check the body of a feedback request.

    Raises:
        RecordError: it does not fit; `field` names the first field that is wrong.
    """
    if not isinstance(body, dict):
        raise RecordError(f"feedback is a JSON object, found {type(body).__name__}", field="body")
    try:
        return FeedbackIn.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        known = ", ".join(FeedbackIn.model_fields)
        raise RecordError(
            f"{field}: {first['msg'].removeprefix('Value error, ')}",
            field=field,
            rule=f"Known fields: {known}." if first["type"] == "extra_forbidden" else "",
        ) from None
