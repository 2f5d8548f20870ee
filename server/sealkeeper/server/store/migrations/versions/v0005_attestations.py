"""Attestations, and by what they are found."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "attestations",
        sa.Column("log_index", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("key", sa.String(63), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("attester", sa.String(1024), nullable=False),
        sa.Column("predicate_type", sa.String(512), nullable=False),
        sa.Column("subjects", sa.JSON, nullable=False),
        sa.Column("subject_count", sa.Integer, nullable=False),
        sa.Column("source_repository", sa.String(2048), nullable=False),
        sa.Column("source_ref", sa.String(1024), nullable=False),
        sa.Column("source_commit", sa.String(64), nullable=False),
        sa.Column("builder_id", sa.String(2048), nullable=False),
        sa.Column("build_type", sa.String(4096), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("bundle_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("bundle_size", sa.BigInteger, nullable=False),
    )
    for name, *columns in (
        ("attestations_tenant", "tenant", "log_index"),
        ("attestations_predicate_type", "tenant", "predicate_type", "log_index"),
        ("attestations_source_repository", "tenant", "source_repository", "log_index"),
        ("attestations_builder_id", "tenant", "builder_id", "log_index"),
        ("attestations_key", "tenant", "key", "log_index"),
        ("attestations_create_time", "tenant", "create_time"),
        ("attestations_bundle_digest", "bundle_digest"),
    ):
        op.create_index(name, "attestations", columns)
    op.create_table(
        "attestation_subjects",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("digest", sa.String(144), primary_key=True),
        sa.Column("log_index", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.ForeignKeyConstraint(["log_index"], ["attestations.log_index"]),
    )
