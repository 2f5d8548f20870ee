from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealkeeper.server.log.errors import IndexOutOfRangeError, LogCorruptError
from sealkeeper.server.log.merkle_tree import Edge, MerkleTree, TileNeeded
from sealkeeper.server.log.tiles import TileStore, decode_entry_bundle, encode_entry_bundle, tile_path
from sealkeeper.verify.merkle import EMPTY_ROOT, leaf_hash, verify_consistency, verify_inclusion

# The leaves and roots of the Certificate Transparency reference implementation
# (google/certificate-transparency, cpp/merkletree/merkle_tree_test.cc).
CT_LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def store(path: Path) -> TileStore:
    tiles = TileStore(path, private=False)
    tiles.create()
    return tiles


def test_roots_are_those_of_the_certificate_transparency_reference(tmp_path: Path) -> None:
    tree = MerkleTree(store(tmp_path))
    assert tree.root() == EMPTY_ROOT
    for leaf, root in zip(CT_LEAVES, CT_ROOTS, strict=True):
        tree.extend([leaf_hash(leaf)])
        assert tree.root().hex() == root


@given(st.lists(st.integers(0, 70), max_size=9))
def test_leaves_may_come_one_by_one_or_many_at_a_time(batches: list[int]) -> None:
    tree, slow = (MerkleTree(TileStore(Path("/nonexistent"), private=False)) for _ in range(2))
    for number, count in enumerate(batches):
        leaves = [leaf_hash(b"%d-%d" % (number, place)) for place in range(count)]
        tree.extend(leaves)
        for leaf in leaves:
            slow.extend([leaf])
        assert tree._levels[: tree.size.bit_length()] == slow._levels[: tree.size.bit_length()]
        assert (tree.size, tree.root()) == (slow.size, slow.root())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.data())
def test_any_growth_and_rollback_gives_proofs_that_verify(batches: list[int], data: st.DataObject) -> None:
    tree = MerkleTree(TileStore(Path("/nonexistent"), private=False))
    leaves: list[bytes] = []
    roots = [EMPTY_ROOT]
    for number, count in enumerate(batches):
        for place in range(count):
            leaves.append(leaf_hash(b"%d-%d" % (number, place)))
            tree.extend([leaves[-1]])
            roots.append(tree.root())
        if data.draw(st.booleans()):
            size = data.draw(st.integers(0, tree.size))
            tree.rollback(size)
            del leaves[size:], roots[size + 1 :]
        if not tree.size:
            continue
        size = data.draw(st.integers(1, tree.size))
        index = data.draw(st.integers(0, size - 1))
        edge = Edge(tree, size)
        assert edge.root == roots[size]
        verify_inclusion(leaves[index], index, size, edge.inclusion_proof(index), edge.root)
        first = data.draw(st.integers(0, size))
        verify_consistency(first, size, tree.consistency_proof(first, size), roots[first], roots[size])


def test_a_tree_reopened_from_tiles_goes_on_and_finds_old_nodes_in_them(tmp_path: Path) -> None:
    tiles, leaves = store(tmp_path), [leaf_hash(str(i).encode()) for i in range(70_000)]
    whole = MerkleTree(tiles)
    whole.extend(leaves)
    for path, content in whole.tiles_between(0, 66_000):
        tiles.write(path, content)
    tree = MerkleTree(tiles, 66_000)
    assert tree.root() == whole.root(66_000)
    tree.extend(leaves[66_000:])
    assert tree.root() == whole.root()
    with pytest.raises(TileNeeded) as needed:
        tree.node(0, 5)
    assert (needed.value.level, needed.value.number) == (0, 0)
    for index in (0, 255, 256, 40_000, 65_535, 65_536, 69_999):
        verify_inclusion(leaves[index], index, 70_000, with_tiles(tree, tiles, index), tree.root())


def with_tiles(tree: MerkleTree, tiles: TileStore, index: int) -> tuple[bytes, ...]:
    while True:
        try:
            return Edge(tree, tree.size).inclusion_proof(index)
        except TileNeeded as needed:
            tiles.read_tile(needed.level, needed.number)


def test_trimming_keeps_what_growth_needs_and_bounds_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MerkleTree, "WINDOW", 256)
    tiles = store(tmp_path)
    tree, whole = MerkleTree(tiles), MerkleTree(TileStore(tmp_path / "none", private=False))
    published = 0
    for number in range(20_000):
        tree.extend([leaf_hash(str(number).encode())])
        whole.extend([leaf_hash(str(number).encode())])
        if number % 997 == 0:
            for path, content in tree.tiles_between(published, tree.size):
                tiles.write(path, content)
            published = tree.size
            tree.trim(published)
    assert tree.root() == whole.root()
    assert max(len(level) for level in tree._levels) < 4_000


def test_sizes_and_indices_beyond_the_tree_are_refused(tmp_path: Path) -> None:
    tree = MerkleTree(store(tmp_path))
    tree.extend([leaf_hash(b"")])
    for call in (
        lambda: Edge(tree, 2),
        lambda: Edge(tree, -1),
        lambda: Edge(tree, 1).inclusion_proof(1),
        lambda: Edge(tree, 1).inclusion_proof(-1),
        lambda: tree.consistency_proof(1, 2),
        lambda: tree.consistency_proof(-1, 1),
    ):
        with pytest.raises(IndexOutOfRangeError):
            call()


# The path examples of C2SP tlog-tiles.
@pytest.mark.parametrize(
    ("level", "number", "width", "path"),
    [
        (0, 1234067, 256, "tile/0/x001/x234/067"),
        (0, 0, 256, "tile/0/000"),
        (1, 0, 8, "tile/1/000.p/8"),
        (0, 273, 112, "tile/0/273.p/112"),
        ("entries", 273, 112, "tile/entries/273.p/112"),
        (2, 1000, 256, "tile/2/x001/000"),
    ],
)
def test_tile_paths_are_those_of_the_specification(level: int | str, number: int, width: int, path: str) -> None:
    assert tile_path(level, number, width) == path


@given(st.lists(st.binary(max_size=300), max_size=256))
def test_entry_bundles_come_back_whole(entries: list[bytes]) -> None:
    assert decode_entry_bundle(encode_entry_bundle(entries), len(entries)) == entries


@given(st.binary(max_size=100), st.integers(1, 256))
def test_bytes_that_are_no_bundle_are_refused_or_hold_exactly_the_width(data: bytes, width: int) -> None:
    try:
        entries = decode_entry_bundle(data, width)
    except LogCorruptError:
        return
    assert encode_entry_bundle(entries) == data
    assert len(entries) == width
