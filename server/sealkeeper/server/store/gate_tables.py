"""Gates, their exceptions and their decisions in the metadata database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, func, select, update

from sealkeeper.server.gate import GateException, GateVersion
from sealkeeper.server.resources import GateExceptionName, GateName, GateVersionName
from sealkeeper.server.store.database import Database
from sealkeeper.server.store.schema import (
    gate_decisions,
    gate_evidence,
    gate_exceptions,
    gate_summaries,
    gates,
)

_AT_ONCE = 500


class GateTable:
    """Reads and writes versions of gates' policies, which never change.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, one: GateVersion, also: Callable[[Connection], None]) -> None:
        """Make a version durable, and what is to be durable with it.

        Raises:
            SealkeeperError: the database did not take it; nothing was written.
        """

        def work(connection: Connection) -> None:
            row = {
                **_of_gate(one.name.parent),
                "number": one.number,
                "text": one.text.encode(),
                "create_time": one.create_time,
                "proposal": one.proposal,
                "author": one.author,
            }
            connection.execute(gates.insert(), row)
            also(connection)

        await self._database.run(work)

    async def newest(self) -> list[GateVersion]:
        """The versions that are in force, of all gates.

        Raises:
            SealkeeperError: the database does not answer.
        """

        def work(connection: Connection) -> list[GateVersion]:
            last = select(gates.c.tenant, gates.c.gate, func.max(gates.c.number).label("number"))
            newest = last.group_by(gates.c.tenant, gates.c.gate).subquery()
            same = and_(
                gates.c.tenant == newest.c.tenant, gates.c.gate == newest.c.gate, gates.c.number == newest.c.number
            )
            return [_version(row) for row in connection.execute(select(gates).join(newest, same))]

        return await self._database.run(work)

    async def read(self, name: GateName, number: int) -> GateVersion | None:
        """A version.

        Raises:
            SealkeeperError: the database does not answer.
        """

        def work(connection: Connection) -> GateVersion | None:
            row = connection.execute(select(gates).filter_by(**_of_gate(name), number=number)).first()
            return None if row is None else _version(row)

        return await self._database.run(work)

    async def page(self, name: GateName, before: int, limit: int) -> list[GateVersion]:
        """Up to ``limit`` versions, newest first, those below the number ``before``.

        Raises:
            SealkeeperError: the database does not answer.
        """

        def work(connection: Connection) -> list[GateVersion]:
            query = select(gates).filter_by(**_of_gate(name)).where(gates.c.number < before)
            return [_version(row) for row in connection.execute(query.order_by(gates.c.number.desc()).limit(limit))]

        return await self._database.run(work)


class GateExceptionTable:
    """Reads and writes exceptions.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, one: GateException, also: Callable[[Connection], None]) -> None:
        """Make an exception durable, and what is to be durable with it.

        Raises:
            SealkeeperError: the database did not take it; nothing was written.
        """

        def work(connection: Connection) -> None:
            connection.execute(delete(gate_exceptions).filter_by(**_of_exception(one.name)))
            connection.execute(gate_exceptions.insert(), _exception_row(one))
            also(connection)

        await self._database.run(work)

    async def write_uses(self, uses: Mapping[GateExceptionName, int]) -> None:
        """Make it durable how often exceptions were used.

        Raises:
            SealkeeperError: the database did not take it.
        """

        def work(connection: Connection) -> None:
            for name, count in uses.items():
                connection.execute(update(gate_exceptions).filter_by(**_of_exception(name)).values(uses=count))

        await self._database.run(work)

    async def forget(self, name: GateExceptionName) -> None:
        """Remove an exception.

        Raises:
            SealkeeperError: the database did not take it.
        """
        await self._database.run(
            lambda connection: connection.execute(delete(gate_exceptions).filter_by(**_of_exception(name))).rowcount
        )

    async def read(self) -> list[GateException]:
        """All exceptions.

        Raises:
            SealkeeperError: the database does not answer.
        """
        return await self._database.run(
            lambda connection: [_exception(row) for row in connection.execute(select(gate_exceptions))]
        )


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A decision as the database has it.

    Attributes:
        gate: that made it.
        id: ordered by time.
        time: of it.
        subject_digest: ``sha256:…``.
        environment: where it was to run.
        outcome: ALLOW or DENY.
        document: all of it, encoded.
    """

    gate: GateName
    id: str
    time: datetime
    subject_digest: str
    environment: str
    outcome: str
    document: bytes


@dataclass(frozen=True, slots=True)
class DecisionFilter:
    """Which decisions; empty and ``None`` ask nothing.

    Attributes:
        subject_digest: of the artifact.
        environment: where it was to run.
        outcome: ALLOW or DENY.
        after: at or after this time.
        before: before this time.
    """

    subject_digest: str = ""
    environment: str = ""
    outcome: str = ""
    after: datetime | None = None
    before: datetime | None = None


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """The newest summary of a gate's verdicts on an artifact in an environment."""

    gate: GateName
    environment: str
    subject_digest: str
    bundle: str
    time: datetime


class GateDecisionTable:
    """Reads and writes decisions, which evidence they rest on, and the newest summaries.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(
        self,
        rows: Sequence[DecisionRow],
        evidence: Iterable[str],
        summary: SummaryRow | None,
        also: Callable[[Connection], None],
    ) -> None:
        """Make decisions durable, all of one gate.

        Args:
            rows: the decisions.
            evidence: digests of the bundles that they rest on and that are kept for them.
            summary: takes the place of the one before it.
            also: what is to be durable with them.

        Raises:
            SealkeeperError: the database did not take it; nothing was written.
        """

        def work(connection: Connection) -> None:
            for one in rows:
                connection.execute(gate_decisions.insert(), _decision_row(one))
            tenant, last = rows[0].gate.tenant, max(one.time for one in rows)
            for digest in dict.fromkeys(evidence):
                where = {"tenant": tenant, "digest": digest}
                connection.execute(delete(gate_evidence).filter_by(**where))
                connection.execute(gate_evidence.insert(), {**where, "last_use_time": last})
            if summary is not None:
                where = {**_of_gate(summary.gate), "environment": summary.environment}
                where["subject_digest"] = summary.subject_digest
                connection.execute(delete(gate_summaries).filter_by(**where))
                row = {**where, "bundle": summary.bundle, "time": summary.time}
                connection.execute(gate_summaries.insert(), row)
            also(connection)

        await self._database.run(work)

    async def read(self, gate: GateName, id_: str) -> DecisionRow | None:
        """A decision.

        Raises:
            SealkeeperError: the database does not answer.
        """

        def work(connection: Connection) -> DecisionRow | None:
            row = connection.execute(select(gate_decisions).filter_by(**_of_gate(gate), id=id_)).first()
            return None if row is None else _decision(row)

        return await self._database.run(work)

    async def page(self, gate: GateName, wanted: DecisionFilter, before: str, limit: int) -> list[DecisionRow]:
        """Up to ``limit`` decisions that fit, newest first, those before the id ``before``, where it is not empty.

        Raises:
            SealkeeperError: the database does not answer.
        """

        def work(connection: Connection) -> list[DecisionRow]:
            query = select(gate_decisions).filter_by(**_of_gate(gate))
            for column in ("subject_digest", "environment", "outcome"):
                if value := getattr(wanted, column):
                    query = query.filter_by(**{column: value})
            if wanted.after is not None:
                query = query.where(gate_decisions.c.time >= wanted.after)
            if wanted.before is not None:
                query = query.where(gate_decisions.c.time < wanted.before)
            if before:
                query = query.where(gate_decisions.c.id < before)
            found = connection.execute(query.order_by(gate_decisions.c.id.desc()).limit(limit))
            return [_decision(row) for row in found]

        return await self._database.run(work)

    async def count(self, gate: GateName, after: datetime) -> int:
        """How many decisions there are since a time.

        Raises:
            SealkeeperError: the database does not answer.
        """
        query = select(func.count()).select_from(gate_decisions).filter_by(**_of_gate(gate))
        query = query.where(gate_decisions.c.time >= after)
        return await self._database.run(lambda connection: connection.execute(query).scalar() or 0)

    async def summaries(self, tenant: str, subjects: Sequence[str]) -> list[SummaryRow]:
        """The newest summaries of all gates of a tenant about an artifact, by its digests.

        Raises:
            SealkeeperError: the database does not answer.
        """
        query = select(gate_summaries).filter_by(tenant=tenant).where(gate_summaries.c.subject_digest.in_(subjects))
        query = query.order_by(gate_summaries.c.time.desc()).limit(_AT_ONCE)
        return await self._database.run(lambda connection: [_summary(row) for row in connection.execute(query)])

    async def forget(self, before: datetime, most: int) -> int:
        """Remove decisions and summaries before a time, and the oldest decisions beyond a number; how many there were.

        In small steps, so that nobody waits long: called again until it is 0.

        Raises:
            SealkeeperError: the database did not take it.
        """

        def work(connection: Connection) -> int:
            count = connection.execute(select(func.count()).select_from(gate_decisions)).scalar() or 0
            query = select(gate_decisions.c.tenant, gate_decisions.c.gate, gate_decisions.c.id)
            query = query.order_by(gate_decisions.c.time).limit(min(_AT_ONCE, max(count - most, 0) or _AT_ONCE))
            if count <= most:
                query = query.where(gate_decisions.c.time < before)
            old = connection.execute(query).all()
            for tenant, gate, id_ in old:
                connection.execute(delete(gate_decisions).filter_by(tenant=tenant, gate=gate, id=id_))
            connection.execute(delete(gate_summaries).where(gate_summaries.c.time < before))
            return len(old)

        return await self._database.run(work)

    async def unused(self, before: datetime) -> list[tuple[str, str]]:
        """Tenant and digest of evidence that no decision since a time rests on, and no summary is.

        Raises:
            SealkeeperError: the database does not answer.
        """

        def work(connection: Connection) -> list[tuple[str, str]]:
            query = select(gate_evidence.c.tenant, gate_evidence.c.digest)
            query = query.where(gate_evidence.c.last_use_time < before).limit(_AT_ONCE)
            return [(row.tenant, row.digest) for row in connection.execute(query)]

        return await self._database.run(work)

    async def forget_evidence(self, tenant: str, digest: str) -> None:
        """Remove what is known of a bundle.

        Raises:
            SealkeeperError: the database did not take it.
        """
        await self._database.run(
            lambda connection: (
                connection.execute(delete(gate_evidence).filter_by(tenant=tenant, digest=digest)).rowcount
            )
        )


def _of_gate(name: GateName) -> dict[str, Any]:
    return {"tenant": name.tenant, "gate": name.gate}


def _of_exception(name: GateExceptionName) -> dict[str, Any]:
    return {"tenant": name.tenant, "gate": name.gate, "id": name.id}


def _version(row: Row[Any]) -> GateVersion:
    name = GateVersionName(row.tenant, row.gate, row.number)
    return GateVersion(name, row.text.decode(), row.create_time, row.proposal, row.author)


def _exception_row(one: GateException) -> dict[str, Any]:
    return {
        **_of_exception(one.name),
        "digest": one.digest,
        "pattern": one.pattern,
        "environment": one.environment,
        "reason": one.reason,
        "created_by": one.created_by,
        "proposal": one.proposal,
        "create_time": one.create_time,
        "expire_time": one.expire_time,
        "revoke_time": one.revoke_time,
        "revoked_by": one.revoked_by,
        "uses": one.uses,
    }


def _exception(row: Row[Any]) -> GateException:
    return GateException(
        GateExceptionName(row.tenant, row.gate, row.id),
        row.digest,
        row.pattern,
        row.environment,
        row.reason,
        row.created_by,
        row.proposal,
        row.create_time,
        row.expire_time,
        row.revoke_time,
        row.revoked_by,
        row.uses,
    )


def _decision_row(one: DecisionRow) -> dict[str, Any]:
    return {
        **_of_gate(one.gate),
        "id": one.id,
        "time": one.time,
        "subject_digest": one.subject_digest,
        "environment": one.environment,
        "outcome": one.outcome,
        "document": one.document,
    }


def _decision(row: Row[Any]) -> DecisionRow:
    return DecisionRow(
        GateName(row.tenant, row.gate),
        row.id,
        row.time,
        row.subject_digest,
        row.environment,
        row.outcome,
        row.document,
    )


def _summary(row: Row[Any]) -> SummaryRow:
    return SummaryRow(GateName(row.tenant, row.gate), row.environment, row.subject_digest, row.bundle, row.time)
