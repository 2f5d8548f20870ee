"""Grants in the metadata database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, select

from sealkeeper.server.authorization import Action
from sealkeeper.server.grant import Grant
from sealkeeper.server.resources import GrantName, KeyName, TenantName, parse_key_name, parse_tenant_name
from sealkeeper.server.store.database import Database
from sealkeeper.server.store.schema import grants, marks

# Marks of break-glasses whose end is in the audit log; ids of grants are random, so alike in no two tenants.
_ENDED = "ended-grant/"


class GrantTable:
    """Reads and writes grants.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, grant: Grant, also: Callable[[Connection], None]) -> None:
        """Make a grant durable, and what is to be durable with it.

        Raises:
            SealkeeperError: the database did not take it; nothing was written.
        """

        def work(connection: Connection) -> None:
            connection.execute(delete(grants).filter_by(**_where(grant.name)))
            connection.execute(grants.insert(), _row(grant))
            also(connection)

        await self._database.run(work)

    async def write_ended(self, name: GrantName, time: datetime) -> None:
        """Keep in mind that the end of a grant, at a time, is recorded.

        Raises:
            SealkeeperError: the database did not take it.
        """

        def work(connection: Connection) -> None:
            connection.execute(delete(marks).filter_by(name=_ENDED + name.id))
            connection.execute(marks.insert(), {"name": _ENDED + name.id, "value": int(time.timestamp())})

        await self._database.run(work)

    async def forget(self, name: GrantName) -> None:
        """Remove a grant.

        Raises:
            SealkeeperError: the database did not take it.
        """

        def work(connection: Connection) -> None:
            connection.execute(delete(grants).filter_by(**_where(name)))
            connection.execute(delete(marks).filter_by(name=_ENDED + name.id))

        await self._database.run(work)

    async def read(self) -> tuple[list[Grant], set[GrantName]]:
        """All grants, and the names of those whose end is recorded.

        Raises:
            SealkeeperError: the database does not answer.
        """

        def work(connection: Connection) -> tuple[list[Grant], set[GrantName]]:
            found = [_grant(row) for row in connection.execute(select(grants))]
            ended = set(connection.execute(select(marks.c.name).where(marks.c.name.startswith(_ENDED))).scalars())
            return found, {one.name for one in found if _ENDED + one.name.id in ended}

        return await self._database.run(work)


def _where(name: GrantName) -> dict[str, str]:
    return {"tenant": name.tenant, "id": name.id}


def _row(grant: Grant) -> dict[str, Any]:
    return {
        **_where(grant.name),
        "subject": grant.subject,
        "resource": str(grant.resource),
        "actions": [str(one) for one in grant.actions],
        "reason": grant.reason,
        "break_glass": grant.break_glass,
        "created_by": grant.created_by,
        "proposal": grant.proposal,
        "create_time": grant.create_time,
        "expire_time": grant.expire_time,
        "revoke_time": grant.revoke_time,
        "revoked_by": grant.revoked_by,
    }


def _grant(row: Row[Any]) -> Grant:
    return Grant(
        GrantName(row.tenant, row.id),
        row.subject,
        _resource(row.resource),
        tuple(Action(one) for one in row.actions),
        row.reason,
        row.break_glass,
        row.created_by,
        row.proposal,
        row.create_time,
        row.expire_time,
        row.revoke_time,
        row.revoked_by,
    )


def _resource(text: str) -> KeyName | TenantName:
    return parse_key_name(text, "resource") if "/keys/" in text else parse_tenant_name(text, "resource")
