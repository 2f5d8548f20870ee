"""Regions, standby versions, where versions came from, and imports of keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns and the table. Where versions came from before, nobody asked; their regions are not known."""
    op.add_column("keys", sa.Column("failover", sa.String(16), nullable=False, server_default="NONE"))
    for column in (
        sa.Column("region", sa.String(63), nullable=False, server_default=""),
        sa.Column("standby", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("origin", sa.String(16), nullable=False, server_default="UNKNOWN"),
        sa.Column("ceremony_index", sa.BigInteger),
    ):
        op.add_column("key_versions", column)
    op.create_table(
        "key_imports",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("key", sa.String(63), nullable=False),
        sa.Column("algorithm", sa.String(64), nullable=False),
        sa.Column("provider", sa.String(63), nullable=False),
        sa.Column("region", sa.String(63), nullable=False),
        sa.Column("standby", sa.Boolean, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("begun_by", sa.String(256), nullable=False),
        sa.Column("wrapping_state", sa.LargeBinary, nullable=False),
        sa.Column("wrapping_key", sa.LargeBinary, nullable=False),
        sa.Column("methods", sa.JSON, nullable=False),
        sa.Column("attestation", sa.JSON),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("expire_time", sa.BigInteger, nullable=False),
        sa.Column("close_time", sa.BigInteger),
        sa.Column("key_version", sa.String(200), nullable=False),
        sa.Column("left_over", sa.Boolean, nullable=False),
    )
