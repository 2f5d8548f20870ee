"""How keys are used, in the metadata database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import Connection, delete, select

from sealkeeper.server.resources import KeyVersionName
from sealkeeper.server.store.database import Database
from sealkeeper.server.store.schema import key_usage, marks

_MARK = "usage"
ArtifactRow: TypeAlias = tuple[int, str, str, str, str]
"""Index in the transparency log, name, digest, time and subject of an artifact."""


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The use of one key version.

    Attributes:
        signatures: how many it has made.
        production_signatures: how many of them for production.
        last_use_time: of the newest.
        recent: the newest artifacts, oldest first.
        production: the newest for production, oldest first.
    """

    signatures: int
    production_signatures: int
    last_use_time: datetime
    recent: Sequence[ArtifactRow]
    production: Sequence[ArtifactRow]


class UsageTable:
    """Reads and writes the use of keys, and how far into the audit log that goes.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, changed: Mapping[KeyVersionName, UsageRow], mark: int) -> None:
        """Make rows durable, and the number of audit records that are counted in all rows.

        Raises:
            SealkeeperError: the database did not take it; nothing was written.
        """

        def work(connection: Connection) -> None:
            for name in changed:
                connection.execute(delete(key_usage).filter_by(**_where(name)))
            if changed:
                connection.execute(key_usage.insert(), [_values(name, row) for name, row in changed.items()])
            connection.execute(delete(marks).filter_by(name=_MARK))
            connection.execute(marks.insert(), {"name": _MARK, "value": mark})

        await self._database.run(work)

    async def read(self) -> tuple[dict[KeyVersionName, UsageRow], int]:
        """All rows, and the number of audit records that are counted in them.

        Raises:
            SealkeeperError: the database does not answer.
        """

        def work(connection: Connection) -> tuple[dict[KeyVersionName, UsageRow], int]:
            found = {
                KeyVersionName(row.tenant, row.key, row.number): UsageRow(
                    row.signatures,
                    row.production_signatures,
                    row.last_use_time,
                    [_artifact(one) for one in row.recent],
                    [_artifact(one) for one in row.production],
                )
                for row in connection.execute(select(key_usage))
            }
            mark = connection.execute(select(marks.c.value).filter_by(name=_MARK)).scalar()
            return found, mark or 0

        return await self._database.run(work)


def _where(name: KeyVersionName) -> dict[str, Any]:
    return {"tenant": name.tenant, "key": name.key, "number": name.number}


def _values(name: KeyVersionName, row: UsageRow) -> dict[str, Any]:
    return {
        **_where(name),
        "signatures": row.signatures,
        "production_signatures": row.production_signatures,
        "last_use_time": row.last_use_time,
        "recent": [list(one) for one in row.recent],
        "production": [list(one) for one in row.production],
    }


def _artifact(values: Sequence[Any]) -> ArtifactRow:
    index, name, digest, time, subject = values
    return index, name, digest, time, subject
