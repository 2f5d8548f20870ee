"""Versions that were DISABLED when their destruction was scheduled."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Which versions were DISABLED before is not known; they are not taken for it."""
    op.add_column("key_versions", sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()))
