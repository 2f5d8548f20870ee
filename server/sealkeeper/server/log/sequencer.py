"""The sequencer: the one task that grows the logs.

It takes all submissions that wait, integrates them into the Merkle trees, makes them durable with one write to the
journal while the checkpoints are being signed, and answers everyone who waits. While it does so the next submissions
gather: a cycle costs the same however many it serves, and an idle gateway answers after one cycle. No timer is
involved.

A checkpoint may be signed before its entries are durable, but leaves only afterwards.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import msgspec

from sealkeeper.server.log.errors import (
    EntryTooLargeError,
    LogBrokenError,
    LogError,
    LogOverloadedError,
    LogStorageFullError,
    LogUnavailableError,
)
from sealkeeper.server.log.journal import DurabilityError, Growth, Journal, JournalWriter, encode_payload
from sealkeeper.server.log.lock import WriterLock
from sealkeeper.server.log.merkle_tree import Edge
from sealkeeper.server.log.publisher import LogTree, Publisher
from sealkeeper.server.log.reader import LogReader
from sealkeeper.server.log.tiles import MAX_ENTRY
from sealkeeper.verify.merkle import leaf_hash
from sealkeeper.verify.note import Checkpoint, signature_line

_log = logging.getLogger("sealkeeper.log")

TRANSPARENCY, CT, AUDIT = "transparency", "ct", "audit"
LOG_NAMES = (TRANSPARENCY, CT, AUDIT)
MAX_PENDING = 20_000
"""Submissions that may wait."""
MAX_UNPUBLISHED = 500_000
"""Entries of one log that may wait for publication; they are kept in memory."""
_MAX_CYCLE_ENTRIES = 4096
_MAX_CYCLE_BYTES = 8 * 1024 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

AuditRecords: TypeAlias = Sequence[bytes] | Callable[[int], Sequence[bytes]]


class CheckpointSigner(Protocol):
    """Signs the checkpoints of one log.

    Attributes:
        origin: the log's name, a bare host name.
        key_id: 4 bytes (C2SP signed-note).
    """

    @property
    def origin(self) -> str: ...

    @property
    def key_id(self) -> bytes: ...

    async def sign(self, text: bytes) -> bytes:
        """Sign a note's text."""
        ...


class Submission(msgspec.Struct, frozen=True):
    """What one request adds: all of it or nothing, and without a gap in each log.

    Attributes:
        transparency: entry bodies, at most 65,535 bytes each.
        ct: entry bodies.
        audit: entry bodies, or a pure and fast function that makes them from the first transparency index.
    """

    transparency: Sequence[bytes] = ()
    ct: Sequence[bytes] = ()
    audit: AuditRecords = ()


class Inclusion(msgspec.Struct, frozen=True):
    """Where an entry is, and the proof.

    Attributes:
        index: of the entry, from 0.
        tree_size: of the checkpoint's tree.
        root_hash: of the checkpoint's tree, 32 bytes.
        hashes: the audit path from the leaf up, 32 bytes each.
        checkpoint: the signed note.
    """

    index: int
    tree_size: int
    root_hash: bytes
    hashes: tuple[bytes, ...]
    checkpoint: str


class Receipt(msgspec.Struct, frozen=True):
    """The answer to a submission, given when it is durable and covered by signed checkpoints.

    Attributes:
        transparency: one a body, in order.
        ct_index: of its first ct entry.
        audit_index: of its first audit record.
    """

    transparency: tuple[Inclusion, ...]
    ct_index: int
    audit_index: int


class CycleStats(msgspec.Struct, frozen=True):
    """What a cycle did: submissions served and seconds taken."""

    submissions: int
    seconds: float


@dataclass(slots=True)
class _Pending:
    submission: Submission
    answer: asyncio.Future[Receipt]
    # Set while the submission is being integrated: its first index in each log.
    first: tuple[int, int, int] = (0, 0, 0)


class Sequencer:
    """Owns the logs of a folder; made by ``open_logs``. All methods run on the event loop.

    Args:
        logs: by name, in the order of ``LOG_NAMES``.
        signers: by log name.
        journal: where cycles are made durable.
        publisher: makes tiles of them.
        lock: held until ``close``.
        on_cycle: told of each cycle.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        logs: Mapping[str, LogTree],
        signers: Mapping[str, CheckpointSigner],
        journal: Journal,
        publisher: Publisher,
        lock: WriterLock,
        on_cycle: Callable[[CycleStats], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logs = logs
        self._trees = tuple(logs[name] for name in LOG_NAMES)
        self._signers = signers
        self._journal = journal
        self._publisher = publisher
        self._lock = lock
        self._clock = clock
        self.on_cycle = on_cycle
        # Submissions in the order of their coming; taken by the cycle only.
        self._pending: deque[_Pending] = deque()
        self._wakeup = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._writer = JournalWriter(journal)
        self._closing = False
        self._broken: LogBrokenError | None = None
        self._last_checkpoint = clock()
        self._task = asyncio.create_task(self._run(), name="sequencer")
        self._publishing = asyncio.create_task(publisher.run(), name="publisher")

    def submit(self, submission: Submission) -> asyncio.Future[Receipt]:
        """Add entries, in the order of these calls; answered when they are durable and covered by checkpoints.

        A caller that is cancelled may find its entries in the log all the same.

        Raises:
            EntryTooLargeError: a body is too long. Nothing was recorded.
            LogOverloadedError: too much waits already. Nothing was recorded.
            LogStorageFullError: the disk is full. Nothing was recorded.
            LogUnavailableError: closed, broken, or the checkpoint could not be signed. Whether it is in the log is
                open; no checkpoint that covers it was given away.
        """
        answer: asyncio.Future[Receipt] = self._loop.create_future()
        try:
            self._require_room()
            _check_lengths(submission.transparency)
            _check_lengths(submission.ct)
        except LogError as error:
            answer.set_exception(error)
            return answer
        self._pending.append(_Pending(submission, answer))
        self._wakeup.set()
        return answer

    def _require_room(self) -> None:
        if self._broken is not None:
            raise self._broken
        if self._closing:
            raise LogUnavailableError("the log is being closed")
        if len(self._pending) >= MAX_PENDING:
            raise LogOverloadedError("too many requests wait for the log")
        if any(log.tree.size - log.published > MAX_UNPUBLISHED for log in self._trees):
            raise LogStorageFullError("the log cannot be published; its disk may be full")

    async def _run(self) -> None:
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            while self._pending:
                began = self._clock()
                before = tuple(log.tree.size for log in self._trees)
                batch = self._take()
                if batch:
                    await self._cycle(batch, before)
                    self.on_cycle(CycleStats(len(batch), self._clock() - began))
            if self._closing:
                return

    def _take(self) -> list[_Pending]:
        """Take what waits, as much as fits into a cycle, and integrate it."""
        batch: list[_Pending] = []
        entries = length = 0
        while self._pending and entries < _MAX_CYCLE_ENTRIES and length < _MAX_CYCLE_BYTES:
            pending = self._pending.popleft()
            if pending.answer.done():
                continue
            try:
                bodies = self._bodies(pending.submission)
            except Exception as error:  # noqa: BLE001  (one bad submission must not end the sequencer)
                _fail(pending, error)
                continue
            pending.first = self._integrate(bodies)
            batch.append(pending)
            entries += sum(map(len, bodies))
            length += sum(len(body) for part in bodies for body in part)
        return batch

    def _bodies(self, submission: Submission) -> tuple[Sequence[bytes], Sequence[bytes], Sequence[bytes]]:
        audit = submission.audit
        if callable(audit):
            audit = audit(self._trees[0].tree.size)
            _check_lengths(audit)
        return submission.transparency, submission.ct, audit

    def _integrate(self, bodies: tuple[Sequence[bytes], ...]) -> tuple[int, int, int]:
        first = (self._trees[0].tree.size, self._trees[1].tree.size, self._trees[2].tree.size)
        for log, part in zip(self._trees, bodies, strict=True):
            if part:
                log.tree.extend([leaf_hash(body) for body in part])
                log.bodies.extend(part)
        return first

    async def _cycle(self, batch: list[_Pending], before: tuple[int, ...]) -> None:
        edges = {log.name: Edge(log.tree, log.tree.size) for log in self._trees if log.tree.size > log.size}
        growths = [
            Growth(log.number, size, edges[log.name].root, log.bodies[size - log.bodies_start :])
            for log, size in zip(self._trees, before, strict=True)
            if log.tree.size > size
        ]
        writing = self._writer.append(encode_payload(growths))
        signing = asyncio.gather(
            *(self._sign(log, edges[log.name].root) for log in self._trees if log.name in edges),
            return_exceptions=True,
        )
        # While the disk and the signer work: the proofs.
        proofs = [_proofs(pending, edges.get(TRANSPARENCY)) for pending in batch]
        try:
            await writing
        except (OSError, DurabilityError) as error:
            await signing
            self._undo(batch, before, error)
            return
        checkpoints = await signing
        self._answer(batch, proofs, edges, checkpoints)

    async def _sign(self, log: LogTree, root: bytes) -> str:
        signer = self._signers[log.name]
        text = Checkpoint(log.origin, log.tree.size, root).text()
        signature = await signer.sign(text.encode())
        return f"{text}\n{signature_line(log.origin, signer.key_id, signature)}"

    def _undo(self, batch: list[_Pending], before: tuple[int, ...], error: OSError | DurabilityError) -> None:
        for log, size in zip(self._trees, before, strict=True):
            log.tree.rollback(size)
            del log.bodies[size - log.bodies_start :]
        failure: LogError
        if isinstance(error, OSError) and error.errno in _FULL:
            failure = LogStorageFullError("the disk of the log is full")
        elif isinstance(error, OSError):
            failure = LogUnavailableError(f"the log cannot be written: {error.strerror}")
        else:
            failure = self._broken = LogBrokenError(f"{error}; the gateway must be started anew")
            batch = [*batch, *self._pending]
            self._pending.clear()
        _log.error("%s", failure)
        for pending in batch:
            _fail(pending, failure)

    def _answer(
        self,
        batch: list[_Pending],
        proofs: list[list[tuple[bytes, ...]]],
        edges: Mapping[str, Edge],
        checkpoints: Sequence[str | BaseException],
    ) -> None:
        bad = next((one for one in checkpoints if isinstance(one, BaseException)), None)
        if bad is not None:
            # The entries stay: they are durable, and the next checkpoint covers them. No proof of them leaves now.
            _log.error("a checkpoint could not be signed: %s", type(bad).__name__)
            for pending in batch:
                _fail(pending, LogUnavailableError("the log's checkpoint could not be signed"))
            return
        for (name, edge), checkpoint in zip(edges.items(), checkpoints, strict=True):
            log = self._logs[name]
            log.size, log.root_hash, log.checkpoint = edge.size, edge.root, str(checkpoint)
        self._publisher.sequence = self._journal.next_sequence - 1
        self._last_checkpoint = self._clock()
        log = self._trees[0]
        for pending, hashes in zip(batch, proofs, strict=True):
            if pending.answer.done():
                continue
            first, ct, audit = pending.first
            inclusions = tuple(
                Inclusion(first + place, log.size, log.root_hash, path, log.checkpoint)
                for place, path in enumerate(hashes)
            )
            pending.answer.set_result(Receipt(inclusions, ct, audit))
        self._publisher.want()

    def log(self, name: str) -> LogReader:
        """A reader of one log."""
        return LogReader(self._logs[name])

    async def published(self, name: str, size: int) -> None:
        """Wait until what readers of a log's folder see covers ``size`` entries."""
        await self._publisher.published(name, size)

    @property
    def tree_sizes(self) -> Mapping[str, int]:
        """Number of entries by log."""
        return {name: log.size for name, log in self._logs.items()}

    @property
    def pending_entries(self) -> int:
        """Submissions that wait."""
        return len(self._pending)

    @property
    def broken(self) -> bool:
        """Whether nothing will be taken any more until the log has been opened anew."""
        return self._broken is not None

    def seconds_since_checkpoint(self) -> float:
        """Seconds since a checkpoint was signed."""
        return self._clock() - self._last_checkpoint

    async def close(self) -> None:
        """Serve what waits, publish it, make it durable, let go of the folder. Closing twice is fine."""
        if self._closing:
            return
        self._closing = True
        self._wakeup.set()
        await self._task
        self._publishing.cancel()
        with suppress(asyncio.CancelledError):
            await self._publishing
        try:
            if self._broken is None:
                await self._publisher.publish(everything=True)
        except OSError as error:
            _log.error("cannot publish the logs: %s", error.strerror)
        finally:
            self._writer.close()
            self._journal.close()
            self._lock.release()


def _check_lengths(bodies: Sequence[bytes]) -> None:
    for body in bodies:
        if len(body) > MAX_ENTRY:
            raise EntryTooLargeError(f"a log entry has {len(body)} bytes; at most {MAX_ENTRY} are possible")


def _proofs(pending: _Pending, edge: Edge | None) -> list[tuple[bytes, ...]]:
    if edge is None:
        return []
    first = pending.first[0]
    return [edge.inclusion_proof(first + place) for place in range(len(pending.submission.transparency))]


def _fail(pending: _Pending, error: Exception) -> None:
    if not pending.answer.done():
        pending.answer.set_exception(error)
