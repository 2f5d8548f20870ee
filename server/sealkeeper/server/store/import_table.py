"""Imports of keys in the metadata database. Wrapped keys never are."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Row, delete, select

from sealkeeper.hsm import Attestation, WrapMethod, WrappingKey
from sealkeeper.server.key_import import ImportState, KeyImport
from sealkeeper.server.resources import KeyImportName, KeyName
from sealkeeper.server.store.database import Database
from sealkeeper.server.store.schema import key_imports


class ImportTable:
    """Reads and writes imports.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, one: KeyImport, also: Callable[[Connection], None]) -> None:
        """Make an import durable, and what is to be durable with it.

        Raises:
            SealkeeperError: the database did not take it; nothing was written.
        """

        def work(connection: Connection) -> None:
            connection.execute(delete(key_imports).filter_by(**_where(one.name)))
            connection.execute(key_imports.insert(), _row(one))
            also(connection)

        await self._database.run(work)

    async def forget(self, name: KeyImportName) -> None:
        """Remove an import.

        Raises:
            SealkeeperError: the database did not take it.
        """

        def work(connection: Connection) -> None:
            connection.execute(delete(key_imports).filter_by(**_where(name)))

        await self._database.run(work)

    async def read(self) -> list[KeyImport]:
        """All imports.

        Raises:
            SealkeeperError: the database does not answer.
        """

        def work(connection: Connection) -> list[KeyImport]:
            return [_import(row) for row in connection.execute(select(key_imports))]

        return await self._database.run(work)


def _where(name: KeyImportName) -> dict[str, str]:
    return {"tenant": name.tenant, "id": name.id}


def _row(one: KeyImport) -> dict[str, Any]:
    offer = one.wrapping_key
    return {
        **_where(one.name),
        "state": one.state.value,
        "key": one.key.key,
        "algorithm": one.algorithm,
        "provider": one.provider,
        "region": one.region,
        "standby": one.standby,
        "labels": dict(one.labels),
        "begun_by": one.begun_by,
        "wrapping_state": offer.state,
        "wrapping_key": offer.public_key,
        "methods": [method.value for method in offer.methods],
        "attestation": _attestation_document(offer.attestation),
        "create_time": one.create_time,
        "expire_time": one.expire_time,
        "close_time": one.close_time,
        "key_version": one.key_version,
        "left_over": one.left_over,
    }


def _import(row: Row[Any]) -> KeyImport:
    return KeyImport(
        KeyImportName(row.tenant, row.id),
        ImportState(row.state),
        KeyName(row.tenant, row.key),
        row.algorithm,
        row.provider,
        row.region,
        row.standby,
        row.labels,
        row.begun_by,
        WrappingKey(
            row.wrapping_state,
            row.wrapping_key,
            tuple(WrapMethod(one) for one in row.methods),
            attestation=_attestation(row.attestation),
        ),
        row.create_time,
        row.expire_time,
        row.close_time,
        row.key_version,
        row.left_over,
    )


def _attestation_document(attestation: Attestation | None) -> dict[str, Any] | None:
    if attestation is None:
        return None
    return {
        "format": attestation.format,
        "content": b64encode(attestation.content).decode(),
        "certificates": [b64encode(one).decode() for one in attestation.certificates],
    }


def _attestation(document: Mapping[str, Any] | None) -> Attestation | None:
    if document is None:
        return None
    certificates = tuple(b64decode(one) for one in document["certificates"])
    return Attestation(document["format"], b64decode(document["content"]), certificates)
