"""Keys in the metadata database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row, delete, select

from sealkeeper.hsm import Origin, ProtectionLevel
from sealkeeper.server.key import Failover, Key, KeyVersion, State
from sealkeeper.server.resources import KeyName, KeyVersionName
from sealkeeper.server.store.database import Database
from sealkeeper.server.store.schema import key_versions, keys


class KeyTable:
    """Reads and writes whole keys.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, key: Key, also: Callable[[Connection], None]) -> None:
        """Make a key with all its versions durable, and what is to be durable with it.

        Raises:
            SealkeeperError: the database did not take it; nothing was written.
        """

        def work(connection: Connection) -> None:
            where = {"tenant": key.name.tenant, "key": key.name.key}
            connection.execute(delete(key_versions).filter_by(**where))
            connection.execute(delete(keys).filter_by(**where))
            connection.execute(keys.insert(), _key_row(key))
            connection.execute(key_versions.insert(), [_version_row(one) for one in key.versions])
            also(connection)

        await self._database.run(work)

    async def has_handle(self, provider: str, handle: str) -> bool:
        """Whether a version, whichever, has its private key under this handle.

        Raises:
            SealkeeperError: the database does not answer.
        """

        def work(connection: Connection) -> bool:
            where = {"provider": provider, "handle": handle}
            return connection.execute(select(key_versions.c.number).filter_by(**where)).first() is not None

        return await self._database.run(work)

    async def read(self) -> list[Key]:
        """All keys.

        Raises:
            SealkeeperError: the database does not answer.
        """

        def work(connection: Connection) -> list[Key]:
            rows = {KeyName(row.tenant, row.key): row for row in connection.execute(select(keys))}
            found: dict[KeyName, list[KeyVersion]] = defaultdict(list)
            for row in connection.execute(select(key_versions).order_by(key_versions.c.number)):
                name = KeyName(row.tenant, row.key)
                found[name].append(_version(row, rows[name].algorithm))
            return [_key(row, name, tuple(found[name])) for name, row in rows.items()]

        return await self._database.run(work)


def _key_row(key: Key) -> dict[str, Any]:
    return {
        "tenant": key.name.tenant,
        "key": key.name.key,
        "algorithm": key.algorithm,
        "provider": key.provider,
        "labels": dict(key.labels),
        "create_time": key.create_time,
        "revision": key.revision,
        "failover": key.failover.value,
    }


def _version_row(version: KeyVersion) -> dict[str, Any]:
    return {
        "tenant": version.name.tenant,
        "key": version.name.key,
        "number": version.name.number,
        "state": version.state.value,
        "provider": version.provider,
        "protection_level": version.protection_level.value,
        "handle": version.handle,
        "public_key": version.public_key,
        "create_time": version.create_time,
        "activate_time": version.activate_time,
        "retire_time": version.retire_time,
        "compromise_time": version.compromise_time,
        "destroy_time": version.destroy_time,
        "disabled": version.disabled,
        "region": version.region,
        "standby": version.standby,
        "origin": version.origin.value,
        "ceremony_index": version.ceremony_index,
    }


def _key(row: Row[Any], name: KeyName, versions: tuple[KeyVersion, ...]) -> Key:
    return Key(
        name,
        row.algorithm,
        row.provider,
        row.labels,
        row.create_time,
        row.revision,
        versions,
        Failover(row.failover),
    )


def _version(row: Row[Any], algorithm: str) -> KeyVersion:
    return KeyVersion(
        KeyVersionName(row.tenant, row.key, row.number),
        State(row.state),
        algorithm,
        row.provider,
        ProtectionLevel(row.protection_level),
        row.handle,
        row.public_key,
        row.create_time,
        row.activate_time,
        row.retire_time,
        row.compromise_time,
        row.destroy_time,
        row.disabled,
        row.region,
        row.standby,
        Origin(row.origin),
        row.ceremony_index,
    )
