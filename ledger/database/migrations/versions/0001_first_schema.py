"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _seq() -> sa.Column:
    return sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True)


def upgrade() -> None:
    op.create_table(
        "interactions",
        _seq(),
        sa.Column("row_id", sa.String, nullable=False, unique=True),
        sa.Column("request_id", sa.String, nullable=False),
        sa.Column("choice", sa.Integer, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("api", sa.String, nullable=False),
        sa.Column("alias", sa.String),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("base_model", sa.String, nullable=False),
        sa.Column("deployment", sa.Integer, nullable=False),
        sa.Column("arm", sa.String, nullable=False),
        sa.Column("text", sa.LargeBinary, nullable=False),
        sa.Column("stored_text", sa.Boolean, nullable=False),
        sa.Column("finish_reason", sa.String),
        sa.Column("sampling", sa.Text, nullable=False),
        sa.Column("chat_template_kwargs", sa.Text),
        sa.Column("template_hash", sa.String),
        sa.Column("mean_logprob", sa.Double),
        sa.Column("min_logprob", sa.Double),
        sa.Column("prompt_tokens", sa.Integer, nullable=False),
        sa.Column("completion_tokens", sa.Integer, nullable=False),
        sa.Column("ttft_ms", sa.Double),
        sa.Column("latency_ms", sa.Double),
        sa.Column("subject", sa.String),
        sa.Column("session", sa.String),
        sa.Column("kept_because", sa.String, nullable=False),
        sa.Column("inclusion_probability", sa.Double, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_interactions_request_id", "interactions", ["request_id"])
    op.create_index("ix_interactions_subject", "interactions", ["subject"])
    op.create_index("interactions_version_ts", "interactions", ["version", "ts"])
    op.create_index("interactions_alias_ts", "interactions", ["alias", "ts"])

    op.create_table(
        "feedback",
        _seq(),
        sa.Column("feedback_id", sa.String, nullable=False, unique=True),
        sa.Column("row_id", sa.String, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("rating", sa.String),
        sa.Column("score", sa.Double),
        sa.Column("text", sa.LargeBinary, nullable=False),
        sa.Column("regenerate", sa.Boolean),
        sa.Column("report", sa.Boolean),
        sa.Column("success", sa.Boolean),
        sa.Column("subject", sa.String),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_feedback_row_id", "feedback", ["row_id"])

    op.create_table(
        "tags",
        _seq(),
        sa.Column("row_id", sa.String, nullable=False),
        sa.Column("tag", sa.String, nullable=False),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.UniqueConstraint("row_id", "tag", "who"),
        sqlite_autoincrement=True,
    )
    op.create_index("tags_tag_ts", "tags", ["tag", "ts"])

    op.create_table(
        "corrections",
        _seq(),
        sa.Column("row_id", sa.String, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("author", sa.String, nullable=False),
        sa.Column("text", sa.LargeBinary, nullable=False),
        sa.Column("decision", sa.String, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_corrections_row_id", "corrections", ["row_id"])

    op.create_table(
        "datasets",
        _seq(),
        sa.Column("dataset_id", sa.String, nullable=False, unique=True),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("path", sa.String, nullable=False),
        sa.Column("pairs", sa.Integer, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "dataset_rows",
        sa.Column("dataset_id", sa.String, primary_key=True),
        sa.Column("row_id", sa.String, primary_key=True),
    )
    op.create_index("dataset_rows_row", "dataset_rows", ["row_id"])

    op.create_table(
        "deployments",
        _seq(),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("share", sa.Double),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("after", sa.Integer, nullable=False),
        sa.UniqueConstraint("alias", "after"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_deployments_alias", "deployments", ["alias"])

    op.create_table(
        "evaluations",
        _seq(),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("candidate", sa.String, nullable=False),
        sa.Column("baseline", sa.String, nullable=False),
        sa.Column("verdict", sa.String, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_evaluations_candidate", "evaluations", ["candidate"])

    op.create_table(
        "cursors",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    for table in (
        "cursors",
        "evaluations",
        "deployments",
        "dataset_rows",
        "datasets",
        "corrections",
        "tags",
        "feedback",
        "interactions",
    ):
        op.drop_table(table)
