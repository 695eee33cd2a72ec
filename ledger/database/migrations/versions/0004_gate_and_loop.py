"""What the gate and the loop need: gate packs and their answers, leases, watches, firings and
what came of them, shadow answers; the evidence of a deployment event; what a version cost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _seq() -> sa.Column:
    kind = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    return sa.Column("seq", kind, primary_key=True, autoincrement=True)


def upgrade() -> None:
    op.add_column("deployments", sa.Column("report", sa.Text))
    op.add_column("spending", sa.Column("version", sa.String))
    op.add_column(
        "spending", sa.Column("gpu_seconds", sa.Double, nullable=False, server_default="0")
    )
    op.create_table(
        "versions",
        _seq(),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("content_id", sa.String, nullable=False),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("versions_alias", "versions", ["alias", "version"])
    op.create_table(
        "packs",
        _seq(),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("pack_hash", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("packs_alias", "packs", ["alias", "name"])
    op.create_table(
        "gate_answers",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("row_id", sa.String),
        sa.Column("text", sa.LargeBinary, nullable=False),
    )
    op.create_index("gate_answers_alias_version", "gate_answers", ["alias", "version"])
    op.create_index("gate_answers_row", "gate_answers", ["row_id"])
    op.create_table(
        "leases",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("holder", sa.String, nullable=False),
        sa.Column("token", sa.String, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("what", sa.Text, nullable=False),
    )
    op.create_table(
        "watches",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_table(
        "firings",
        _seq(),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("triggers", sa.Text, nullable=False),
        sa.Column("decision", sa.String, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("firings_alias_ts", "firings", ["alias", "ts"])
    op.create_table(
        "outcomes",
        _seq(),
        sa.Column("firing", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("report", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outcomes_firing", "outcomes", ["firing"])
    op.create_table(
        "shadows",
        _seq(),
        sa.Column("row_id", sa.String, nullable=False),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("text", sa.LargeBinary, nullable=False),
        sa.Column("mean_logprob", sa.Double),
        sa.Column("prompt_tokens", sa.Integer, nullable=False),
        sa.Column("completion_tokens", sa.Integer, nullable=False),
        sa.Column("latency_ms", sa.Double, nullable=False),
        sa.Column("preferred", sa.String),
        sa.UniqueConstraint("row_id", "version"),
        sqlite_autoincrement=True,
    )
    op.create_index("shadows_version", "shadows", ["alias", "version", "ts"])


def downgrade() -> None:
    """What the loop noticed, decided and spent on versions goes; versions and deployments stay."""
    op.drop_table("versions")
    for table in ("shadows", "outcomes", "firings", "watches", "leases", "gate_answers", "packs"):
        op.drop_table(table)
    op.drop_column("spending", "gpu_seconds")
    op.drop_column("spending", "version")
    op.drop_column("deployments", "report")
