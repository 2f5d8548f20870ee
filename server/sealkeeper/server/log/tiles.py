"""C2SP tlog-tiles on a directory: hash tiles, entry bundles, the checkpoint (https://c2sp.org/tlog-tiles).

A hash tile holds up to 256 hashes of tree level ``8 * level``, 32 bytes each; an entry bundle up to 256 entries, each
after its length in two bytes. A tile that is not full yet is partial, and its width stands in its path.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

from sealkeeper.server.log.errors import EntryTooLargeError, LogCorruptError

TILE_WIDTH = 256
MAX_ENTRY = 65_535
HASH = 32
_LENGTH = struct.Struct(">H")


def tile_number(number: int) -> str:
    """A tile's number in a path: groups of three digits, all but the last after an ``x``: ``x001/x234/067``."""
    text = f"{number % 1000:03}"
    while number >= 1000:
        number //= 1000
        text = f"x{number % 1000:03}/{text}"
    return text


def tile_path(level: int | str, number: int, width: int = TILE_WIDTH) -> str:
    """Path of a tile below the log's prefix.

    Args:
        level: 0 to 63, or ``entries``.
        number: of the tile within its level.
        width: how many hashes or entries it holds, 1 to 256.
    """
    path = f"tile/{level}/{tile_number(number)}"
    return path if width == TILE_WIDTH else f"{path}.p/{width}"


def encode_entry_bundle(entries: Iterable[bytes]) -> bytes:
    """Join entries, each after its length.

    Raises:
        EntryTooLargeError: one is longer than 65,535 bytes.
    """
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > MAX_ENTRY:
            raise EntryTooLargeError(f"a log entry has {len(entry)} bytes; at most {MAX_ENTRY} are possible")
        parts += (_LENGTH.pack(len(entry)), entry)
    return b"".join(parts)


def decode_entry_bundle(data: bytes, width: int) -> list[bytes]:
    """Take an entry bundle apart.

    Raises:
        LogCorruptError: it does not hold exactly ``width`` entries.
    """
    entries: list[bytes] = []
    place = 0
    while place + 2 <= len(data) and len(entries) < width:
        end = place + 2 + _LENGTH.unpack_from(data, place)[0]
        entries.append(data[place + 2 : end])
        place = end
    if place != len(data) or len(entries) != width:
        raise LogCorruptError(f"an entry bundle does not hold the {width} entries that it should")
    return entries


class TileStore:
    """One log's folder. Methods block; readers may be in any thread, there is one writer.

    Args:
        directory: of the log.
        private: whether only the gateway's user may read it.
    """

    _CACHED_TILES = 1024

    def __init__(self, directory: Path, *, private: bool) -> None:
        self.directory = directory
        self._directory_mode = 0o700 if private else 0o755
        self._file_mode = 0o600 if private else 0o644
        # Full hash tiles never change. Used on the event loop and in threads; each use is one atomic dict operation.
        self._cache: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def create(self) -> None:
        """Make the folder."""
        self.directory.mkdir(mode=self._directory_mode, parents=True, exist_ok=True)

    def write(self, path: str, data: bytes) -> None:
        """Write a file so that a reader sees all of it or nothing. Durable only after a later ``syncfs``."""
        target = self.directory / path
        temporary = target.with_name(f".{target.name}.new")
        try:
            descriptor = self._open(temporary)
        except FileNotFoundError:
            target.parent.mkdir(mode=self._directory_mode, parents=True, exist_ok=True)
            descriptor = self._open(temporary)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            temporary.replace(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _open(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, self._file_mode)

    def remove_partial_tiles(self, level: int | str, numbers: Iterable[int]) -> None:
        """Remove the partial forms of tiles that are full by now."""
        for number in numbers:
            folder = self.directory / f"{tile_path(level, number)}.p"
            try:
                for path in folder.iterdir():
                    path.unlink()
                folder.rmdir()
            except FileNotFoundError:
                continue

    def cached_tile(self, level: int, number: int) -> bytes | None:
        """A full hash tile that was read before."""
        return self._cache.get((level, number))

    def read_tile(self, level: int, number: int, width: int = TILE_WIDTH) -> bytes:
        """Read a hash tile.

        Raises:
            LogCorruptError: it is missing or has another length.
        """
        data = self._read(tile_path(level, number, width))
        if len(data) != HASH * width:
            raise LogCorruptError(f"{self.directory.name}: {tile_path(level, number, width)} has the wrong length")
        if width == TILE_WIDTH:
            self._cache[level, number] = data
            if len(self._cache) > self._CACHED_TILES:
                self._cache.popitem(last=False)
        return data

    def read_entries(self, number: int, width: int = TILE_WIDTH) -> list[bytes]:
        """Read an entry bundle.

        Raises:
            LogCorruptError: it is missing or holds another number of entries.
        """
        return decode_entry_bundle(self._read(tile_path("entries", number, width)), width)

    def read_checkpoint(self) -> str | None:
        """The published checkpoint; ``None`` where there is none yet."""
        try:
            return (self.directory / "checkpoint").read_text("utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            return None

    def _read(self, path: str) -> bytes:
        try:
            return (self.directory / path).read_bytes()
        except FileNotFoundError:
            raise LogCorruptError(f"{self.directory.name}: {path} is missing") from None


def hashes_of(tile: bytes) -> list[bytes]:
    """The hashes in a tile."""
    return [tile[place : place + HASH] for place in range(0, len(tile), HASH)]


def join_hashes(hashes: Sequence[bytes]) -> bytes:
    """A tile of hashes."""
    return b"".join(hashes)
