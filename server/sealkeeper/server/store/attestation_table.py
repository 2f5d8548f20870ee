"""The index of attestations, in the metadata database: what their bundles say, by what they are searched for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from sealkeeper.server.attestation import Attestation, AttestedSubject, Origin, Search
from sealkeeper.server.resources import KeyVersionName
from sealkeeper.server.store.database import Database
from sealkeeper.server.store.schema import attestation_subjects, attestations


class AttestationTable:
    """Reads and writes the index.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, one: Attestation, digests: Collection[str]) -> Attestation:
        """Make an attestation durable, unless there is one of the same entry of the log.

        Args:
            one: the attestation.
            digests: of its subjects: ``sha256:e3b0…``.

        Returns:
            The one that is there now.

        Raises:
            SealkeeperError: the database did not take it; nothing was written.
        """
        row = _values(one)
        subjects = [{"tenant": one.tenant, "digest": digest, "log_index": one.log_index} for digest in sorted(digests)]

        def work(connection: Connection) -> Attestation:
            known = connection.execute(select(attestations).filter_by(log_index=one.log_index)).first()
            if known is not None:
                return _attestation(known)
            connection.execute(attestations.insert(), row)
            connection.execute(attestation_subjects.insert(), subjects)
            return one

        return await self._database.run(work)

    async def find(self, tenant: str, log_index: int) -> Attestation | None:
        """A tenant's attestation; ``None`` where there is none.

        Raises:
            SealkeeperError: the database does not answer.
        """
        wanted = select(attestations).filter_by(tenant=tenant, log_index=log_index)

        def work(connection: Connection) -> Attestation | None:
            row = connection.execute(wanted).first()
            return None if row is None else _attestation(row)

        return await self._database.run(work)

    async def search(self, search: Search, below: int | None, limit: int) -> list[Attestation]:
        """Attestations that fit, newest first.

        Args:
            search: which.
            below: with a smaller index in the log; ``None`` for the newest.
            limit: at most so many.

        Raises:
            SealkeeperError: the database does not answer.
        """
        wanted = _matching(search)
        if below is not None:
            wanted = wanted.where(attestations.c.log_index < below)
        wanted = wanted.order_by(attestations.c.log_index.desc()).limit(limit)
        return await self._database.run(
            lambda connection: [_attestation(row) for row in connection.execute(wanted).all()]
        )

    async def unknown(self, digests: Collection[bytes]) -> set[bytes]:
        """Those of some bundles' digests that no attestation has.

        Raises:
            SealkeeperError: the database does not answer.
        """
        column, left = attestations.c.bundle_digest, sorted(digests)

        def work(connection: Connection) -> set[bytes]:
            known: set[bytes] = set()
            for start in range(0, len(left), 500):
                known |= set(connection.execute(select(column).where(column.in_(left[start : start + 500]))).scalars())
            return set(left) - known

        return await self._database.run(work)

    async def indexed(self, log_index: int) -> bool:
        """Whether an entry of the log has an attestation, of whatever tenant.

        Raises:
            SealkeeperError: the database does not answer.
        """
        column = attestations.c.log_index
        return await self._database.run(
            lambda connection: connection.execute(select(column).where(column == log_index)).first() is not None
        )


def _matching(search: Search) -> Select[Any]:
    columns = attestations.c
    wanted = select(attestations).where(columns.tenant == search.tenant)
    if search.subject_digest:
        subjects = attestation_subjects.c
        wanted = wanted.join(attestation_subjects, subjects.log_index == columns.log_index).where(
            subjects.tenant == search.tenant, subjects.digest == search.subject_digest
        )
    for column, value in (
        (columns.predicate_type, search.predicate_type),
        (columns.source_repository, search.source_repository),
        (columns.builder_id, search.builder_id),
        (columns.key, search.key.key if search.key is not None else ""),
    ):
        if value:
            wanted = wanted.where(column == value)
    if isinstance(search.key, KeyVersionName):
        wanted = wanted.where(columns.number == search.key.number)
    if search.after is not None:
        wanted = wanted.where(columns.create_time >= search.after)
    if search.before is not None:
        wanted = wanted.where(columns.create_time < search.before)
    return wanted


def _values(one: Attestation) -> dict[str, Any]:
    origin = one.origin
    return {
        "log_index": one.log_index,
        "tenant": one.tenant,
        "key": one.key_version.key,
        "number": one.key_version.number,
        "attester": one.attester,
        "predicate_type": one.predicate_type,
        "subjects": [[subject.name, [list(pair) for pair in subject.digests]] for subject in one.subjects],
        "subject_count": one.subject_count,
        "source_repository": origin.source_repository,
        "source_ref": origin.source_ref,
        "source_commit": origin.source_commit,
        "builder_id": origin.builder_id,
        "build_type": origin.build_type,
        "create_time": one.create_time,
        "bundle_digest": one.bundle_digest,
        "bundle_size": one.bundle_size,
    }


def _attestation(row: Row[Any]) -> Attestation:
    return Attestation(
        row.tenant,
        row.log_index,
        KeyVersionName(row.tenant, row.key, row.number),
        row.attester,
        row.predicate_type,
        tuple(
            AttestedSubject(name, tuple((algorithm, digest) for algorithm, digest in pairs))
            for name, pairs in row.subjects
        ),
        row.subject_count,
        Origin(row.source_repository, row.source_ref, row.source_commit, row.builder_id, row.build_type),
        row.create_time,
        row.bundle_digest,
        row.bundle_size,
    )
