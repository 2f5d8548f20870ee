"""Walk a whole log offline: recompute every hash from the entries up to the signed checkpoint (C2SP tlog-tiles).

Memory is bounded by a tile a level, whatever the size of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sealkeeper.verify.errors import LogCorruptError, NoteError, TrustRootError
from sealkeeper.verify.merkle import EMPTY_ROOT, leaf_hash, node_hash
from sealkeeper.verify.note import Checkpoint, NoteVerifier, parse_checkpoint, parse_signed_note
from sealkeeper.verify.trust import CertificateTransparencyLog, TrustRoot

TILE = 256
MAX_ENTRY = 65_535
MAX_FILE = TILE * (2 + MAX_ENTRY)
"""Most bytes of a file of a log: of a full bundle of the longest entries. More need not be read to be refused."""

_HASH = 32


class TileSource(Protocol):
    """Where a log is read from."""

    def read(self, path: str) -> bytes | None:
        """The file at a C2SP path such as ``tile/0/x001/067``; ``None`` where there is none.

        Of a file that is longer than ``MAX_FILE``, at least its first ``MAX_FILE + 1`` bytes, so that this shows.

        Raises:
            OSError: it cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """A log in a folder."""

    directory: Path

    def read(self, path: str) -> bytes | None:
        """The file, at most ``MAX_FILE + 1`` bytes of it; ``None`` where there is none."""
        try:
            with (self.directory / path).open("rb") as file:
                return file.read(MAX_FILE + 1)
        except FileNotFoundError:
            return None


@dataclass(frozen=True, slots=True)
class LogReport:
    """What a walk has shown: these many entries lead to this checkpoint."""

    checkpoint: Checkpoint
    hashes: int


def tile_path(kind: str, index: int, width: int = TILE) -> str:
    """Path of a tile: ``tile/<kind>/x001/x234/067``, with ``.p/<width>`` where it is partial."""
    text = f"{index % 1000:03}"
    while index := index // 1000:
        text = f"x{index % 1000:03}/{text}"
    return f"tile/{kind}/{text}" + (f".p/{width}" if width < TILE else "")


def read_checkpoint(source: TileSource, verifier: NoteVerifier) -> Checkpoint:
    """The log's signed checkpoint.

    Raises:
        LogCorruptError: there is none, or it is not signed by the key.
        OSError: it cannot be read.
    """
    data = source.read("checkpoint")
    if data is None:
        raise LogCorruptError("there is no checkpoint: this is not a log")
    try:
        note = parse_signed_note(data)
        verifier.verify(note)
        checkpoint = parse_checkpoint(note.text)
    except NoteError as error:
        raise LogCorruptError(f"checkpoint: {error}") from None
    if checkpoint.origin != verifier.name:
        raise LogCorruptError(f"checkpoint: it is of {checkpoint.origin!r}, not of {verifier.name!r}")
    return checkpoint


def trusted_verifier(source: TileSource, trust: TrustRoot) -> NoteVerifier:
    """Find the key of a log, transparency or certificate transparency, by the origin that its checkpoint names.

    Raises:
        TrustRootError: the trust root does not know the log, or has a key of it that signs no checkpoints.
        LogCorruptError: there is no checkpoint.
        OSError: it cannot be read.
    """
    data = source.read("checkpoint")
    if data is None:
        raise LogCorruptError("there is no checkpoint: this is not a log")
    origin = data[:1024].split(b"\n")[0].decode("utf-8", "replace")
    for log in trust.logs.values():
        if log.origin == origin:
            return log.verifier
    for ct_log in trust.ct_logs.values():
        if ct_log.origin == origin:
            return _verifier(ct_log)
    raise TrustRootError(f"the trust root does not know the log {origin!r}")


def _verifier(log: CertificateTransparencyLog) -> NoteVerifier:
    try:
        return NoteVerifier(log.origin, log.spki)
    except NoteError as error:
        raise TrustRootError(f"the key of {log.origin} signs certificate timestamps, no checkpoints: {error}") from None


def verify_log(
    source: TileSource,
    verifier: NoteVerifier,
    *,
    earlier: Checkpoint | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LogReport:
    """Verify a whole log.

    Args:
        source: where it is.
        verifier: key of its checkpoints.
        earlier: a checkpoint seen before, which this log must still contain.
        progress: told the number of entries done, and of all.

    Raises:
        LogCorruptError: naming the first bad entry as far as it can be told.
        OSError: the source cannot be read.
    """
    checkpoint = read_checkpoint(source, verifier)
    if earlier is not None and (earlier.origin != checkpoint.origin or earlier.size > checkpoint.size):
        raise LogCorruptError(f"the log has shrunk or is another: it was {earlier.origin} of {earlier.size} entries")
    walk = _Walk(source, checkpoint.size)
    _require_contained(earlier, walk)
    for number, width in _tiles(checkpoint.size):
        for leaf in _leaves(source, number, width):
            walk.append(leaf)
            _require_contained(earlier, walk)
        if progress is not None:
            progress(walk.size, checkpoint.size)
    walk.finish()
    if walk.root() != checkpoint.root_hash:
        raise LogCorruptError("entries and tiles agree with each other, but not with the signed checkpoint")
    return LogReport(checkpoint, walk.compared)


def _require_contained(earlier: Checkpoint | None, walk: _Walk) -> None:
    if earlier is not None and walk.size == earlier.size and walk.root() != earlier.root_hash:
        raise LogCorruptError(f"the first {earlier.size} entries are not those of the earlier checkpoint")


def _tiles(size: int) -> Iterator[tuple[int, int]]:
    for number in range(size // TILE):
        yield number, TILE
    if size % TILE:
        yield size // TILE, size % TILE


@dataclass(frozen=True, slots=True)
class _Tile:
    """A tile as it is stored; ``width`` is that of the file, which may be the full tile where a partial one was wanted.

    ``first`` is the index of its first entry.
    """

    path: str
    data: bytes
    width: int
    first: int


def _read_tile(source: TileSource, kind: str, number: int, width: int, first: int) -> _Tile:
    # A log that has grown meanwhile may have the full tile only.
    for stored in dict.fromkeys((width, TILE)):
        path = tile_path(kind, number, stored)
        data = source.read(path)
        if data is not None:
            return _Tile(path, data, stored, first)
    raise LogCorruptError(f"{tile_path(kind, number, width)} is missing", first)


def _read_hashes(source: TileSource, level: str, number: int, width: int, first: int) -> bytes:
    tile = _read_tile(source, level, number, width, first)
    if len(tile.data) != tile.width * _HASH:
        raise LogCorruptError(f"{tile.path} is {len(tile.data)} bytes long, not {tile.width * _HASH}", first)
    return tile.data


def _leaves(source: TileSource, number: int, width: int) -> Iterator[bytes]:
    first = number * TILE
    bundle = _read_tile(source, "entries", number, width, first)
    stored = _read_hashes(source, "0", number, width, first)
    for place, body in enumerate(_entries(bundle)):
        # Where the full bundle stands in, what is behind the checkpoint is not what it speaks of.
        if place >= width:
            continue
        leaf = leaf_hash(body)
        if stored[place * _HASH : (place + 1) * _HASH] != leaf:
            raise LogCorruptError(f"entry {first + place} is not the one that was hashed", first + place)
        yield leaf


def _entries(bundle: _Tile) -> Iterator[bytes]:
    data, place = bundle.data, 0
    for index in range(bundle.first, bundle.first + bundle.width):
        length = int.from_bytes(data[place : place + 2], "big")
        end = place + 2 + length
        if place + 2 > len(data) or end > len(data):
            raise LogCorruptError(f"entry {index} is cut off", index)
        yield data[place + 2 : end]
        place = end
    if place != len(data):
        raise LogCorruptError(f"{bundle.path} is longer than its {bundle.width} entries", bundle.first)


class _Walk:
    """The tree so far: for each level the hashes of the tile that is being filled."""

    def __init__(self, source: TileSource, size: int) -> None:
        self._source = source
        self._target = size
        self._levels: list[list[bytes]] = [[]]
        self.size = 0
        self.compared = 0

    def append(self, leaf: bytes) -> None:
        """Add a leaf; full tiles are compared with the stored ones (level 0 has been by now)."""
        self.size += 1
        self.compared += 1
        level, value = 0, leaf
        while True:
            if level == len(self._levels):
                self._levels.append([])
            hashes = self._levels[level]
            hashes.append(value)
            if len(hashes) < TILE:
                return
            self._compare(level, hashes)
            value = _root(hashes)
            hashes.clear()
            level += 1

    def finish(self) -> None:
        """Compare the tiles that are not full."""
        for level, hashes in enumerate(self._levels):
            if hashes:
                self._compare(level, hashes)

    def root(self) -> bytes:
        """Root hash of the tree so far (RFC 6962 section 2.1)."""
        below: list[bytes] = []
        for hashes in self._levels:
            nodes = hashes + below
            below = [_root(nodes)] if nodes else []
        return below[0] if below else EMPTY_ROOT

    def _compare(self, level: int, hashes: Sequence[bytes]) -> None:
        if level == 0:
            return
        span = TILE**level
        number = (self.size // span - 1) // TILE
        first = number * TILE * span
        stored = _read_hashes(self._source, str(level), number, len(hashes), first)
        for place, value in enumerate(hashes):
            self.compared += 1
            if stored[place * _HASH : (place + 1) * _HASH] != value:
                start = first + place * span
                raise LogCorruptError(f"{tile_path(str(level), number)} is wrong for entries from {start} on", start)


def _root(nodes: Sequence[bytes]) -> bytes:
    row = list(nodes)
    while len(row) > 1:
        paired = [node_hash(row[at], row[at + 1]) for at in range(0, len(row) - 1, 2)]
        # The last one without a partner moves up as it is.
        row = paired + row[len(paired) * 2 :]
    return row[0]
