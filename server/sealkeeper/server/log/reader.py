"""Reads a log that is being written: its checkpoint, proofs and entries, up to the newest checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeVar

from sealkeeper.server.log.errors import IndexOutOfRangeError
from sealkeeper.server.log.merkle_tree import Edge, TileNeeded
from sealkeeper.server.log.publisher import LogTree
from sealkeeper.server.log.tiles import TILE_WIDTH

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """A proof that an entry is in a tree (RFC 6962 section 2.1.1); hashes are 32 bytes each."""

    index: int
    tree_size: int
    root_hash: bytes
    leaf_hash: bytes
    hashes: tuple[bytes, ...]


class LogReader:
    """One log. Used on the event loop, which it never blocks."""

    def __init__(self, log: LogTree) -> None:
        self._log = log

    @property
    def checkpoint(self) -> str:
        """The newest checkpoint, a signed note."""
        return self._log.checkpoint

    @property
    def tree_size(self) -> int:
        """Number of entries that the newest checkpoint covers."""
        return self._log.size

    @property
    def root_hash(self) -> bytes:
        """Root hash of the newest checkpoint, 32 bytes."""
        return self._log.root_hash

    async def inclusion_proof(self, index: int, size: int) -> InclusionProof:
        """Prove that an entry is in the tree of a size.

        Raises:
            IndexOutOfRangeError: not 0 <= index < size <= tree_size.
            LogCorruptError: a tile is missing.
        """
        self._require(size)

        def prove() -> InclusionProof:
            edge = Edge(self._log.tree, size)
            hashes = edge.inclusion_proof(index)
            return InclusionProof(index, size, edge.root, self._log.tree.node(0, index), hashes)

        return await self._with_tiles(prove)

    async def consistency_proof(self, first: int, second: int) -> list[bytes]:
        """Prove that the tree of one size is a prefix of the other's (RFC 6962 section 2.1.2).

        Raises:
            IndexOutOfRangeError: not 0 <= first <= second <= tree_size.
            LogCorruptError: a tile is missing.
        """
        self._require(second)
        return await self._with_tiles(lambda: self._log.tree.consistency_proof(first, second))

    async def entries(self, start: int, limit: int | None = None) -> AsyncIterator[tuple[int, list[bytes]]]:
        """Yield entries in order, at most 256 at once, each time with the index of the first one.

        Raises:
            IndexOutOfRangeError: ``start`` is beyond the newest checkpoint.
            LogCorruptError: an entry bundle is missing or malformed.
        """
        end = self._log.size
        if not 0 <= start <= end:
            raise IndexOutOfRangeError(f"there is no entry {start} in a log of {end} entries")
        if limit is not None:
            end = min(end, start + limit)
        while start < end:
            stop = min(end, (start // TILE_WIDTH + 1) * TILE_WIDTH)
            bodies = await self._bodies(start, stop)
            yield start, bodies
            start = stop

    async def _bodies(self, start: int, stop: int) -> list[bytes]:
        log = self._log
        if start >= log.bodies_start:
            return log.bodies[start - log.bodies_start : stop - log.bodies_start]
        number, first = divmod(start, TILE_WIDTH)
        bundle = await asyncio.to_thread(log.tiles.read_entries, number)
        return bundle[first : first + stop - start]

    async def newest_inclusion_proof(self, index: int) -> tuple[InclusionProof, str]:
        """Prove that an entry is in the newest tree; the proof and that tree's checkpoint.

        Raises:
            IndexOutOfRangeError: there is no such entry.
            LogCorruptError: a tile is missing.
        """
        proof = await self.inclusion_proof(index, self.tree_size)
        # Taken in one go: the checkpoint is that of the proof's tree, or it is asked again.
        while proof.tree_size != self.tree_size:
            proof = await self.inclusion_proof(index, self.tree_size)
        return proof, self.checkpoint

    async def proven_entry(self, index: int) -> tuple[bytes, InclusionProof, str]:
        """An entry, the proof that it is in the newest tree, and that tree's checkpoint.

        Raises:
            IndexOutOfRangeError: there is no such entry.
            LogCorruptError: a tile is missing.
        """
        async for _, bodies in self.entries(index, 1):
            return bodies[0], *await self.newest_inclusion_proof(index)
        raise IndexOutOfRangeError(f"there is no entry {index} in a log of {self.tree_size} entries")

    def _require(self, size: int) -> None:
        if not 0 <= size <= self._log.size:
            raise IndexOutOfRangeError(f"there is no tree of size {size} in a log of {self._log.size} entries")

    async def _with_tiles(self, compute: Callable[[], _T]) -> _T:
        while True:
            try:
                return compute()
            except TileNeeded as needed:
                await asyncio.to_thread(self._log.tiles.read_tile, needed.level, needed.number)
