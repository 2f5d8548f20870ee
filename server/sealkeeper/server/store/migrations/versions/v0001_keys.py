"""Keys, their versions, answered requests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "keys",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("key", sa.String(63), primary_key=True),
        sa.Column("algorithm", sa.String(64), nullable=False),
        sa.Column("provider", sa.String(63), nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "key_versions",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("key", sa.String(63), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("provider", sa.String(63), nullable=False),
        sa.Column("protection_level", sa.String(16), nullable=False),
        sa.Column("handle", sa.String(512), nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("activate_time", sa.BigInteger),
        sa.Column("retire_time", sa.BigInteger),
        sa.Column("compromise_time", sa.BigInteger),
        sa.Column("destroy_time", sa.BigInteger),
        sa.ForeignKeyConstraint(["tenant", "key"], ["keys.tenant", "keys.key"]),
    )
    op.create_table(
        "requests",
        sa.Column("id", sa.LargeBinary(32), primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=False),
    )
    op.create_index("requests_create_time", "requests", ["create_time"])
    op.create_table(
        "marks",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
