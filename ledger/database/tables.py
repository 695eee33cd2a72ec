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
    Column("subject", String, index=True),
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
    Column("report", Text),  # JSON: what the card says
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
    Column("report", Text),  # JSON: what the decision rests on, no text of users
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

# -- curation ------------------------------------------------------------------------------------

# Which rows wait for eyes: derived from tags, corrections and reviews, and changed in place.
queue = Table(
    "queue",
    metadata,
    Column("row_id", String, primary_key=True),
    Column("alias", String),
    Column("ts", Double, nullable=False),  # of the row
    Column("rank", Integer, nullable=False),  # the smallest is shown first; see ledger.marks
    Column("waiting", Boolean, nullable=False),
    Column("since", Double, nullable=False),  # when it came in; earlier reviews do not count
    Column("who", String),  # has it on the screen, until …
    Column("until", Double, nullable=False, server_default="0"),
    Index("queue_waiting", "alias", "waiting", "rank", "ts"),
)

reviews = Table(
    "reviews",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("row_id", String, nullable=False),
    Column("ts", Double, nullable=False),
    Column("who", String, nullable=False),
    Column("role", String, nullable=False),
    Column("action", String, nullable=False),
    Column("correction", _Seq),  # number of the correction that was judged, or that it made
    Column("why", Text, nullable=False),
    Index("reviews_row_who", "row_id", "who"),
    Index("reviews_who_ts", "who", "ts"),
    sqlite_autoincrement=True,
)

drafts = Table(
    "drafts",
    metadata,
    Column("row_id", String, primary_key=True),
    Column("who", String, primary_key=True),
    Column("ts", Double, nullable=False),
    Column("text", LargeBinary, nullable=False),  # packed: text
)

# What turns a question into a vector. Rows of clusters name the space that they lie in.
spaces = Table(
    "spaces",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("alias", String, nullable=False, index=True),
    Column("ts", Double, nullable=False),
    Column("kind", String, nullable=False),
    Column("fitted_on", Integer, nullable=False),  # questions
    Column("data", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)

clusters = Table(
    "clusters",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("alias", String, nullable=False),
    Column("cluster", Integer, nullable=False),  # the last row of a cluster holds
    Column("space", _Seq, nullable=False),
    Column("ts", Double, nullable=False),
    Column("name", String, nullable=False),
    Column("terms", Text, nullable=False),  # JSON
    Column("centroid", LargeBinary, nullable=False),  # float32
    Column("members", BigInteger, nullable=False),
    Index("clusters_alias_cluster", "alias", "cluster"),
    sqlite_autoincrement=True,
)

cluster_rows = Table(
    "cluster_rows",
    metadata,
    Column("row_id", String, primary_key=True),
    Column("alias", String, nullable=False),
    Column("cluster", Integer),  # NULL: like nothing known
    Column("ts", Double, nullable=False),  # of the row
    Column("traffic", Boolean, nullable=False),  # in the sample that stands for all traffic
    Column("weight", Double, nullable=False),  # how many answers it stands for there
    Index("cluster_rows_cluster_ts", "alias", "cluster", "ts"),
    Index("cluster_rows_ts", "alias", "ts"),
)

# What a build knows about the correction of a row, so that the next one need not open it again.
# Hashes are keyed (`Store.mac`): nobody without the key can try a guessed text on them.
candidates = Table(
    "candidates",
    metadata,
    Column("row_id", String, primary_key=True),
    Column("alias", String, nullable=False),
    Column("correction", _Seq, nullable=False),
    Column("builder", String, nullable=False),  # what made it; another one makes it anew
    Column("ts", Double, nullable=False),  # of the row
    Column("conversation", String, nullable=False),  # rows that must not be split
    Column("problem", String, nullable=False),  # why it cannot be a pair, whatever else there is
    Column("question", String, nullable=False),
    Column("answer", String, nullable=False),
    Column("digest", String, nullable=False),  # of the pair
    Column("signature", LargeBinary, nullable=False),  # MinHash of the question
    Column("facts", Text, nullable=False),  # JSON, no text
    Index("candidates_alias", "alias", "correction"),
)

left_out = Table(
    "left_out",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("row_id", String, nullable=False, index=True),
    Column("alias", String, nullable=False),
    Column("ts", Double, nullable=False),
    Column("reason", String, nullable=False),  # "" where it is in again
    Column("dataset_id", String, nullable=False),
    sqlite_autoincrement=True,
)

spending = Table(
    "spending",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("ts", Double, nullable=False),
    Column("alias", String, nullable=False),
    Column("what", String, nullable=False),  # teacher, judge, training, gate, shadow
    Column("model", String, nullable=False),
    Column("calls", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cost", Double),  # in the currency of the price table; NULL where no price is set
    Column("version", String),  # pinned name it was spent on; NULL: on none in particular
    Column("gpu_seconds", Double, nullable=False, server_default="0"),  # of one GPU or box
    Index("spending_alias_ts", "alias", "ts"),
    sqlite_autoincrement=True,
)

alerts = Table(
    "alerts",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("alias", String, nullable=False),
    Column("ts", Double, nullable=False),
    Column("kind", String, nullable=False),
    Column("since", Double, nullable=False),  # the window that it is about
    Column("until", Double, nullable=False),
    Column("report", Text, nullable=False),  # JSON
    Index("alerts_alias_ts", "alias", "ts"),
    sqlite_autoincrement=True,
)

# What became of a version as a thing: where it came from, where it went, that it was let go.
versions = Table(
    "versions",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("alias", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("ts", Double, nullable=False),
    Column("kind", String, nullable=False),  # published, pulled, pushed, signed, pruned
    Column("content_id", String, nullable=False),  # hash of the manifest
    Column("who", String, nullable=False),
    Column("why", Text, nullable=False),  # for pushed and pulled: where
    Index("versions_alias", "alias", "version"),
    sqlite_autoincrement=True,
)

# -- the gate --------------------------------------------------------------------------------------

# Which gate packs an alias has, as they were taken up, changed or let go.
packs = Table(
    "packs",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("alias", String, nullable=False),
    Column("ts", Double, nullable=False),
    Column("name", String, nullable=False),
    Column("pack_hash", String, nullable=False),
    Column("action", String, nullable=False),  # adopted, tightened, loosened, removed
    Column("content", Text, nullable=False),  # JSON of the pack; no text of users
    Column("who", String, nullable=False),
    Column("why", Text, nullable=False),
    Index("packs_alias", "alias", "name"),
    sqlite_autoincrement=True,
)

# Answers to the gate's questions, so that none is asked twice. Not of users' requests.
gate_answers = Table(
    "gate_answers",
    metadata,
    Column("key", String, primary_key=True),  # hash of version, question, sampling and sample
    Column("ts", Double, nullable=False),
    Column("alias", String, nullable=False),
    Column("version", String, nullable=False),
    Column("row_id", String),  # where the question is a stored row: the row
    Column("text", LargeBinary, nullable=False),  # packed, sealed as the row is
    Index("gate_answers_alias_version", "alias", "version"),
    Index("gate_answers_row", "row_id"),
)

# -- the loop --------------------------------------------------------------------------------------

# Who does what now, so that nobody else does it too: taken, renewed and given back in place.
leases = Table(
    "leases",
    metadata,
    Column("name", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("token", String, nullable=False),  # of this taking; another one has another
    Column("since", Double, nullable=False),
    Column("until", Double, nullable=False),
    Column("what", Text, nullable=False),
)

# What a continuous watch remembers between two looks, changed in place. Derived from rows.
watches = Table(
    "watches",
    metadata,
    Column("name", String, primary_key=True),  # alias/signal
    Column("ts", Double, nullable=False),
    Column("state", Text, nullable=False),  # JSON
)

firings = Table(
    "firings",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("alias", String, nullable=False),
    Column("ts", Double, nullable=False),
    Column("triggers", Text, nullable=False),  # JSON: names of those that fired
    Column("decision", String, nullable=False),  # retrain, collect
    Column("report", Text, nullable=False),  # JSON
    Index("firings_alias_ts", "alias", "ts"),
    sqlite_autoincrement=True,
)

# What came of a firing, as it came: a run, a verdict, a stage, a rollback.
outcomes = Table(
    "outcomes",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("firing", _Seq, nullable=False, index=True),
    Column("ts", Double, nullable=False),
    Column("kind", String, nullable=False),
    Column("report", Text, nullable=False),  # JSON
    sqlite_autoincrement=True,
)

# What a candidate would have said to a live question that another version answered.
shadows = Table(
    "shadows",
    metadata,
    Column("seq", _Seq, primary_key=True, autoincrement=True),
    Column("row_id", String, nullable=False),
    Column("alias", String, nullable=False),
    Column("version", String, nullable=False),
    Column("ts", Double, nullable=False),
    Column("text", LargeBinary, nullable=False),  # packed, sealed as the row is
    Column("mean_logprob", Double),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("latency_ms", Double, nullable=False),
    Column("preferred", String),  # candidate, live or tie; NULL: not judged
    UniqueConstraint("row_id", "version"),
    Index("shadows_version", "alias", "version", "ts"),
    sqlite_autoincrement=True,
)

# -- people, and rows that were let go -------------------------------------------------------------

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
