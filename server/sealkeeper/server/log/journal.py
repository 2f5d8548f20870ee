"""The write-ahead journal: what makes entries durable before they are in tiles.

A segment is a file, filled with zeros beforehand, because ``fdatasync`` is faster where the file does not grow and a
full disk is noticed before a record is begun. Segments are numbered in the order of their making, and none is ever made
over another: what lies there may be all that there is of an answered record. It starts with a random salt. A record is
one cycle of the sequencer::

    magic "SKJ1" | sequence (8) | length (4) | SHA-256(salt | sequence | length | payload)[:16] | payload

and its payload, for each log that grew: number of the log (1), first index (8), root hash after it (32), number of
entries (4), the entries, each after its length (2). All numbers are big-endian. The salt keeps bytes that callers chose
from ever looking like a record. After an unclean end the last record of a segment may be torn; a bad record anywhere
else is refused.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from sealkeeper.server.log.errors import LogBrokenError, LogCorruptError

SEGMENT_BYTES = 16 * 1024 * 1024
_MAGIC = b"SKJ1"
_SEGMENT_MAGIC = b"SKJSEG1\n"
_SALT = 16
_SEGMENT_HEADER = len(_SEGMENT_MAGIC) + _SALT
_RECORD = struct.Struct(">4sQI16s")
_BOUND = struct.Struct(">QI")
_GROWTH = struct.Struct(">BQ32sI")
_LENGTH = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class Growth:
    """What one cycle added to one log.

    Attributes:
        log: its number.
        first_index: of the entries.
        root_hash: of the tree with them.
        entries: bodies, each at most 65,535 bytes.
    """

    log: int
    first_index: int
    root_hash: bytes
    entries: Sequence[bytes]


def encode_payload(growths: Sequence[Growth]) -> bytes:
    """The payload of a record."""
    parts: list[bytes] = []
    pack = _LENGTH.pack
    for growth in growths:
        parts.append(_GROWTH.pack(growth.log, growth.first_index, growth.root_hash, len(growth.entries)))
        for entry in growth.entries:
            parts += (pack(len(entry)), entry)
    return b"".join(parts)


def decode_payload(payload: bytes) -> list[Growth]:
    """Take the payload of a record apart. Its checksum was right, so it is what was encoded."""
    growths = []
    place = 0
    while place < len(payload):
        log, first_index, root_hash, count = _GROWTH.unpack_from(payload, place)
        place += _GROWTH.size
        entries = []
        for _ in range(count):
            end = place + 2 + _LENGTH.unpack_from(payload, place)[0]
            entries.append(payload[place + 2 : end])
            place = end
        growths.append(Growth(log, first_index, root_hash, entries))
    return growths


def _checksum(salt: bytes, sequence: int, payload: bytes) -> bytes:
    digest = sha256(salt + _BOUND.pack(sequence, len(payload)))
    digest.update(payload)
    return digest.digest()[:16]


class Journal:
    """Appends records. All methods but the constructor and ``close`` are called in one thread, which they block.

    Args:
        directory: of the segments; nobody else writes there.
        next_sequence: number of the next record.
        segment_bytes: size of a segment; a longer record gets a segment of its own.

    Raises:
        OSError: the first segment cannot be made.
    """

    def __init__(self, directory: Path, next_sequence: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.next_sequence = next_sequence
        self._directory = directory
        self._segment_bytes = segment_bytes
        # Makes the next segment while this one is being filled; one thread, so that at most one is made ahead.
        self._preparing = ThreadPoolExecutor(1, "sealkeeper-journal-segment")
        # The number is used up even where making the segment fails: what remains of it stands in nobody's way.
        self._next_number = max(map(_number, segments(directory)), default=0) + 1
        self._current = _Segment.create(directory, self._take_number(), segment_bytes)
        self._spare: Future[_Segment] | None = None
        # Segments that are full, oldest first, each with the sequence number of its last record.
        self.retired: list[tuple[Path, int]] = []

    def append(self, payload: bytes) -> None:
        """Write a record and make it durable.

        Raises:
            OSError: the record could not be written; nothing remains of it. The next one may succeed.
            DurabilityError: it is not known what is on the disk.
        """
        if not self._current.fits(_RECORD.size + len(payload)):
            self._rotate(_RECORD.size + len(payload))
        checksum = _checksum(self._current.salt, self.next_sequence, payload)
        record = _RECORD.pack(_MAGIC, self.next_sequence, len(payload), checksum)
        self._current.write(record + payload)
        self.next_sequence += 1

    def _rotate(self, needed: int) -> None:
        segment = self._take_spare(needed)
        if segment is None:
            size = max(self._segment_bytes, _SEGMENT_HEADER + needed)
            segment = _Segment.create(self._directory, self._take_number(), size)
        full, self._current = self._current, segment
        self.retired.append((full.path, self.next_sequence - 1))
        self._spare = self._preparing.submit(_Segment.create, self._directory, self._take_number(), self._segment_bytes)
        full.close()

    def _take_spare(self, needed: int) -> _Segment | None:
        spare, self._spare = self._spare, None
        # Where it could not be made ahead there may be room by now.
        if spare is None or spare.exception() is not None:
            return None
        segment = spare.result()
        if segment.fits(needed):
            return segment
        segment.discard()
        return None

    def _take_number(self) -> int:
        number = self._next_number
        self._next_number += 1
        return number

    def close(self) -> None:
        """Let go of the files."""
        self._preparing.shutdown()
        if self._spare is not None and self._spare.exception() is None:
            self._spare.result().discard()
        self._current.close()


class JournalWriter:
    """Appends to a journal in a thread of its own, for an event loop.

    Leaner than an executor, of which a signature would notice the locks.

    Args:
        journal: whose ``append`` nobody else calls meanwhile.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[tuple[bytes, asyncio.Future[None]] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="sealkeeper-journal", daemon=True)
        self._thread.start()

    def append(self, payload: bytes) -> asyncio.Future[None]:
        """Write a record; answered when it is durable, or with what ``Journal.append`` raised."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._queue.put((payload, done))
        return done

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            payload, done = item
            outcome: Exception | None = None
            try:
                self._journal.append(payload)
            except Exception as error:  # noqa: BLE001  (it is raised where it is waited for)
                outcome = error
            self._loop.call_soon_threadsafe(_settle, done, outcome)

    def close(self) -> None:
        """End the thread when it has written what it was given."""
        self._queue.put(None)
        self._thread.join()


def _settle(done: asyncio.Future[None], outcome: Exception | None) -> None:
    if done.done():
        return
    if outcome is None:
        done.set_result(None)
    else:
        done.set_exception(outcome)


class DurabilityError(LogBrokenError):
    """A write could not be made durable or undone. Asking the kernel again proves nothing: it may forget the fault."""


class _Segment:
    """One file, open for writing."""

    def __init__(self, path: Path, descriptor: int, salt: bytes, size: int) -> None:
        self.path = path
        self.salt = salt
        self._descriptor = descriptor
        self._size = size
        self._end = _SEGMENT_HEADER

    @classmethod
    def create(cls, directory: Path, number: int, size: int) -> _Segment:
        path = directory / f"{number:016}.journal"
        salt = os.urandom(_SALT)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write_all(descriptor, _SEGMENT_MAGIC + salt, 0)
            zeros = bytes(1024 * 1024)
            for place in range(_SEGMENT_HEADER, size, len(zeros)):
                _write_all(descriptor, zeros[: size - place], place)
            os.fsync(descriptor)
            _sync_directory(directory)
        except BaseException:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return cls(path, descriptor, salt, size)

    def fits(self, length: int) -> bool:
        return self._end + length <= self._size

    def write(self, record: bytes) -> None:
        try:
            _write_all(self._descriptor, record, self._end)
        except OSError:
            # A record half written looks like a torn tail; the next one must not come after it.
            try:
                _write_all(self._descriptor, bytes(len(record)), self._end)
            except OSError as error:
                raise DurabilityError("a failed write could not be undone") from error
            raise
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise DurabilityError("the disk did not make a record durable") from error
        self._end += len(record)

    def discard(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._descriptor)


def _write_all(descriptor: int, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, place)
        view = view[written:]
        place += written


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _number(path: Path) -> int:
    if not (path.stem.isascii() and path.stem.isdigit()):
        raise LogCorruptError(f"{path.name} in the journal is not a segment: its name has to be a number")
    return int(path.stem)


def segments(directory: Path) -> list[Path]:
    """The segments in a folder, oldest first.

    Raises:
        LogCorruptError: a file that is named like a segment has no number.
    """
    return sorted(directory.glob("*.journal"), key=_number)


def remove_segments(directory: Path, paths: Iterable[Path]) -> None:
    """Remove segments of a folder for good: after a power failure they do not come back.

    Raises:
        OSError: a segment cannot be removed, or may come back. It can be tried again.
    """
    for path in paths:
        path.unlink(missing_ok=True)
    _sync_directory(directory)


def blank_segments(directory: Path) -> list[Path]:
    """The segments into which nothing was written: each opening that is not finished leaves one.

    Raises:
        LogCorruptError: see ``segments``.
        OSError: a segment cannot be read.
    """
    return [path for path in segments(directory) if not path.read_bytes()[_SEGMENT_HEADER:].strip(b"\0")]


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it was read."""

    sequence: int
    growths: list[Growth]


def read_records(directory: Path, next_sequence: int) -> Iterator[Record]:
    """Read the records from a number on, oldest first, without a torn last one.

    A torn record may also be the last one of a segment that is not the newest: of a write that failed, or where a
    segment that was removed came back with a power failure. It was never answered if the next segment has its number
    anew; if it had been, the next one would go on behind it.

    Args:
        directory: of the segments.
        next_sequence: of the first record that is needed; what those before it held is in durable tiles.

    Raises:
        LogCorruptError: a record is bad that was not the last one, or one is missing.
    """
    expected, torn = next_sequence, ""
    for path in segments(directory):
        for place, record in _read_segment(path):
            if record is None:
                torn = f"; {path.name} is bad at byte {place}"
            elif record.sequence == expected:
                expected += 1
                yield record
            elif record.sequence >= next_sequence:
                raise LogCorruptError(
                    f"the journal lacks record {expected}: {path.name} has {record.sequence} there{torn}"
                )


def _read_segment(path: Path) -> Iterator[tuple[int, Record | None]]:
    """Yield the records of a segment with their places, and at last ``None`` where one is torn.

    Raises:
        LogCorruptError: a record is bad that was not the segment's last one.
    """
    data = path.read_bytes()
    if not data.startswith(_SEGMENT_MAGIC) or len(data) < _SEGMENT_HEADER:
        # Never finished being made, so nothing was written into it; a damaged one yields a bad record.
        if data.strip(b"\0"):
            yield 0, None
        return
    salt = data[len(_SEGMENT_MAGIC) : _SEGMENT_HEADER]
    place = _SEGMENT_HEADER
    while (record := _record_at(data, place, salt)) is not None:
        yield place, record[0]
        place = record[1]
    if place >= len(data.rstrip(b"\0")):
        return
    # Is there a whole record behind the bad one? Then the bad one was not the last.
    behind = place
    while (behind := data.find(_MAGIC, behind + 1)) >= 0:
        if _record_at(data, behind, salt) is not None:
            raise LogCorruptError(f"the journal has a bad record in its middle: {path.name} at byte {place}")
    yield place, None


def _record_at(data: bytes, place: int, salt: bytes) -> tuple[Record, int] | None:
    if place + _RECORD.size > len(data):
        return None
    magic, sequence, length, checksum = _RECORD.unpack_from(data, place)
    end = place + _RECORD.size + length
    if magic != _MAGIC or end > len(data):
        return None
    payload = data[place + _RECORD.size : end]
    if _checksum(salt, sequence, payload) != checksum:
        return None
    return Record(sequence, decode_payload(payload)), end
