"""Writes what is durable in the journal to tiles, for readers, and then lets go of the journal.

Publishing never holds up a request: it runs beside the cycles, at most once in an interval while there is load. Files
are written without waiting for the disk. Before segments of the journal are removed, the whole file system is synced
and ``state.json`` says up to where the tiles can be relied upon after a power failure.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sealkeeper.server.log.journal import DurabilityError, Journal, remove_segments
from sealkeeper.server.log.merkle_tree import MerkleTree
from sealkeeper.server.log.tiles import TILE_WIDTH, TileStore, encode_entry_bundle, tile_path

_log = logging.getLogger("sealkeeper.log")

FORMAT = "sealkeeper-log/1"
STATE_FILE = "state.json"


@dataclass(frozen=True, slots=True)
class LogState:
    """Up to where one log's tiles are durable.

    Attributes:
        origin: the log's name.
        key_id: of its key, hexadecimal.
        size: number of entries in durable tiles.
        root_hash: of the tree of that size, hexadecimal.
    """

    origin: str
    key_id: str
    size: int
    root_hash: str


@dataclass(frozen=True, slots=True)
class State:
    """What ``state.json`` holds.

    Attributes:
        next_sequence: first record of the journal that is not in durable tiles.
        logs: by name.
    """

    next_sequence: int
    logs: Mapping[str, LogState]


@dataclass(slots=True)
class LogTree:
    """One log: what has been integrated, and what of it is durable, signed and published.

    Used on the event loop only; ``tiles`` in threads as well. The sequencer grows it, the publisher moves ``published``
    and ``synced`` on.

    Attributes:
        name: of the log.
        number: of the log in the journal.
        origin: name in checkpoints.
        key_id: first bytes of its key's hash.
        tiles: its folder.
        tree: its hashes; ahead of ``size`` only while a cycle runs or after one whose checkpoint was not signed.
        bodies: entries from ``bodies_start`` on, where the bundle starts that ``published`` ends in.
        size: number of entries of the newest checkpoint.
        root_hash: of the newest checkpoint.
        checkpoint: the newest checkpoint, a signed note.
        published: number of entries that readers of the folder see.
        published_root: root hash of the tree of that size.
        synced: number of entries that are in durable tiles.
    """

    name: str
    number: int
    origin: str
    key_id: bytes
    tiles: TileStore
    tree: MerkleTree
    bodies: list[bytes]
    bodies_start: int
    size: int
    root_hash: bytes
    checkpoint: str
    published: int
    published_root: bytes
    synced: int


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What has to be written for one log, taken at one moment."""

    log: LogTree
    size: int
    root_hash: bytes
    checkpoint: str
    tiles: list[tuple[str, bytes]]
    bodies: list[bytes]


def write_state(directory: Path, state: State) -> None:
    """Write ``state.json`` durably, all of it or nothing.

    Raises:
        OSError: it could not be written; the one before is still there.
        DurabilityError: see ``sync_file_system``.
    """
    document = {
        "format": FORMAT,
        "nextSequence": state.next_sequence,
        "logs": {
            name: {"origin": one.origin, "keyId": one.key_id, "size": one.size, "rootHash": one.root_hash}
            for name, one in state.logs.items()
        },
    }
    target = directory / STATE_FILE
    temporary = directory / f".{STATE_FILE}.new"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
    sync_file_system(directory)


def sync_file_system(directory: Path) -> None:
    """Make everything written to the folder's file system durable (syncfs(2)).

    Raises:
        OSError: the folder cannot be opened.
        DurabilityError: the disk refused. Another try may succeed although what was written before is lost.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        number = _syncfs(descriptor)
    finally:
        os.close(descriptor)
    if number:
        raise DurabilityError(f"the disk did not make the tiles durable: {os.strerror(number)}")


def _syncfs(descriptor: int) -> int:
    return ctypes.get_errno() if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0 else 0


class Publisher:
    """Publishes a set of logs. All methods run on the event loop.

    Args:
        directory: of the logs.
        logs: by name.
        journal: whose segments are removed once they are not needed.
        interval: seconds between two publications under load.
    """

    def __init__(self, directory: Path, logs: Mapping[str, LogTree], journal: Journal, interval: float) -> None:
        self._directory = directory
        self._logs = logs
        self._journal = journal
        self._interval = interval
        # The newest record that all checkpoints cover; the sequencer moves it on together with the logs' sizes.
        self.sequence = journal.next_sequence - 1
        # Bytes of entries that came since the log was opened: what all checkpoints cover, which the sequencer moves on
        # likewise, and what of that is published.
        self.covered_bytes = 0
        self.published_bytes = 0
        self._wanted = asyncio.Event()
        self._changed = asyncio.Condition()
        self._publishing = asyncio.Lock()

    def want(self) -> None:
        """Say that there is something new."""
        self._wanted.set()

    async def run(self) -> None:
        """Publish whenever there is something new, until cancelled.

        Raises:
            DurabilityError: see ``publish``.
        """
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self.publish()
            except DurabilityError:
                raise
            except Exception as error:  # noqa: BLE001  (readers would wait for ever, and the journal would grow)
                # Requests do not depend on it, the journal holds everything: tried again with the next interval.
                log_failure(error)
                self._wanted.set()
            await asyncio.sleep(self._interval)

    async def published(self, log: str, size: int) -> None:
        """Wait until a log's published checkpoint covers ``size`` entries."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._logs[log].published >= size)

    async def publish(self, *, everything: bool = False) -> None:
        """Write what is new. Where the journal has full segments, or ``everything`` is asked for, sync and clean up.

        Raises:
            OSError: something could not be written; what was published before still stands.
            DurabilityError: what was published may not outlive a power failure. Only the journal has it for certain, so
                no publication may follow until the logs have been opened anew.
        """
        async with self._publishing:
            sequence, covered_bytes = self.sequence, self.covered_bytes
            snapshots = [_snapshot(log) for log in self._logs.values() if everything or log.size > log.published]
            await _in_thread(_write, snapshots)
            for snapshot in snapshots:
                _advance(snapshot)
            self.published_bytes = covered_bytes
            retired = [segment for segment in self._journal.retired if segment[1] <= sequence]
            if retired or everything:
                await self._sync(sequence, [path for path, _ in retired])
                del self._journal.retired[: len(retired)]
        async with self._changed:
            self._changed.notify_all()

    async def _sync(self, sequence: int, retired: Sequence[Path]) -> None:
        logs = self._logs.values()
        state = State(
            sequence + 1,
            {log.name: LogState(log.origin, log.key_id.hex(), log.published, log.published_root.hex()) for log in logs},
        )
        full = [(log.tiles, log.synced, log.published) for log in logs]
        await _in_thread(self._sync_now, state, full, retired)
        for log in logs:
            log.synced = state.logs[log.name].size

    def _sync_now(self, state: State, full: Sequence[tuple[TileStore, int, int]], retired: Sequence[Path]) -> None:
        sync_file_system(self._directory)
        write_state(self._directory, state)
        for tiles, before, now in full:
            _remove_partial_tiles(tiles, before, now)
        if retired:
            remove_segments(retired[0].parent, retired)


def log_failure(error: Exception) -> None:
    """Write a log line about a publication that failed. The text of what was not foreseen may hold anything."""
    reason = error.strerror if isinstance(error, OSError) else f"unexpected {type(error).__name__}"
    _log.error("cannot publish the logs: %s", reason)


async def _in_thread(work: Callable[..., None], *arguments: object) -> None:
    """Do work in a thread, to its end whoever cancels the caller: it must not go on beside the next round."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        task.exception()
        raise cancelled
    task.result()


def _snapshot(log: LogTree) -> _Snapshot:
    # The lists are copied here, on the event loop; bytes never change.
    return _Snapshot(
        log,
        log.size,
        log.root_hash,
        log.checkpoint,
        log.tree.tiles_between(log.published, log.size),
        log.bodies[: log.size - log.bodies_start],
    )


def _write(snapshots: Sequence[_Snapshot]) -> None:
    for snapshot in snapshots:
        tiles, start = snapshot.log.tiles, snapshot.log.bodies_start
        for path, data in snapshot.tiles:
            tiles.write(path, data)
        if snapshot.tiles:
            for place in range(0, len(snapshot.bodies), TILE_WIDTH):
                entries = snapshot.bodies[place : place + TILE_WIDTH]
                path = tile_path("entries", (start + place) // TILE_WIDTH, len(entries))
                tiles.write(path, encode_entry_bundle(entries))
        # Last: whoever reads a checkpoint finds the tiles of its tree.
        tiles.write("checkpoint", snapshot.checkpoint.encode())


def _advance(snapshot: _Snapshot) -> None:
    log = snapshot.log
    log.published, log.published_root = snapshot.size, snapshot.root_hash
    keep = snapshot.size // TILE_WIDTH * TILE_WIDTH
    del log.bodies[: keep - log.bodies_start]
    log.bodies_start = keep
    log.tree.trim(snapshot.size)


def _remove_partial_tiles(tiles: TileStore, before: int, now: int) -> None:
    """Remove the partial forms of tiles that became full between two sizes and are durable."""
    tiles.remove_partial_tiles("entries", range(before // TILE_WIDTH, now // TILE_WIDTH))
    for level in range(0, now.bit_length(), 8):
        numbers = range((before >> level) // TILE_WIDTH, (now >> level) // TILE_WIDTH)
        tiles.remove_partial_tiles(level // 8, numbers)
