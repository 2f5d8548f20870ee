"""The metadata database: one thread of its own, short transactions, nothing on the event loop.

The gateway keeps what it needs on the way of a signature in memory; this is where it comes from after a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from sealkeeper.server.errors import ConfigurationError, OverloadedError, UnavailableError

_T = TypeVar("_T")
_Answer_contra = TypeVar("_Answer_contra", contravariant=True)
_MIGRATIONS = "sealkeeper.server.store:migrations"


class Alongside(Protocol[_Answer_contra]):
    """What becomes durable in the transaction of a change: the answer to its request, or the end of its proposal."""

    def write(self, connection: Connection, answer: _Answer_contra) -> None:
        """Write it, when the answer is known. In the database's thread."""
        ...


class Both(Generic[_T]):
    """Two things that become durable together."""

    def __init__(self, first: Alongside[_T], second: Alongside[_T]) -> None:
        self._all = first, second

    def write(self, connection: Connection, answer: _T) -> None:
        """Write the one and the other."""
        for one in self._all:
            one.write(connection, answer)


def writer(also: Alongside[_T] | None, answer: _T) -> Callable[[Connection], None]:
    """What a table calls in its transaction."""

    def write(connection: Connection) -> None:
        if also is not None:
            also.write(connection, answer)

    return write


class Database:
    """Runs transactions one after the other; made by ``open_database``.

    Args:
        url: SQLAlchemy URL.
    """

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, poolclass=NullPool, hide_parameters=True)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _set_up_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        self._thread = ThreadPoolExecutor(1, "sealkeeper-database")
        # Used by the thread only.
        self._connection: Connection | None = None

    async def run(self, work: Callable[[Connection], _T]) -> _T:
        """Run ``work`` in a transaction: all of it is durable when this returns, or nothing happened.

        Raises:
            OverloadedError: the disk is full.
            UnavailableError: the database does not answer, or refused.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)
        except SQLAlchemyError as error:
            # The driver's text may hold values; the kind of error is enough.
            if "disk is full" in str(error.__cause__ or ""):
                raise OverloadedError(
                    "the metadata database's disk is full", reason="STORAGE_FULL", next_step="free space there"
                ) from None
            raise UnavailableError(
                f"the metadata database does not answer ({type(error).__name__})", reason="DATABASE_UNAVAILABLE"
            ) from None

    def _transact(self, work: Callable[[Connection], _T]) -> _T:
        if self._connection is None or self._connection.closed:
            self._connection = self._engine.connect()
        try:
            with self._connection.begin():
                return work(self._connection)
        except SQLAlchemyError:
            # A lost connection is not used again.
            self._connection.close()
            self._connection = None
            raise

    async def close(self) -> None:
        """Finish what is under way and let go."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()


async def open_database(url: str) -> Database:
    """Connect, and bring the tables up to this version.

    Raises:
        ConfigurationError: the URL or the database is not usable.
    """
    try:
        database = Database(url)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise ConfigurationError(f"storage.database cannot be used ({type(error).__name__})") from None
    try:
        await database.run(_migrate)
    except BaseException:
        await database.close()
        raise
    return database


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    configuration = Config()
    configuration.set_main_option("script_location", _MIGRATIONS)
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "head")


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # The driver shall not begin transactions by its own rules; see _begin_sqlite.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
