"""Limits that tenants have set, in the metadata database."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, delete, select

from sealkeeper.server.limits import LimitsUpdate, limits_document, update_of_document
from sealkeeper.server.store.database import Database
from sealkeeper.server.store.schema import quotas


class QuotaTable:
    """Reads and writes what tenants have set; what they have not set follows their ceilings.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, tenant: str, limits: LimitsUpdate, also: Callable[[Connection], None]) -> None:
        """Make a tenant's limits durable, and what is to be durable with them.

        Raises:
            SealkeeperError: the database did not take it; nothing was written.
        """

        def work(connection: Connection) -> None:
            connection.execute(delete(quotas).filter_by(tenant=tenant))
            connection.execute(quotas.insert(), {"tenant": tenant, "limits": limits_document(limits)})
            also(connection)

        await self._database.run(work)

    async def read(self) -> dict[str, LimitsUpdate]:
        """What each tenant has set.

        Raises:
            SealkeeperError: the database does not answer.
        """

        def work(connection: Connection) -> dict[str, LimitsUpdate]:
            return {row.tenant: update_of_document(row.limits) for row in connection.execute(select(quotas))}

        return await self._database.run(work)
