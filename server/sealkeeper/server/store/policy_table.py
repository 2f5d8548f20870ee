"""Policies in the metadata database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row, select

from sealkeeper.server.store.database import Database
from sealkeeper.server.store.schema import policies
from sealkeeper.server.tenant_policy import TenantPolicy


class PolicyTable:
    """Reads and writes versions of policies, which never change.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, one: TenantPolicy, also: Callable[[Connection], None]) -> None:
        """Make a version durable, and what is to be durable with it.

        Raises:
            SealkeeperError: the database did not take it; nothing was written.
        """

        def work(connection: Connection) -> None:
            row = {
                "tenant": one.tenant,
                "number": one.number,
                "text": one.text.encode(),
                "create_time": one.create_time,
                "proposal": one.proposal,
                "author": one.author,
            }
            connection.execute(policies.insert(), row)
            also(connection)

        await self._database.run(work)

    async def newest(self, tenant: str) -> TenantPolicy | None:
        """The version that is in force.

        Raises:
            SealkeeperError: the database does not answer.
        """
        return await self._one(tenant, None)

    async def read(self, tenant: str, number: int) -> TenantPolicy | None:
        """A version.

        Raises:
            SealkeeperError: the database does not answer.
        """
        return await self._one(tenant, number)

    async def _one(self, tenant: str, number: int | None) -> TenantPolicy | None:
        def work(connection: Connection) -> TenantPolicy | None:
            query = select(policies).where(policies.c.tenant == tenant).order_by(policies.c.number.desc()).limit(1)
            if number is not None:
                query = query.where(policies.c.number == number)
            row = connection.execute(query).first()
            return None if row is None else _policy(row)

        return await self._database.run(work)

    async def page(self, tenant: str, before: int | None, limit: int) -> list[TenantPolicy]:
        """Up to ``limit`` versions, newest first, those below the number ``before``.

        Raises:
            SealkeeperError: the database does not answer.
        """

        def work(connection: Connection) -> list[TenantPolicy]:
            query = select(policies).where(policies.c.tenant == tenant).order_by(policies.c.number.desc()).limit(limit)
            if before is not None:
                query = query.where(policies.c.number < before)
            return [_policy(row) for row in connection.execute(query)]

        return await self._database.run(work)


def _policy(row: Row[Any]) -> TenantPolicy:
    return TenantPolicy(row.tenant, row.number, row.text.decode(), row.create_time, row.proposal, row.author)
