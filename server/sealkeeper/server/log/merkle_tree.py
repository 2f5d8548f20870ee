"""A growing RFC 6962 Merkle tree that keeps its right edge in memory and finds the rest in tiles.

Level 0 are the leaf hashes; a node at level ``l`` and index ``i`` covers the leaves from ``i << l`` to
``(i + 1) << l``. Only complete nodes are kept. The partial nodes of a tree size, its *edge*, are computed from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from sealkeeper.server.log.errors import IndexOutOfRangeError
from sealkeeper.server.log.tiles import HASH, TILE_WIDTH, TileStore, hashes_of, join_hashes, tile_path
from sealkeeper.verify.merkle import EMPTY_ROOT

_SHARED_LEVEL = 6
"""Inclusion proofs of leaves within one subtree of this height share all above it."""


class TileNeeded(Exception):  # noqa: N818  (not an error: the caller fetches the tile and asks again)
    """A node is in a full tile that is not in memory.

    Attributes:
        level: of the tile.
        number: of the tile.
    """

    def __init__(self, level: int, number: int) -> None:
        super().__init__(f"tile {level}/{number}")
        self.level = level
        self.number = number


class MerkleTree:
    """The tree. Used by one thread.

    Args:
        tiles: holds all full tiles below ``published``.
        size: how many leaves it has; with its partial tiles in ``tiles``.

    Raises:
        LogCorruptError: a tile is missing or malformed.
    """

    WINDOW = 8192
    """Nodes kept of each level beyond what is not in full tiles yet."""

    def __init__(self, tiles: TileStore, size: int = 0) -> None:
        self.size = size
        self._tiles = tiles
        # Complete nodes by level; _start[l] is the index of the first one kept.
        self._levels: list[list[bytes]] = [[]]
        self._start: list[int] = [0]
        # Nothing of a tile that is not full lies elsewhere than in its partial form; see append for what is needed.
        for level in range(0, size.bit_length(), 8):
            self._load(level, size >> level)

    def _load(self, level: int, count: int) -> None:
        number, width = divmod(count, TILE_WIDTH)
        nodes = hashes_of(self._tiles.read_tile(level // 8, number, width)) if width else []
        first = number * TILE_WIDTH
        for inner in range(level, level + 8):
            self._reach(inner)
            self._levels[inner], self._start[inner] = nodes, first
            nodes = [_node(nodes[i], nodes[i + 1]) for i in range(0, len(nodes) - 1, 2)]
            first //= 2

    def _reach(self, level: int) -> None:
        while len(self._levels) <= level:
            self._levels.append([])
            self._start.append(0)

    def extend(self, leaf_hashes: Sequence[bytes]) -> None:
        """Add leaves, each 32 bytes."""
        before, now, level = self.size, self.size + len(leaf_hashes), 0
        self.size = now
        self._levels[0] += leaf_hashes
        while before >> 1 < now >> 1:
            # The left sibling of an unpaired node is the newest before it, and in a tile that is not full: kept.
            nodes, start = self._levels[level], self._start[level]
            pairs = range((before & ~1) - start, (now & ~1) - start, 2)
            before, now, level = before >> 1, now >> 1, level + 1
            self._reach(level)
            self._levels[level] += [sha256(b"\x01" + nodes[at] + nodes[at + 1]).digest() for at in pairs]

    def rollback(self, size: int) -> None:
        """Forget leaves that were added since the tree had ``size``."""
        self.size = size
        for level, nodes in enumerate(self._levels):
            del nodes[max(0, (size >> level) - self._start[level]) :]

    def trim(self, published: int) -> None:
        """Let go of old nodes that are in full tiles of the published tree."""
        for level, nodes in enumerate(self._levels):
            tile_level, inner = divmod(level, 8)
            in_full_tiles = (published >> (8 * tile_level + 8) << 8) >> inner
            start = min(in_full_tiles, self._start[level] + len(nodes) - self.WINDOW)
            surplus = start - self._start[level]
            if surplus > self.WINDOW:
                del nodes[:surplus]
                self._start[level] = start

    def node(self, level: int, index: int) -> bytes:
        """A complete node.

        Raises:
            TileNeeded: it is in a tile that is not in memory.
        """
        place = index - self._start[level]
        if place >= 0:
            return self._levels[level][place]
        tile_level, inner = divmod(level, 8)
        number, first = divmod(index << inner, TILE_WIDTH)
        tile = self._tiles.cached_tile(tile_level, number)
        if tile is None:
            raise TileNeeded(tile_level, number)
        nodes = hashes_of(tile[HASH * first : HASH * (first + (1 << inner))])
        while len(nodes) > 1:
            nodes = [_node(nodes[i], nodes[i + 1]) for i in range(0, len(nodes), 2)]
        return nodes[0]

    def siblings(self, index: int, low: int, size: int, partial: Sequence[bytes | None]) -> list[bytes]:
        """What stands beside the nodes above a leaf in the tree of a size.

        Args:
            index: of the leaf.
            low: the level to begin at.
            size: of the tree.
            partial: by level up to which to go, the hash of the leaves behind the last complete node, if there are any.

        Raises:
            TileNeeded: see ``node``.
        """
        found, levels, starts = [], self._levels, self._start
        for level in range(low, len(partial)):
            sibling = index >> level ^ 1
            if sibling < size >> level:
                place = sibling - starts[level]
                found.append(levels[level][place] if place >= 0 else self.node(level, sibling))
            elif sibling == size >> level and (rest := partial[level]) is not None:
                found.append(rest)
        return found

    def root(self, size: int | None = None) -> bytes:
        """Root hash at a size; the current one where none is given.

        Raises:
            IndexOutOfRangeError: the tree is not that large.
            TileNeeded: see ``node``.
        """
        return Edge(self, self.size if size is None else size).root

    def consistency_proof(self, first: int, second: int) -> list[bytes]:
        """Prove that the tree of one size is a prefix of the other's (RFC 6962 section 2.1.2).

        Raises:
            IndexOutOfRangeError: the sizes are not 0 <= first <= second <= size.
            TileNeeded: see ``node``.
        """
        if not 0 <= first <= second <= self.size:
            raise IndexOutOfRangeError(f"there is no proof from {first} to {second} in a log of {self.size} entries")
        if first in (0, second):
            return []
        proof: list[bytes] = []
        low, high, whole = 0, second, True
        while first != high:
            middle = low + (1 << (high - low - 1).bit_length() - 1)
            if first <= middle:
                proof.append(self._subtree(middle, high))
                high = middle
            else:
                proof.append(self._subtree(low, middle))
                low, whole = middle, False
        if not whole:
            proof.append(self._subtree(low, high))
        return proof[::-1]

    def _subtree(self, low: int, high: int) -> bytes:
        length = high - low
        if length & (length - 1) == 0:
            level = length.bit_length() - 1
            return self.node(level, low >> level)
        middle = low + (1 << length.bit_length() - 1)
        return _node(self._subtree(low, middle), self._subtree(middle, high))

    def tiles_between(self, published: int, size: int) -> list[tuple[str, bytes]]:
        """Path and content of every hash tile of the tree of ``size`` that the published tree has not, or narrower."""
        found = []
        for level in range(0, size.bit_length(), 8):
            count, before = size >> level, published >> level
            if count == before:
                break
            nodes, start = self._levels[level], self._start[level]
            for number in range(before // TILE_WIDTH, (count - 1) // TILE_WIDTH + 1):
                first = number * TILE_WIDTH
                width = min(TILE_WIDTH, count - first)
                hashes = nodes[first - start : first - start + width]
                found.append((tile_path(level // 8, number, width), join_hashes(hashes)))
        return found


class Edge:
    """The tree at one size: its root, and inclusion proofs that share what they have in common.

    Raises:
        IndexOutOfRangeError: the tree is not that large.
        TileNeeded: see ``MerkleTree.node``.
    """

    def __init__(self, tree: MerkleTree, size: int) -> None:
        if not 0 <= size <= tree.size:
            raise IndexOutOfRangeError(f"there is no tree of size {size} in a log of {tree.size} entries")
        self.size = size
        self._tree = tree
        self._upper: dict[int, list[bytes]] = {}
        # _partial[l] covers the leaves from (size >> l) << l to size; None where those are none.
        self._partial: list[bytes | None] = [None]
        for level in range(size.bit_length()):
            below = self._partial[level]
            if size >> level & 1:
                left = tree.node(level, (size >> level) - 1)
                below = left if below is None else _node(left, below)
            self._partial.append(below)
        self.root: bytes = self._partial[-1] or EMPTY_ROOT

    def inclusion_proof(self, index: int) -> tuple[bytes, ...]:
        """The audit path of a leaf, from the leaf up (RFC 6962 section 2.1.1).

        Raises:
            IndexOutOfRangeError: there is no such leaf.
            TileNeeded: see ``MerkleTree.node``.
        """
        if not 0 <= index < self.size:
            raise IndexOutOfRangeError(f"there is no entry {index} in a tree of size {self.size}")
        upper = self._upper.get(index >> _SHARED_LEVEL)
        if upper is None:
            upper = self._tree.siblings(index, _SHARED_LEVEL, self.size, self._partial)
            self._upper[index >> _SHARED_LEVEL] = upper
        return (*self._tree.siblings(index, 0, self.size, self._partial[:_SHARED_LEVEL]), *upper)


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()
