"""What curation needs: a queue with its reviews and drafts, clusters, what a build knows about
each correction, why pairs were left out, spending and alerts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Tags that brought a row into the queue before there was a table for it, and their ranks.
_QUEUED = (("operator_review", 1), ("user_negative", 3), ("low_confidence", 6))


def _seq() -> sa.Column:
    kind = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    return sa.Column("seq", kind, primary_key=True, autoincrement=True)


def upgrade() -> None:
    op.add_column("datasets", sa.Column("report", sa.Text))
    op.create_index("ix_feedback_subject", "feedback", ["subject"])
    op.create_table(
        "queue",
        sa.Column("row_id", sa.String, primary_key=True),
        sa.Column("alias", sa.String),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("waiting", sa.Boolean, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("who", sa.String),
        sa.Column("until", sa.Double, nullable=False, server_default="0"),
    )
    op.create_index("queue_waiting", "queue", ["alias", "waiting", "rank", "ts"])
    op.create_table(
        "reviews",
        _seq(),
        sa.Column("row_id", sa.String, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("correction", sa.BigInteger().with_variant(sa.Integer, "sqlite")),
        sa.Column("why", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("reviews_row_who", "reviews", ["row_id", "who"])
    op.create_index("reviews_who_ts", "reviews", ["who", "ts"])
    op.create_table(
        "drafts",
        sa.Column("row_id", sa.String, primary_key=True),
        sa.Column("who", sa.String, primary_key=True),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("text", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "spaces",
        _seq(),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("fitted_on", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_spaces_alias", "spaces", ["alias"])
    op.create_table(
        "clusters",
        _seq(),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("cluster", sa.Integer, nullable=False),
        sa.Column("space", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("terms", sa.Text, nullable=False),
        sa.Column("centroid", sa.LargeBinary, nullable=False),
        sa.Column("members", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("clusters_alias_cluster", "clusters", ["alias", "cluster"])
    op.create_table(
        "cluster_rows",
        sa.Column("row_id", sa.String, primary_key=True),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("cluster", sa.Integer),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("traffic", sa.Boolean, nullable=False),
        sa.Column("weight", sa.Double, nullable=False),
    )
    op.create_index("cluster_rows_cluster_ts", "cluster_rows", ["alias", "cluster", "ts"])
    op.create_index("cluster_rows_ts", "cluster_rows", ["alias", "ts"])
    op.create_table(
        "candidates",
        sa.Column("row_id", sa.String, primary_key=True),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("correction", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("builder", sa.String, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("conversation", sa.String, nullable=False),
        sa.Column("problem", sa.String, nullable=False),
        sa.Column("question", sa.String, nullable=False),
        sa.Column("answer", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
    )
    op.create_index("candidates_alias", "candidates", ["alias", "correction"])
    op.create_table(
        "left_out",
        _seq(),
        sa.Column("row_id", sa.String, nullable=False),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("dataset_id", sa.String, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_left_out_row_id", "left_out", ["row_id"])
    op.create_table(
        "spending",
        _seq(),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("what", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost", sa.Double),
        sqlite_autoincrement=True,
    )
    op.create_index("spending_alias_ts", "spending", ["alias", "ts"])
    op.create_table(
        "alerts",
        _seq(),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("alerts_alias_ts", "alerts", ["alias", "ts"])
    _fill_queue()


def _fill_queue() -> None:
    """What waited in the older schema: proposed corrections, and doubtful rows nobody judged."""
    insert = (
        "INSERT INTO queue (row_id, alias, ts, rank, waiting, since, until) "
        "SELECT i.row_id, i.alias, i.ts, {rank}, {true}, i.ts, 0 FROM interactions i "
        "WHERE i.stored_text AND i.row_id IN ({chosen}) "
        "AND i.row_id NOT IN (SELECT row_id FROM queue)"
    )
    true = "true" if op.get_bind().dialect.name == "postgresql" else "1"
    last = "SELECT max(seq) FROM corrections GROUP BY row_id"
    proposed = f"SELECT row_id FROM corrections WHERE seq IN ({last}) AND decision = 'proposed'"
    op.execute(insert.format(rank=0, true=true, chosen=proposed))
    for tag, rank in _QUEUED:
        doubtful = (
            f"SELECT row_id FROM tags WHERE tag = '{tag}' "
            "AND row_id NOT IN (SELECT row_id FROM corrections) "
            "AND row_id NOT IN (SELECT row_id FROM tags WHERE tag = 'reviewed')"
        )
        op.execute(insert.format(rank=rank, true=true, chosen=doubtful))


def downgrade() -> None:
    """Reviews, drafts and clusters go; corrections and tags stay."""
    for table in (
        "alerts",
        "spending",
        "left_out",
        "candidates",
        "cluster_rows",
        "clusters",
        "spaces",
        "drafts",
        "reviews",
        "queue",
    ):
        op.drop_table(table)
    op.drop_index("ix_feedback_subject", "feedback")
    op.drop_column("datasets", "report")
