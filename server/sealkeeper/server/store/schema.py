"""Tables of the metadata database. Changes to them go through ``migrations/versions``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
)
from sqlalchemy.engine import Dialect

metadata = MetaData()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UtcTime(TypeDecorator[datetime]):
    """A time as microseconds since the epoch: exact, ordered and alike in every engine."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """To the database."""
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        return None if value is None else _EPOCH + timedelta(microseconds=value)


keys = Table(
    "keys",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("key", String(63), primary_key=True),
    Column("algorithm", String(64), nullable=False),
    Column("provider", String(63), nullable=False),
    Column("labels", JSON, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("failover", String(16), nullable=False),
)

key_versions = Table(
    "key_versions",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("key", String(63), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", String(32), nullable=False),
    Column("provider", String(63), nullable=False),
    Column("protection_level", String(16), nullable=False),
    Column("handle", String(512), nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("activate_time", UtcTime),
    Column("retire_time", UtcTime),
    Column("compromise_time", UtcTime),
    Column("destroy_time", UtcTime),
    Column("disabled", Boolean, nullable=False),
    Column("region", String(63), nullable=False),
    Column("standby", Boolean, nullable=False),
    Column("origin", String(16), nullable=False),
    Column("ceremony_index", BigInteger),
    ForeignKeyConstraint(["tenant", "key"], ["keys.tenant", "keys.key"]),
)

key_imports = Table(
    "key_imports",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("key", String(63), nullable=False),
    Column("algorithm", String(64), nullable=False),
    Column("provider", String(63), nullable=False),
    Column("region", String(63), nullable=False),
    Column("standby", Boolean, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("begun_by", String(256), nullable=False),
    Column("wrapping_state", LargeBinary, nullable=False),
    Column("wrapping_key", LargeBinary, nullable=False),
    Column("methods", JSON, nullable=False),
    Column("attestation", JSON),
    Column("create_time", UtcTime, nullable=False),
    Column("expire_time", UtcTime, nullable=False),
    Column("close_time", UtcTime),
    Column("key_version", String(200), nullable=False),
    Column("left_over", Boolean, nullable=False),
)

policies = Table(
    "policies",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("text", LargeBinary, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("proposal", String(200), nullable=False),
    Column("author", String(1024), nullable=False),
)

grants = Table(
    "grants",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("subject", String(1024), nullable=False),
    Column("resource", String(200), nullable=False),
    Column("actions", JSON, nullable=False),
    Column("reason", String(1024), nullable=False),
    Column("break_glass", Boolean, nullable=False),
    Column("created_by", String(1024), nullable=False),
    Column("proposal", String(200), nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("expire_time", UtcTime, nullable=False),
    Column("revoke_time", UtcTime),
    Column("revoked_by", String(1024), nullable=False),
)

proposals = Table(
    "proposals",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("action", String(63), nullable=False),
    Column("resource", String(200), nullable=False),
    Column("key", String(200), nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("proposer", String(1024), nullable=False),
    Column("proposer_role", String(16), nullable=False),
    Column("proposer_certificate", LargeBinary, nullable=False),
    Column("caller", JSON, nullable=False),
    Column("address", String(64), nullable=False),
    Column("reason", String(1024), nullable=False),
    Column("required", Integer, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("expire_time", UtcTime, nullable=False),
    Column("close_time", UtcTime),
    Column("outcome", String(300), nullable=False),
    Column("log_index", BigInteger, nullable=False),
    Column("end_index", BigInteger),
)

approvals = Table(
    "approvals",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("proposal", String(63), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("subject", String(1024), nullable=False),
    Column("person", String(200), nullable=False),
    Column("approves", Boolean, nullable=False),
    Column("statement", LargeBinary, nullable=False),
    Column("material", LargeBinary, nullable=False),
    Column("certificate", Boolean, nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("withdraw_time", UtcTime),
    Column("withdraw_index", BigInteger),
    Column("log_index", BigInteger, nullable=False),
    ForeignKeyConstraint(["tenant", "proposal"], ["proposals.tenant", "proposals.id"]),
)

gates = Table(
    "gates",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("gate", String(63), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("text", LargeBinary, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("proposal", String(200), nullable=False),
    Column("author", String(1024), nullable=False),
)

gate_exceptions = Table(
    "gate_exceptions",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("gate", String(63), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("digest", String(200), nullable=False),
    Column("pattern", String(512), nullable=False),
    Column("environment", String(63), nullable=False),
    Column("reason", String(1024), nullable=False),
    Column("created_by", String(1024), nullable=False),
    Column("proposal", String(200), nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("expire_time", UtcTime, nullable=False),
    Column("revoke_time", UtcTime),
    Column("revoked_by", String(1024), nullable=False),
    Column("uses", BigInteger, nullable=False),
)

gate_decisions = Table(
    "gate_decisions",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("gate", String(63), primary_key=True),
    Column("id", String(63), primary_key=True),
    Column("time", UtcTime, nullable=False),
    Column("subject_digest", String(200), nullable=False),
    Column("environment", String(63), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("document", LargeBinary, nullable=False),
    Index("gate_decisions_subject", "tenant", "gate", "subject_digest"),
    Index("gate_decisions_time", "time"),
)

gate_summaries = Table(
    "gate_summaries",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("gate", String(63), primary_key=True),
    Column("environment", String(63), primary_key=True),
    Column("subject_digest", String(200), primary_key=True),
    Column("bundle", String(200), nullable=False),
    Column("time", UtcTime, nullable=False),
    Index("gate_summaries_subject", "tenant", "subject_digest"),
)

gate_evidence = Table(
    "gate_evidence",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("digest", String(200), primary_key=True),
    Column("last_use_time", UtcTime, nullable=False),
    Index("gate_evidence_last_use_time", "last_use_time"),
)

quotas = Table(
    "quotas",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("limits", JSON, nullable=False),
)

key_usage = Table(
    "key_usage",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("key", String(63), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("signatures", BigInteger, nullable=False),
    Column("production_signatures", BigInteger, nullable=False),
    Column("last_use_time", UtcTime, nullable=False),
    Column("recent", JSON, nullable=False),
    Column("production", JSON, nullable=False),
)

attestations = Table(
    "attestations",
    metadata,
    Column("log_index", BigInteger, primary_key=True, autoincrement=False),
    Column("tenant", String(63), nullable=False),
    Column("key", String(63), nullable=False),
    Column("number", Integer, nullable=False),
    Column("attester", String(1024), nullable=False),
    Column("predicate_type", String(512), nullable=False),
    Column("subjects", JSON, nullable=False),
    Column("subject_count", Integer, nullable=False),
    Column("source_repository", String(2048), nullable=False),
    Column("source_ref", String(1024), nullable=False),
    Column("source_commit", String(64), nullable=False),
    Column("builder_id", String(2048), nullable=False),
    Column("build_type", String(4096), nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("bundle_digest", LargeBinary(32), nullable=False),
    Column("bundle_size", BigInteger, nullable=False),
    Index("attestations_tenant", "tenant", "log_index"),
    Index("attestations_predicate_type", "tenant", "predicate_type", "log_index"),
    Index("attestations_source_repository", "tenant", "source_repository", "log_index"),
    Index("attestations_builder_id", "tenant", "builder_id", "log_index"),
    Index("attestations_key", "tenant", "key", "log_index"),
    Index("attestations_create_time", "tenant", "create_time"),
    Index("attestations_bundle_digest", "bundle_digest"),
)

attestation_subjects = Table(
    "attestation_subjects",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("digest", String(144), primary_key=True),
    Column("log_index", BigInteger, primary_key=True, autoincrement=False),
    ForeignKeyConstraint(["log_index"], ["attestations.log_index"]),
)

requests = Table(
    "requests",
    metadata,
    Column("id", LargeBinary(32), primary_key=True),
    Column("fingerprint", LargeBinary(32), nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Index("requests_create_time", "create_time"),
)

marks = Table(
    "marks",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("value", BigInteger, nullable=False),
)
