"""Opens the logs of a folder: makes them, or brings them back to one history after whatever happened.

::

    lock  state.json  journal/*.journal
    transparency/  ct/  audit/        each with checkpoint and tile/...

Order of truth: durable tiles up to the sizes in ``state.json``, then the journal's records. Each record names the root
hash that the tree has with it, so that what is replayed is what was answered.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sealkeeper.server.log.errors import LogCorruptError, LogUnavailableError
from sealkeeper.server.log.journal import (
    SEGMENT_BYTES,
    Journal,
    Record,
    blank_segments,
    read_records,
    remove_segments,
    segments,
)
from sealkeeper.server.log.lock import WriterLock
from sealkeeper.server.log.merkle_tree import MerkleTree, TileNeeded
from sealkeeper.server.log.publisher import FORMAT, STATE_FILE, LogState, LogTree, Publisher, State, write_state
from sealkeeper.server.log.sequencer import AUDIT, LOG_NAMES, CheckpointSigner, CycleStats, Sequencer
from sealkeeper.server.log.tiles import TILE_WIDTH, TileStore
from sealkeeper.verify.errors import NoteError
from sealkeeper.verify.merkle import EMPTY_ROOT, leaf_hash
from sealkeeper.verify.note import Checkpoint, parse_checkpoint, parse_signed_note, signature_line


async def open_logs(
    directory: Path,
    signers: Mapping[str, CheckpointSigner],
    *,
    publish_interval: float = 0.5,
    segment_bytes: int = SEGMENT_BYTES,
    on_cycle: Callable[[CycleStats], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Sequencer:
    """Open the three logs, with a published checkpoint each.

    Args:
        directory: made where it is missing.
        signers: by log name.
        publish_interval: seconds between two publications under load.
        segment_bytes: size of the journal's segments.
        on_cycle: told of each cycle.
        clock: seconds, monotonic.

    Raises:
        LogLockedError: another process writes these logs.
        LogCorruptError: what lies there is not one history, or belongs to other origins or keys. Nothing was changed.
        LogBrokenError: the disk did not make something durable.
        OSError: the folder cannot be used.
    """
    await asyncio.to_thread(directory.mkdir, mode=0o755, parents=True, exist_ok=True)
    lock = WriterLock(directory)
    try:
        logs, next_sequence = await asyncio.to_thread(_recover, directory, signers)
        for log in logs.values():
            log.checkpoint = await _signed_checkpoint(log, signers[log.name])
        old, journal = await asyncio.to_thread(_next_journal, directory / "journal", next_sequence, segment_bytes)
    except BaseException:
        lock.release()
        raise
    publisher = Publisher(directory, logs, journal, publish_interval)
    try:
        # What the journal held goes into durable tiles first; then its old segments have done their work.
        await publisher.publish(everything=True)
        await asyncio.to_thread(remove_segments, directory / "journal", old)
    except BaseException:
        journal.close()
        lock.release()
        raise
    return Sequencer(logs, signers, journal, publisher, lock, on_cycle, clock)


def _next_journal(directory: Path, next_sequence: int, segment_bytes: int) -> tuple[list[Path], Journal]:
    """Begin a journal behind the segments that are there; these come back as well."""
    remove_segments(directory, blank_segments(directory))
    return segments(directory), Journal(directory, next_sequence, segment_bytes)


async def _signed_checkpoint(log: LogTree, signer: CheckpointSigner) -> str:
    text = Checkpoint(log.origin, log.size, log.root_hash).text()
    signature = await signer.sign(text.encode())
    return f"{text}\n{signature_line(log.origin, signer.key_id, signature)}"


def _recover(directory: Path, signers: Mapping[str, CheckpointSigner]) -> tuple[dict[str, LogTree], int]:
    state = _read_state(directory, signers)
    journal = directory / "journal"
    journal.mkdir(mode=0o700, exist_ok=True)
    logs = {
        name: _open_tree(directory, number, name, state.logs[name], signers[name].key_id)
        for number, name in enumerate(LOG_NAMES)
    }
    next_sequence = state.next_sequence
    for record in read_records(journal, next_sequence):
        _replay(record, list(logs.values()))
        next_sequence += 1
    for log in logs.values():
        log.size, log.root_hash = log.tree.size, log.tree.root()
        _check_published(log)
    return logs, next_sequence


def _replay(record: Record, logs: list[LogTree]) -> None:
    for growth in record.growths:
        if growth.log >= len(logs):
            raise LogCorruptError(f"journal record {record.sequence} speaks of a log that does not exist")
        log = logs[growth.log]
        if growth.first_index != log.tree.size:
            raise LogCorruptError(
                f"{log.name}: journal record {record.sequence} starts at entry {growth.first_index}, "
                f"the log has {log.tree.size}"
            )
        log.tree.extend([leaf_hash(body) for body in growth.entries])
        log.bodies.extend(growth.entries)
        if log.tree.root() != growth.root_hash:
            raise LogCorruptError(
                f"{log.name}: with journal record {record.sequence} the tree has another root hash than was recorded"
            )


def _open_tree(directory: Path, number: int, name: str, state: LogState, key_id: bytes) -> LogTree:
    tiles = TileStore(directory / name, private=name == AUDIT)
    tiles.create()
    tree = MerkleTree(tiles, state.size)
    root = _root(tree, tiles, state.size)
    if root.hex() != state.root_hash:
        raise LogCorruptError(f"{name}: the tiles of the first {state.size} entries do not have the root hash recorded")
    start = state.size // TILE_WIDTH * TILE_WIDTH
    bodies = tiles.read_entries(start // TILE_WIDTH, state.size - start) if state.size > start else []
    for place, body in enumerate(bodies):
        if leaf_hash(body) != tree.node(0, start + place):
            raise LogCorruptError(f"{name}: entry {start + place} is not the one that was logged")
    return LogTree(
        name=name,
        number=number,
        origin=state.origin,
        key_id=key_id,
        tiles=tiles,
        tree=tree,
        bodies=bodies,
        bodies_start=start,
        size=state.size,
        root_hash=root,
        checkpoint="",
        published=state.size,
        published_root=root,
        synced=state.size,
    )


def _root(tree: MerkleTree, tiles: TileStore, size: int) -> bytes:
    while True:
        try:
            return tree.root(size)
        except TileNeeded as needed:
            tiles.read_tile(needed.level, needed.number)


def _check_published(log: LogTree) -> None:
    """Refuse where readers have seen more, or something else, than what has been recovered."""
    text = log.tiles.read_checkpoint()
    if text is None:
        return
    try:
        seen = parse_checkpoint(parse_signed_note(text).text)
    except NoteError:
        # Torn by a power failure; it was never promised to be durable.
        return
    if seen.size > log.size:
        raise LogCorruptError(
            f"{log.name}: a checkpoint of {seen.size} entries was published, but only {log.size} are here"
        )
    if _root(log.tree, log.tiles, seen.size) != seen.root_hash:
        raise LogCorruptError(f"{log.name}: the first {seen.size} entries are not those of the published checkpoint")


def _read_state(directory: Path, signers: Mapping[str, CheckpointSigner]) -> State:
    try:
        document = json.loads((directory / STATE_FILE).read_text("utf-8"))
    except FileNotFoundError:
        return _first_state(directory, signers)
    except ValueError:
        raise LogCorruptError(f"{STATE_FILE} cannot be read") from None
    state = _parse_state(document)
    for name, signer in signers.items():
        known = state.logs[name]
        if (known.origin, known.key_id) != (signer.origin, signer.key_id.hex()):
            raise LogCorruptError(
                f"{name}: the log was begun as {known.origin} with key {known.key_id}, "
                f"not as {signer.origin} with key {signer.key_id.hex()}"
            )
    return state


def _first_state(directory: Path, signers: Mapping[str, CheckpointSigner]) -> State:
    for name in LOG_NAMES:
        if (directory / name / "checkpoint").exists():
            raise LogCorruptError(f"there is a log {name}, but no {STATE_FILE}")
    if set(segments(directory / "journal")) - set(blank_segments(directory / "journal")):
        raise LogCorruptError(f"there is a journal, but no {STATE_FILE}")
    states = {
        name: LogState(signer.origin, signer.key_id.hex(), 0, EMPTY_ROOT.hex()) for name, signer in signers.items()
    }
    state = State(1, states)
    # Durable before there is a checkpoint: a checkpoint without it tells of a folder that something was taken from.
    write_state(directory, state)
    return state


def _parse_state(document: Any) -> State:
    try:
        if document["format"] != FORMAT or set(document["logs"]) != set(LOG_NAMES):
            raise LogUnavailableError(f"{STATE_FILE} is of another version")
        logs = {
            name: LogState(str(one["origin"]), str(one["keyId"]), int(one["size"]), str(one["rootHash"]))
            for name, one in document["logs"].items()
        }
        return State(int(document["nextSequence"]), logs)
    except (KeyError, TypeError, ValueError):
        raise LogCorruptError(f"{STATE_FILE} is malformed") from None
