"""Keys of users, what was forgotten, the hold-back, and the numbers of rows that were let go."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NUMBERED = (
    "interactions",
    "feedback",
    "tags",
    "corrections",
    "datasets",
    "deployments",
    "evaluations",
)


def _seq() -> sa.Column:
    kind = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    return sa.Column("seq", kind, primary_key=True, autoincrement=True)


def upgrade() -> None:
    false, zero = sa.false(), "0"
    for column in (
        sa.Column("held", sa.Boolean, nullable=False, server_default=false),
        sa.Column("sample_key", sa.Double, nullable=False, server_default=zero),
        sa.Column("bytes", sa.Integer, nullable=False, server_default=zero),
    ):
        op.add_column("interactions", column)
    op.execute("UPDATE interactions SET bytes = length(text)")
    op.create_index("interactions_held_ts", "interactions", ["held", "ts", "bytes"])
    op.create_index("interactions_kept_ts", "interactions", ["kept_because", "ts", "bytes"])
    if op.get_bind().dialect.name == "postgresql":  # SQLite's integers have 64 bits as they are
        for table in _NUMBERED:
            op.alter_column(table, "seq", type_=sa.BigInteger)
            op.execute(f"ALTER SEQUENCE {table}_seq_seq AS bigint")
        op.alter_column("cursors", "position", type_=sa.BigInteger)

    op.create_table(
        "subjects",
        sa.Column("key_id", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        sa.Column("master", sa.String, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
    )
    op.create_index("ix_subjects_owner", "subjects", ["owner"])
    op.create_table(
        "masters",
        _seq(),
        sa.Column("master", sa.String, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("who", sa.String, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "forgotten",
        _seq(),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_forgotten_subject", "forgotten", ["subject"])
    op.create_table(
        "rollups",
        _seq(),
        sa.Column("hour", sa.Integer, nullable=False),
        sa.Column("alias", sa.String),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("arm", sa.String, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("stats", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rollups_hour", "rollups", ["hour"])
    op.create_table(
        "settled",
        sa.Column("hour", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version", sa.String, primary_key=True),
        sa.Column("ts", sa.Double, nullable=False),
        sa.Column("early", sa.Boolean, nullable=False),
        sa.Column("threshold", sa.Double, nullable=False),
        sa.Column("unsure", sa.Double, nullable=False),
        sa.Column("kept", sa.BigInteger, nullable=False),
        sa.Column("kept_bytes", sa.BigInteger, nullable=False),
        sa.Column("confidence", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Text that is sealed cannot be read by the older program; nothing else is lost."""
    for table in ("settled", "rollups", "forgotten", "masters", "subjects"):
        op.drop_table(table)
    op.drop_index("interactions_kept_ts", "interactions")
    op.drop_index("interactions_held_ts", "interactions")
    for column in ("bytes", "sample_key", "held"):
        op.drop_column("interactions", column)
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("cursors", "position", type_=sa.Integer)
        for table in _NUMBERED:
            op.execute(f"ALTER SEQUENCE {table}_seq_seq AS integer")
            op.alter_column(table, "seq", type_=sa.Integer)
