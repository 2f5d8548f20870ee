"""An attestation: what is known of it by its Statement and its signature."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sealkeeper.server.resources import AttestationName, KeyName, KeyVersionName
from sealkeeper.verify.predicates import Provenance, read_predicate
from sealkeeper.verify.predicates.provenance import PROVENANCE_V1
from sealkeeper.verify.statement import Statement

_ID = re.compile(r"a[0-9]{16}")
SHOWN = 20
"""Subjects that are told where not all are asked for."""


@dataclass(frozen=True, slots=True)
class AttestedSubject:
    """What an attestation is about.

    Attributes:
        name: may be empty.
        digests: algorithm and lower-case hexadecimal digits.
    """

    name: str
    digests: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """What SLSA provenance says of source and builder; all empty for other predicates.

    Attributes:
        source_repository: URI, without revision.
        source_ref: Git ref.
        source_commit: hexadecimal.
        builder_id: ``runDetails.builder.id``.
        build_type: ``buildDefinition.buildType``.
    """

    source_repository: str = ""
    source_ref: str = ""
    source_commit: str = ""
    builder_id: str = ""
    build_type: str = ""


@dataclass(frozen=True, slots=True)
class Attestation:
    """What is known of one.

    Attributes:
        tenant: whose it is.
        log_index: of its entry in the transparency log, by which it is named.
        key_version: that signed.
        attester: subject of who asked for it.
        predicate_type: URI.
        subjects: the first ``SHOWN``.
        subject_count: how many there are.
        origin: of SLSA provenance.
        create_time: of the signature's timestamp.
        bundle_digest: SHA-256.
        bundle_size: bytes.
    """

    tenant: str
    log_index: int
    key_version: KeyVersionName
    attester: str
    predicate_type: str
    subjects: tuple[AttestedSubject, ...]
    subject_count: int
    origin: Origin
    create_time: datetime
    bundle_digest: bytes
    bundle_size: int

    @property
    def name(self) -> AttestationName:
        """Its name."""
        return attestation_name(self.tenant, self.log_index)


def attestation_name(tenant: str, log_index: int) -> AttestationName:
    """Of the attestation whose entry has this index in the transparency log."""
    return AttestationName(tenant, f"a{log_index:016d}")


def log_index_of(id_: str) -> int | None:
    """The index that an attestation's id was made of; ``None`` where it was made of none."""
    return int(id_[1:]) if _ID.fullmatch(id_) else None


@dataclass(frozen=True, slots=True)
class Search:
    """Which attestations of a tenant; what is empty or ``None`` does not matter.

    Attributes:
        tenant: whose.
        subject_digest: algorithm, a colon and hexadecimal digits.
        predicate_type: URI.
        source_repository: URI.
        builder_id: URI.
        key: that signed, or its version.
        after: signed then or later.
        before: signed earlier.
    """

    tenant: str
    subject_digest: str = ""
    predicate_type: str = ""
    source_repository: str = ""
    builder_id: str = ""
    key: KeyName | KeyVersionName | None = None
    after: datetime | None = None
    before: datetime | None = None


def subjects_of(statement: Statement, most: int | None = None) -> tuple[AttestedSubject, ...]:
    """The subjects of a Statement, in its order; at most ``most``."""
    return tuple(AttestedSubject(one.name, tuple(one.digests.items())) for one in statement.subjects[:most])


def digests_of(statement: Statement) -> frozenset[str]:
    """By what its subjects are found: ``sha256:e3b0…``."""
    return frozenset(_digests(statement))


def _digests(statement: Statement) -> Iterator[str]:
    for one in statement.subjects:
        for algorithm, digest in one.digests.items():
            yield f"{algorithm}:{digest}"


def origin_of(statement: Statement) -> Origin:
    """Source and builder of a Statement that this gateway made: the source is the first dependency."""
    if statement.predicate_type != PROVENANCE_V1:
        return Origin()
    provenance = read_predicate(PROVENANCE_V1, statement.predicate)
    if not isinstance(provenance, Provenance) or not provenance.resolved_dependencies:
        return Origin()
    source = provenance.resolved_dependencies[0]
    repository, _, ref = source.uri.removeprefix("git+").partition("@")
    return Origin(repository, ref, source.digests.get("gitCommit", ""), provenance.builder_id, provenance.build_type)
