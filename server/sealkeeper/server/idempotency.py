"""Request ids: a retry gets the answer of the first try, and nothing happens twice.

An id belongs to its caller and method. For 24 hours the same content is answered as the first time; other content is
refused. Two tries at the same time share one run of the work, which goes on when its caller hangs up.

What an answer is, its domain knows: the ledger keeps it as bytes, in the database. Changes of keys store theirs in the
transaction of the change. Those of signatures follow within a moment; after a crash, ``recover`` fills in what the
audit log knows of.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, delete, select

from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import AlreadyExistsError, OverloadedError, SealkeeperError
from sealkeeper.server.identity import Principal
from sealkeeper.server.store.database import Database
from sealkeeper.server.store.schema import marks, requests

_log = logging.getLogger("sealkeeper.idempotency")
LIFETIME = timedelta(hours=24)
_INTERVAL = 0.1
_MARK_EVERY = 300
_PRUNE_EVERY = 3000
_MAX_KNOWN = 1_000_000
_MAX_ROWS_BYTES = 256 * 1024 * 1024
_AUDITED = "audit"
_SETTLED = timedelta(seconds=10)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RequestId:
    """A request as the ledger knows it.

    Attributes:
        id: SHA-256 over tenant, subject, method and the caller's id.
        fingerprint: SHA-256 over the content.
    """

    id: bytes
    fingerprint: bytes

    @classmethod
    def of(cls, caller: Principal, method: str, request_id: str, content: bytes) -> RequestId:
        """Name a request. ``content`` is its canonical encoding without the id."""
        # None of the parts can hold a zero byte.
        scope = "\0".join((caller.tenant, caller.subject, method, request_id))
        return cls(sha256(scope.encode()).digest(), sha256(content).digest())


@dataclass(frozen=True, slots=True)
class RequestRow(Generic[T]):
    """A place for the answer to a request, to be stored together with what it changed.

    Attributes:
        request: which.
        time: when it came.
        encode: turns the answer into bytes.
    """

    request: RequestId
    time: datetime
    encode: Callable[[T], bytes]

    def filled(self, answer: T) -> dict[str, Any]:
        """The row."""
        return {
            "id": self.request.id,
            "fingerprint": self.request.fingerprint,
            "create_time": self.time,
            "answer": self.encode(answer),
        }

    def write(self, connection: Connection, answer: T) -> None:
        """As ``Alongside`` has it."""
        connection.execute(requests.insert(), self.filled(answer))


@dataclass(slots=True)
class _Running:
    fingerprint: bytes
    task: asyncio.Task[Any]


class _KnownIds:
    """Ids that may be in the database, by the hour. Once there were too many: any id, while those are there."""

    def __init__(self) -> None:
        self._hours: dict[int, set[bytes]] = {}
        self._count = 0
        self._lost_until = datetime.min.replace(tzinfo=UTC)
        self._newest = self._lost_until

    def may_hold(self, id_: bytes) -> bool:
        return self._newest < self._lost_until or any(id_ in one for one in self._hours.values())

    def add(self, id_: bytes, time: datetime) -> None:
        if self._count >= _MAX_KNOWN:
            self._hours.clear()
            self._count = 0
            self._lost_until = time + LIFETIME
        self._newest = max(self._newest, time)
        self._hours.setdefault(int(time.timestamp()) // 3600, set()).add(id_)
        self._count += 1

    def forget(self, oldest: datetime) -> None:
        """Forget ids of whole hours before a time."""
        for hour in [one for one in self._hours if one < int(oldest.timestamp()) // 3600]:
            self._count -= len(self._hours.pop(hour))


class RequestLedger:
    """Which requests were answered, and how; made by ``open_ledger``.

    Args:
        database: where answers outlive a restart.
        clock: the time.
        audit_size: number of records in the audit log.
    """

    def __init__(self, database: Database, clock: SteadyClock, audit_size: Callable[[], int]) -> None:
        self._database = database
        self._clock = clock
        self._audit_size = audit_size
        self._running: dict[bytes, _Running] = {}
        self._known = _KnownIds()
        self._recovered: dict[bytes, dict[str, Any]] = {}
        # What waits for the database; bytes of its answers.
        self._rows: list[dict[str, Any]] = []
        self._rows_bytes = 0
        self._sizes: list[tuple[datetime, int]] = []
        self._task: asyncio.Task[None] | None = None

    async def once(
        self,
        request: RequestId,
        work: Callable[[], Awaitable[T]],
        replay: Callable[[bytes], Awaitable[T]],
        encode: Callable[[T], bytes] | None,
    ) -> T:
        """Do the work, unless it was done.

        Args:
            request: which.
            work: done at most once; it goes on when this caller is cancelled.
            replay: makes the answer again from the bytes that were kept.
            encode: makes these bytes; ``None`` where the work stores its row itself.

        Raises:
            AlreadyExistsError: the id was used for other content.
            Exception: what ``work`` raised; such a request may be tried again.
        """
        running = self._running.get(request.id)
        if running is None:
            if self._rows_bytes > _MAX_ROWS_BYTES:
                raise OverloadedError("the metadata database does not keep up", retry_after=timedelta(seconds=1))
            task = asyncio.create_task(self._answer(request, work, replay, encode))
            running = self._running[request.id] = _Running(request.fingerprint, task)
            task.add_done_callback(lambda done: self._finished(request.id, done))
        _require_same(request, running.fingerprint)
        answer: T = await asyncio.shield(running.task)
        return answer

    async def _answer(
        self,
        request: RequestId,
        work: Callable[[], Awaitable[T]],
        replay: Callable[[bytes], Awaitable[T]],
        encode: Callable[[T], bytes] | None,
    ) -> T:
        now = self._clock.at_least_latest()
        if self._known.may_hold(request.id):
            stored = await self._read(request.id, now)
            if stored is not None:
                _require_same(request, stored[0])
                return await replay(stored[1])
        result = await work()
        self._known.add(request.id, now)
        if encode is not None:
            self._keep(RequestRow(request, now, encode).filled(result))
        return result

    def _keep(self, row: dict[str, Any]) -> None:
        """Have a row wait for the database."""
        self._rows.append(row)
        self._rows_bytes += len(row["answer"])

    def row(self, request: RequestId, encode: Callable[[T], bytes]) -> RequestRow[T]:
        """A row for work that stores its answer itself."""
        return RequestRow(request, self._clock.at_least_latest(), encode)

    def _finished(self, id: bytes, task: asyncio.Task[Any]) -> None:  # noqa: A002  (the field's name)
        del self._running[id]
        # Whoever waited has seen the error; where nobody waits any more, it is in the audit log.
        if not task.cancelled():
            task.exception()

    async def _read(self, id: bytes, now: datetime) -> tuple[bytes, bytes] | None:  # noqa: A002
        await self.flush()

        def work(connection: Connection) -> tuple[bytes, bytes] | None:
            row = connection.execute(select(requests).where(requests.c.id == id)).first()
            if row is None or row.create_time < now - LIFETIME:
                connection.execute(delete(requests).where(requests.c.id == id))
                return None
            return row.fingerprint, row.answer

        return await self._database.run(work)

    async def open(self) -> int:
        """Load the ids that are still good.

        Returns:
            Number of audit records whose requests are surely in the database.

        Raises:
            SealkeeperError: the database does not answer.
        """
        oldest = self._clock.at_least_latest() - LIFETIME

        def work(connection: Connection) -> tuple[list[tuple[bytes, datetime]], int]:
            connection.execute(delete(requests).where(requests.c.create_time < oldest))
            columns = select(requests.c.id, requests.c.create_time).order_by(requests.c.create_time)
            rows = connection.execute(columns.limit(_MAX_KNOWN + 1))
            audited = connection.execute(select(marks.c.value).where(marks.c.name == _AUDITED)).scalar()
            return [(row.id, row.create_time) for row in rows], audited or 0

        rows, audited = await self._database.run(work)
        for id_, time in rows:
            self._known.add(id_, time)
        return audited

    def recover(self, request: RequestId, time: datetime, answer: bytes | None) -> None:
        """Take in a request that the audit log knows of, unless the database does. To be called in the log's order.

        Args:
            request: which.
            time: when it was recorded.
            answer: ``None`` where what an earlier record tells of did not leave.
        """
        if answer is None:
            self._recovered.pop(request.id, None)
        elif time >= self._clock.at_least_latest() - LIFETIME:
            row: RequestRow[bytes] = RequestRow(request, time, bytes)
            self._recovered[request.id] = row.filled(answer)

    def start(self) -> None:
        """Begin to write answers: those that were recovered, then new ones as they come."""
        for id_, row in self._recovered.items():
            self._known.add(id_, row["create_time"])
            self._keep(row)
        self._recovered = {}
        self._task = asyncio.create_task(self._write(), name="request-ledger")

    async def _write(self) -> None:
        failing = False
        for number in itertools.count(1):
            await asyncio.sleep(_INTERVAL)
            try:
                await self.flush(mark=number % _MARK_EVERY == 0)
                if number % _PRUNE_EVERY == 0:
                    await self._prune()
            except SealkeeperError as error:
                # Said once, and not ten times a second.
                if not failing:
                    _log.error("answers to requests wait for the database: %s", error)
                failing = True
            else:
                if failing:
                    _log.warning("answers to requests reach the database again")
                failing = False

    async def _prune(self) -> None:
        oldest = self._clock.at_least_latest() - LIFETIME
        self._known.forget(oldest)
        await self._database.run(
            lambda connection: connection.execute(delete(requests).where(requests.c.create_time < oldest)).rowcount
        )

    async def flush(self, *, mark: bool = False) -> None:
        """Write what waits; with ``mark``, at least how far that is.

        Raises:
            SealkeeperError: the database did not take it; it waits on.
        """
        now = self._clock.at_least_latest()
        self._sizes.append((now, self._audit_size()))
        rows, audited = self._rows, self._settled(now)
        if not rows and not mark:
            return
        self._rows = []

        def work(connection: Connection) -> None:
            known = set()
            for start in range(0, len(rows), 500):
                ids = [row["id"] for row in rows[start : start + 500]]
                known |= set(connection.execute(select(requests.c.id).where(requests.c.id.in_(ids))).scalars())
            fresh = [row for row in rows if row["id"] not in known]
            if fresh:
                connection.execute(requests.insert(), fresh)
            connection.execute(delete(marks).where(marks.c.name == _AUDITED))
            connection.execute(marks.insert(), {"name": _AUDITED, "value": audited})

        try:
            await self._database.run(work)
        except BaseException:
            self._rows = rows + self._rows
            raise
        self._rows_bytes -= sum(len(row["answer"]) for row in rows)

    def _settled(self, now: datetime) -> int:
        # Requests that were logged this long ago have handed in their rows.
        settled = 0
        while len(self._sizes) > 1 and self._sizes[1][0] <= now - _SETTLED:
            self._sizes.pop(0)
        if self._sizes[0][0] <= now - _SETTLED:
            settled = self._sizes[0][1]
        return settled

    async def close(self) -> None:
        """Write what waits and stop."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for running in list(self._running.values()):
            with suppress(Exception):
                await running.task
        try:
            await self.flush()
        except SealkeeperError as error:
            _log.error("answers to requests were not written: %s", error)


def _require_same(request: RequestId, fingerprint: bytes) -> None:
    if request.fingerprint != fingerprint:
        raise AlreadyExistsError(
            "this request id was used for another content within the last 24 hours",
            reason="REQUEST_ID_REUSED",
            next_step="use a new request id for a new request",
        )
