"""Gates: their policies, exceptions and decisions, and the evidence and summaries of these."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "gates",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("gate", sa.String(63), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("text", sa.LargeBinary, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("proposal", sa.String(200), nullable=False),
        sa.Column("author", sa.String(1024), nullable=False),
    )
    op.create_table(
        "gate_exceptions",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("gate", sa.String(63), primary_key=True),
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("digest", sa.String(200), nullable=False),
        sa.Column("pattern", sa.String(512), nullable=False),
        sa.Column("environment", sa.String(63), nullable=False),
        sa.Column("reason", sa.String(1024), nullable=False),
        sa.Column("created_by", sa.String(1024), nullable=False),
        sa.Column("proposal", sa.String(200), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("expire_time", sa.BigInteger, nullable=False),
        sa.Column("revoke_time", sa.BigInteger),
        sa.Column("revoked_by", sa.String(1024), nullable=False),
        sa.Column("uses", sa.BigInteger, nullable=False),
    )
    _decisions()


def _decisions() -> None:
    op.create_table(
        "gate_decisions",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("gate", sa.String(63), primary_key=True),
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("subject_digest", sa.String(200), nullable=False),
        sa.Column("environment", sa.String(63), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
    )
    op.create_index("gate_decisions_subject", "gate_decisions", ["tenant", "gate", "subject_digest"])
    op.create_index("gate_decisions_time", "gate_decisions", ["time"])
    op.create_table(
        "gate_summaries",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("gate", sa.String(63), primary_key=True),
        sa.Column("environment", sa.String(63), primary_key=True),
        sa.Column("subject_digest", sa.String(200), primary_key=True),
        sa.Column("bundle", sa.String(200), nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
    )
    op.create_index("gate_summaries_subject", "gate_summaries", ["tenant", "subject_digest"])
    op.create_table(
        "gate_evidence",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("digest", sa.String(200), primary_key=True),
        sa.Column("last_use_time", sa.BigInteger, nullable=False),
    )
    op.create_index("gate_evidence_last_use_time", "gate_evidence", ["last_use_time"])
