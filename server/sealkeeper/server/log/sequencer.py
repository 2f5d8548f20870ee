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
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol, TypeAlias

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
from sealkeeper.server.log.publisher import LogTree, Publisher, log_failure
from sealkeeper.server.log.reader import LogReader
from sealkeeper.server.log.tiles import MAX_ENTRY
from sealkeeper.verify.merkle import leaf_hash
from sealkeeper.verify.note import Checkpoint, signature_line

_log = logging.getLogger("sealkeeper.log")

TRANSPARENCY, CT, AUDIT = "transparency", "ct", "audit"
LOG_NAMES = (TRANSPARENCY, CT, AUDIT)
MAX_SUBMISSION_ENTRIES = 20_000
"""Entries of one submission, in all logs together."""
MAX_SUBMISSION_BYTES = 64 * 1024 * 1024
"""Bytes of the entries of one submission, in all logs together."""
MAX_PENDING = 20_000
"""Submissions that may wait."""
MAX_PENDING_BYTES = 128 * 1024 * 1024
"""Bytes of waiting entries beyond which no more are taken; without audit records that are made later."""
MAX_UNPUBLISHED = 500_000
"""Entries of one log that may wait for publication; they are kept in memory."""
MAX_UNPUBLISHED_BYTES = 512 * 1024 * 1024
"""Bytes of entries, of all logs, that may wait for publication."""
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

    At most ``MAX_SUBMISSION_ENTRIES`` and ``MAX_SUBMISSION_BYTES`` in all.

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
    # Bytes of the bodies that are known already.
    length: int
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
        self._pending_bytes = 0
        # Bytes of all entries integrated since the log was opened.
        self._grown = 0
        self._wakeup = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._writer = JournalWriter(journal)
        self._closing = False
        # Why the log is broken; empty while it is not.
        self._broken = ""
        self._last_checkpoint = clock()
        self._task = asyncio.create_task(self._run(), name="sequencer")
        self._publishing = asyncio.create_task(self._publish(), name="publisher")

    def submit(self, submission: Submission) -> asyncio.Future[Receipt]:
        """Add entries, in the order of these calls; answered when they are durable and covered by checkpoints.

        A caller that is cancelled may find its entries in the log all the same.

        Raises:
            EntryTooLargeError: a body is too long. Nothing was recorded.
            LogOverloadedError: too much waits already, or this is too much by itself. Nothing was recorded.
            LogStorageFullError: the disk is full. Nothing was recorded.
            LogBrokenError: see there. Whether it is in the log is open.
            LogUnavailableError: closed, or the checkpoint could not be signed. Whether it is in the log is open; no
                checkpoint that covers it was given away.
        """
        answer: asyncio.Future[Receipt] = self._loop.create_future()
        try:
            self._require_room()
            audit = () if callable(submission.audit) else submission.audit
            parts = (submission.transparency, submission.ct, audit)
            length = sum(map(_length, parts))
            _require_acceptable(parts, length)
        except LogError as error:
            answer.set_exception(error)
            return answer
        self._pending.append(_Pending(submission, answer, length))
        self._pending_bytes += length
        self._wakeup.set()
        return answer

    def _require_room(self) -> None:
        if self._broken:
            raise LogBrokenError(self._broken)
        if self._closing:
            raise LogUnavailableError("the log is being closed")
        if len(self._pending) >= MAX_PENDING or self._pending_bytes >= MAX_PENDING_BYTES:
            raise LogOverloadedError("too many requests wait for the log")
        if (
            any(log.tree.size - log.published > MAX_UNPUBLISHED for log in self._trees)
            or self._grown - self._publisher.published_bytes > MAX_UNPUBLISHED_BYTES
        ):
            self._refuse_unpublished()

    def _refuse_unpublished(self) -> NoReturn:
        publisher = self._publisher
        if (
            any(log.size - log.published > MAX_UNPUBLISHED for log in self._trees)
            or publisher.covered_bytes - publisher.published_bytes > MAX_UNPUBLISHED_BYTES
        ):
            raise LogStorageFullError("the log cannot be published; its disk may be full")
        # The rest has no checkpoint yet, without which it is not published. Only a cycle has one signed, and no
        # submission will begin a cycle now.
        self._wakeup.set()
        raise LogUnavailableError("the log's checkpoint could not be signed; it is tried again")

    async def _run(self) -> None:
        while not (self._closing and not self._pending):
            await self._wakeup.wait()
            self._wakeup.clear()
            await self._turn()
            while self._pending:
                await self._turn()

    async def _turn(self) -> None:
        """One cycle. Whatever goes wrong in it, nobody waits for ever."""
        if self._broken:
            return
        began, batch = self._clock(), list[_Pending]()
        try:
            await self._cycle(batch)
        except Exception as error:  # noqa: BLE001  (callers would wait for an answer that nobody gives)
            self._break(batch, error)
        if not batch:
            return
        try:
            self.on_cycle(CycleStats(len(batch), self._clock() - began))
        except Exception as error:  # noqa: BLE001  (the log does not depend on who is told of it)
            _log.error("a cycle could not be told of: unexpected %s", type(error).__name__)

    def _break(self, batch: Sequence[_Pending], error: Exception) -> None:
        """Refuse everything from now on: trees, journal and tiles may not be of one mind."""
        if not self._broken:
            what = str(error) if isinstance(error, DurabilityError) else f"unexpected {type(error).__name__}"
            self._broken = f"{what}; the gateway must be started anew"
        _log.error("the log is broken: %s%s", self._broken, _place(error))
        # It could take sizes for published that stand for another record than it knows of.
        self._publishing.cancel()
        failure = LogBrokenError(self._broken)
        for pending in (*batch, *self._pending):
            _fail(pending, failure)
        self._pending.clear()
        self._pending_bytes = 0

    async def _publish(self) -> None:
        try:
            await self._publisher.run()
        except DurabilityError as error:
            self._break((), error)

    def _take(self, batch: list[_Pending]) -> None:
        """Take what waits into a batch, as much as fits into a cycle, and integrate it."""
        entries, end = 0, self._grown + _MAX_CYCLE_BYTES
        while self._pending and entries < _MAX_CYCLE_ENTRIES and self._grown < end:
            pending = self._pending.popleft()
            self._pending_bytes -= pending.length
            if pending.answer.done():
                continue
            try:
                bodies, length = self._bodies(pending)
            except Exception as error:  # noqa: BLE001  (one bad submission must not end the sequencer)
                _fail(pending, error)
                continue
            batch.append(pending)
            pending.first = self._integrate(bodies)
            entries += sum(map(len, bodies))
            self._grown += length

    def _bodies(self, pending: _Pending) -> tuple[tuple[Sequence[bytes], ...], int]:
        """The bodies for each log, and their bytes in all."""
        submission = pending.submission
        if not callable(submission.audit):
            return (submission.transparency, submission.ct, submission.audit), pending.length
        audit = submission.audit(self._trees[0].tree.size)
        parts, length = (submission.transparency, submission.ct, audit), pending.length + _length(audit)
        _require_acceptable(parts, length)
        return parts, length

    def _integrate(self, bodies: tuple[Sequence[bytes], ...]) -> tuple[int, int, int]:
        first = (self._trees[0].tree.size, self._trees[1].tree.size, self._trees[2].tree.size)
        for log, part in zip(self._trees, bodies, strict=True):
            if part:
                log.tree.extend([leaf_hash(body) for body in part])
                log.bodies.extend(part)
        return first

    async def _cycle(self, batch: list[_Pending]) -> None:
        """Take a batch and serve it; without one, cover what an earlier cycle could not have signed."""
        before, grown = [log.tree.size for log in self._trees], self._grown
        self._take(batch)
        if not batch and all(log.tree.size == log.size for log in self._trees):
            return
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
            self._undo(before, grown)
            self._refuse(batch, error)
            return
        checkpoints = await signing
        self._answer(batch, proofs, edges, checkpoints)

    async def _sign(self, log: LogTree, root: bytes) -> str:
        signer = self._signers[log.name]
        text = Checkpoint(log.origin, log.tree.size, root).text()
        signature = await signer.sign(text.encode())
        return f"{text}\n{signature_line(log.origin, signer.key_id, signature)}"

    def _undo(self, before: Sequence[int], grown: int) -> None:
        self._grown = grown
        for log, size in zip(self._trees, before, strict=True):
            log.tree.rollback(size)
            del log.bodies[size - log.bodies_start :]

    def _refuse(self, batch: Sequence[_Pending], error: OSError | DurabilityError) -> None:
        if isinstance(error, DurabilityError):
            self._break(batch, error)
            return
        failure: LogError
        if error.errno in _FULL:
            failure = LogStorageFullError("the disk of the log is full")
        else:
            failure = LogUnavailableError(f"the log cannot be written: {error.strerror}")
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
        self._publisher.covered_bytes = self._grown
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
        return bool(self._broken)

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
            if not self._broken:
                await self._publisher.publish(everything=True)
        except DurabilityError as error:
            self._break((), error)
        except Exception as error:  # noqa: BLE001  (the journal holds everything; the next opening publishes it)
            log_failure(error)
        finally:
            self._writer.close()
            try:
                self._journal.close()
            finally:
                self._lock.release()


def _length(bodies: Sequence[bytes]) -> int:
    """Bytes of all bodies."""
    if not bodies:
        return 0
    lengths = list(map(len, bodies))
    if max(lengths) > MAX_ENTRY:
        raise EntryTooLargeError(f"a log entry has {max(lengths)} bytes; at most {MAX_ENTRY} are possible")
    return sum(lengths)


def _require_acceptable(parts: Sequence[Sequence[bytes]], length: int) -> None:
    entries = sum(map(len, parts))
    if entries > MAX_SUBMISSION_ENTRIES:
        raise LogOverloadedError(f"{entries} log entries at once; at most {MAX_SUBMISSION_ENTRIES} are taken")
    if length > MAX_SUBMISSION_BYTES:
        raise LogOverloadedError(f"log entries of {length} bytes at once; at most {MAX_SUBMISSION_BYTES} are taken")


def _place(error: Exception) -> str:
    """Where an error was raised, for a log line: its text may hold anything."""
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    return "".join(f" ({Path(frame.filename).name}, line {frame.lineno})" for frame in frames)


def _proofs(pending: _Pending, edge: Edge | None) -> list[tuple[bytes, ...]]:
    if edge is None:
        return []
    first = pending.first[0]
    return [edge.inclusion_proof(first + place) for place in range(len(pending.submission.transparency))]


def _fail(pending: _Pending, error: Exception) -> None:
    if not pending.answer.done():
        pending.answer.set_exception(error)
