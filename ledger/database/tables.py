"""The tables. Rows are only ever inserted; what holds now is the fold of what was said.

The schema is created and changed by the migrations in `ledger/database/migrations`; a test compares
the two.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

metadata = MetaData()

# SQLite numbers rows by itself only where the type is exactly INTEGER, which has 64 bits there.
_Seq = BigInteger().with_variant(Integer, "sqlite")

interactions = Table(
    "interactions",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("row_id", String, nullable=False, unique=True),
    Column("request_id", String, nullable=False, index=True),
    Column("choice", Integer, nullable=False),
    Column("ts", Double, nullable=False),
    Column("api", String, nullable=False),
    Column("alias", String),
    Column("version", String, nullable=False),
    Column("base_model", String, nullable=False),
    Column("deployment", Integer, nullable=False),
    Column("arm", String, nullable=False),
    Column("text", LargeBinary, nullable=False),  # packed: messages, response, tools, metadata
    Column("stored_text", Boolean, nullable=False),
    Column("finish_reason", String),
    Column("sampling", Text, nullable=False),  # JSON, numbers only
    Column("chat_template_kwargs", Text),  # JSON
    Column("template_hash", String),
    Column("mean_logprob", Double),
    Column("min_logprob", Double),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("ttft_ms", Double),
    Column("latency_ms", Double),
    Column("subject", String, index=True),
    Column("session", String),
    Column("kept_because", String, nullable=False),
    Column("inclusion_probability", Double, nullable=False),
    Column("held", Boolean, nullable=False, server_default=false()),  # not decided on yet
    Column("sample_key", Double, nullable=False, server_default="0"),  # keyed hash, 0 to 1
    Column("bytes", Integer, nullable=False, server_default="0"),  # of the text as stored
    Index("interactions_held_ts", "held", "ts", "bytes"),
    Index("interactions_kept_ts", "kept_because", "ts", "bytes"),
    Index("interactions_version_ts", "version", "ts"),
    Index("interactions_alias_ts", "alias", "ts"),
    sqlite_autoincrement=True,
)

feedback = Table(
    "feedback",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("feedback_id", String, nullable=False, unique=True),
    Column("row_id", String, nullable=False, index=True),
    Column("ts", Double, nullable=False),
    Column("rating", String),
    Column("score", Double),
    Column("text", LargeBinary, nullable=False),  # packed: correction, reason
    Column("regenerate", Boolean),
    Column("report", Boolean),
    Column("success", Boolean),
    Column("subject", String),
    sqlite_autoincrement=True,
)

tags = Table(
    "tags",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("row_id", String, nullable=False),
    Column("tag", String, nullable=False),
    Column("who", String, nullable=False),
    Column("why", Text, nullable=False),
    Column("ts", Double, nullable=False),
    UniqueConstraint("row_id", "tag", "who"),
    Index("tags_tag_ts", "tag", "ts"),
    sqlite_autoincrement=True,
)

corrections = Table(
    "corrections",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("row_id", String, nullable=False, index=True),
    Column("ts", Double, nullable=False),
    Column("source", String, nullable=False),
    Column("author", String, nullable=False),
    Column("text", LargeBinary, nullable=False),  # packed: text, why
    Column("decision", String, nullable=False),
    sqlite_autoincrement=True,
)

datasets = Table(
    "datasets",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("dataset_id", String, nullable=False, unique=True),
    Column("ts", Double, nullable=False),
    Column("alias", String, nullable=False),
    Column("path", String, nullable=False),
    Column("pairs", Integer, nullable=False),
    sqlite_autoincrement=True,
)

dataset_rows = Table(
    "dataset_rows",
    metadata,
    Column("dataset_id", String, primary_key=True),
    Column("row_id", String, primary_key=True),
    Index("dataset_rows_row", "row_id"),
)

deployments = Table(
    "deployments",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("alias", String, nullable=False, index=True),
    Column("ts", Double, nullable=False),
    Column("kind", String, nullable=False),
    Column("version", Integer),
    Column("share", Double),
    Column("who", String, nullable=False),
    Column("why", Text, nullable=False),
    Column("after", Integer, nullable=False),  # the alias's last event when this was decided
    # Two writers that decided on the same state cannot both append.
    UniqueConstraint("alias", "after"),
    sqlite_autoincrement=True,
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("run_id", String, nullable=False),
    Column("ts", Double, nullable=False),
    Column("alias", String, nullable=False),
    Column("candidate", String, nullable=False, index=True),
    Column("baseline", String, nullable=False),
    Column("verdict", String, nullable=False),
    Column("report", Text, nullable=False),  # JSON
    sqlite_autoincrement=True,
)

cursors = Table(
    "cursors",
    metadata,
    Column("name", String, primary_key=True),
    Column("position", _Seq, nullable=False),
)

subjects = Table(
    "subjects",
    metadata,
    # The key's own name, 16 hex digits, stands in front of what is sealed with it.
    Column("key_id", String, primary_key=True),
    Column("owner", String, nullable=False, index=True),  # a subject, `session:…` or `day:…`
    Column("wrapped", LargeBinary, nullable=False),
    Column("master", String, nullable=False),  # id of the master key that wraps it
    Column("ts", Double, nullable=False),
)

masters = Table(
    "masters",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("master", String, nullable=False),  # the last one is in use
    Column("ts", Double, nullable=False),
    Column("who", String, nullable=False),
    sqlite_autoincrement=True,
)

forgotten = Table(
    "forgotten",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("subject", String, nullable=False, index=True),
    Column("ts", Double, nullable=False),
    Column("who", String, nullable=False),
    Column("why", Text, nullable=False),
    sqlite_autoincrement=True,
)

rollups = Table(
    "rollups",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("hour", Integer, nullable=False, index=True),  # hours since the epoch
    Column("alias", String),
    Column("version", String, nullable=False),
    Column("arm", String, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("stats", Text, nullable=False),  # JSON: sums and histograms
    sqlite_autoincrement=True,
)

# What was decided on the rows of an hour: it holds for those that come late, too.
settled = Table(
    "settled",
    metadata,
    Column("hour", Integer, primary_key=True, autoincrement=False),  # hours since the epoch
    Column("version", String, primary_key=True),
    Column("ts", Double, nullable=False),
    Column("early", Boolean, nullable=False),  # before the hold-back was over: no room
    Column("threshold", Double, nullable=False),  # sample keys below it stay
    Column("unsure", Double, nullable=False),  # a mean logprob below it is low confidence, nats
    Column("kept", BigInteger, nullable=False),  # rows of the sample
    Column("kept_bytes", BigInteger, nullable=False),  # of their text
    Column("confidence", Text, nullable=False),  # JSON: mean logprobs of all rows of the hour
)
