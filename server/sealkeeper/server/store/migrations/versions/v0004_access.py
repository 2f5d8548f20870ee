"""Policies, grants, proposals and what approvers say of them, quotas, and the use of keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "policies",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("text", sa.LargeBinary, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("proposal", sa.String(200), nullable=False),
        sa.Column("author", sa.String(1024), nullable=False),
    )
    op.create_table(
        "grants",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("subject", sa.String(1024), nullable=False),
        sa.Column("resource", sa.String(200), nullable=False),
        sa.Column("actions", sa.JSON, nullable=False),
        sa.Column("reason", sa.String(1024), nullable=False),
        sa.Column("break_glass", sa.Boolean, nullable=False),
        sa.Column("created_by", sa.String(1024), nullable=False),
        sa.Column("proposal", sa.String(200), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("expire_time", sa.BigInteger, nullable=False),
        sa.Column("revoke_time", sa.BigInteger),
        sa.Column("revoked_by", sa.String(1024), nullable=False),
    )
    op.create_table(
        "proposals",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("action", sa.String(63), nullable=False),
        sa.Column("resource", sa.String(200), nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("proposer", sa.String(1024), nullable=False),
        sa.Column("proposer_role", sa.String(16), nullable=False),
        sa.Column("proposer_certificate", sa.LargeBinary, nullable=False),
        sa.Column("caller", sa.JSON, nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("reason", sa.String(1024), nullable=False),
        sa.Column("required", sa.Integer, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("expire_time", sa.BigInteger, nullable=False),
        sa.Column("close_time", sa.BigInteger),
        sa.Column("outcome", sa.String(300), nullable=False),
        sa.Column("log_index", sa.BigInteger, nullable=False),
        sa.Column("end_index", sa.BigInteger),
    )
    op.create_table(
        "approvals",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("proposal", sa.String(63), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("subject", sa.String(1024), nullable=False),
        sa.Column("person", sa.String(200), nullable=False),
        sa.Column("approves", sa.Boolean, nullable=False),
        sa.Column("statement", sa.LargeBinary, nullable=False),
        sa.Column("material", sa.LargeBinary, nullable=False),
        sa.Column("certificate", sa.Boolean, nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("withdraw_time", sa.BigInteger),
        sa.Column("withdraw_index", sa.BigInteger),
        sa.Column("log_index", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["tenant", "proposal"], ["proposals.tenant", "proposals.id"]),
    )
    op.create_table(
        "quotas",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("limits", sa.JSON, nullable=False),
    )
    op.create_table(
        "key_usage",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("key", sa.String(63), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("signatures", sa.BigInteger, nullable=False),
        sa.Column("production_signatures", sa.BigInteger, nullable=False),
        sa.Column("last_use_time", sa.BigInteger, nullable=False),
        sa.Column("recent", sa.JSON, nullable=False),
        sa.Column("production", sa.JSON, nullable=False),
    )
