"""Merkle proofs: published vectors, and agreement with RFC 6962 taken literally."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.verify import merkle
from sealkeeper.verify.errors import ProofError
from tests.verify import naive_tree

# google/certificate-transparency, merkle_tree_test.cc: the reference leaves and the roots of trees of 1 to 8 of them.
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
# The same file's path and proof vectors: (leaf from 1, tree size, path) and (first, second, proof).
PATHS: list[tuple[int, int, list[str]]] = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (3, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        2,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
CONSISTENCY: list[tuple[int, int, list[str]]] = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]


def _hashes(texts: list[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


def test_naive_tree_gives_the_published_roots() -> None:
    assert [naive_tree.root(LEAVES[:size]).hex() for size in range(1, 9)] == ROOTS


@pytest.mark.parametrize(("leaf", "size", "path"), PATHS)
def test_published_inclusion_proofs_verify(leaf: int, size: int, path: list[str]) -> None:
    root = bytes.fromhex(ROOTS[size - 1])
    merkle.verify_inclusion(merkle.leaf_hash(LEAVES[leaf - 1]), leaf - 1, size, _hashes(path), root)


@pytest.mark.parametrize(("first", "second", "proof"), CONSISTENCY)
def test_published_consistency_proofs_verify(first: int, second: int, proof: list[str]) -> None:
    roots = _hashes(ROOTS)
    merkle.verify_consistency(first, second, _hashes(proof), roots[first - 1], roots[second - 1])


@st.composite
def _tree_and_index(draw: st.DrawFn) -> tuple[list[bytes], int]:
    entries = draw(st.lists(st.binary(max_size=4), min_size=1, max_size=70))
    return entries, draw(st.integers(0, len(entries) - 1))


@given(_tree_and_index())
def test_every_inclusion_proof_verifies_and_no_altered_one_does(case: tuple[list[bytes], int]) -> None:
    entries, index = case
    leaf, root = merkle.leaf_hash(entries[index]), naive_tree.root(entries)
    proof = naive_tree.inclusion_proof(index, entries)
    merkle.verify_inclusion(leaf, index, len(entries), proof, root)
    altered = [[*proof, root], *([proof[:-1]] if proof else [])]
    altered += [[*proof[:at], bytes(32), *proof[at + 1 :]] for at in range(len(proof))]
    for wrong in altered:
        with pytest.raises(ProofError):
            merkle.verify_inclusion(leaf, index, len(entries), wrong, root)
    with pytest.raises(ProofError):
        merkle.verify_inclusion(merkle.leaf_hash(b"other entry"), index, len(entries), proof, root)


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=70), st.data())
def test_every_consistency_proof_verifies_and_no_altered_one_does(entries: list[bytes], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(entries)))
    second = len(entries)
    old, new = naive_tree.root(entries[:first]), naive_tree.root(entries)
    proof = naive_tree.consistency_proof(first, entries)
    merkle.verify_consistency(first, second, proof, old, new)
    altered = [[*proof, new], *([proof[:-1]] if proof else [])]
    altered += [[*proof[:at], bytes(32), *proof[at + 1 :]] for at in range(len(proof))]
    for wrong in altered:
        with pytest.raises(ProofError):
            merkle.verify_consistency(first, second, wrong, old, new)
    if first:
        with pytest.raises(ProofError):
            merkle.verify_consistency(first, second, proof, bytes(32), new)
        with pytest.raises(ProofError):
            merkle.verify_consistency(first, second, proof, old, bytes(32))


@pytest.mark.parametrize(("index", "size"), [(-1, 1), (0, 0), (1, 1), (5, 4), (0, 2**63)])
def test_impossible_positions_are_refused(index: int, size: int) -> None:
    with pytest.raises(ProofError):
        merkle.root_from_inclusion_proof(bytes(32), index, size, [])


@pytest.mark.parametrize("length", [0, 31, 33])
def test_hashes_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(ProofError):
        merkle.root_from_inclusion_proof(bytes(32), 0, 2, [bytes(length)])
