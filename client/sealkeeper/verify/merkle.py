"""Merkle tree hashes and proofs (RFC 6962 section 2.1; proof checking as in RFC 9162 sections 2.1.3.2 and 2.1.4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from sealkeeper.verify.errors import ProofError

HASH_LENGTH = 32
MAX_SIZE = 2**63 - 1
"""Largest tree: indices travel as signed 64 bit integers."""

EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(0x00 || data), 32 bytes."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right), 32 bytes."""
    return sha256(b"\x01" + left + right).digest()


def root_from_inclusion_proof(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """Compute the root that an inclusion proof leads to.

    Args:
        leaf: the leaf hash, 32 bytes.
        index: of the leaf, from 0, below ``size``.
        size: of the tree.
        proof: the audit path from the leaf up, 32 bytes each.

    Raises:
        ProofError: a length or number is impossible for such a tree.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise ProofError(f"index {index} is not in a tree of size {size}")
    _check_hashes([leaf, *proof])
    inner = (index ^ (size - 1)).bit_length()
    border = (index >> inner).bit_count()
    if len(proof) != inner + border:
        raise ProofError(f"the proof has {len(proof)} hashes; entry {index} of {size} needs {inner + border}")
    result = leaf
    for level, sibling in enumerate(proof[:inner]):
        result = node_hash(sibling, result) if index >> level & 1 else node_hash(result, sibling)
    for sibling in proof[inner:]:
        result = node_hash(sibling, result)
    return result


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf is in the tree.

    Raises:
        ProofError: it is not, as far as this proof shows.
    """
    if root_from_inclusion_proof(leaf, index, size, proof) != root:
        raise ProofError("the inclusion proof does not lead to the root hash")


def verify_consistency(
    first_size: int, second_size: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes
) -> None:
    """Check that the tree of ``first_size`` is a prefix of the tree of ``second_size``.

    Raises:
        ProofError: it is not, as far as this proof shows.
    """
    if not 0 <= first_size <= second_size <= MAX_SIZE:
        raise ProofError(f"no tree of size {second_size} has a prefix of size {first_size}")
    _check_hashes([first_root, second_root, *proof])
    if first_size in (0, second_size):
        _verify_trivial(first_size, second_size, proof, first_root, second_root)
        return
    # Where the first tree is complete, its root is the proof's start and is left out of it.
    path = [first_root, *proof] if first_size & (first_size - 1) == 0 else list(proof)
    if not path:
        raise ProofError("the consistency proof is empty")
    old, new = _roots_from_consistency_proof(first_size, second_size, path)
    if old != first_root:
        raise ProofError("the consistency proof does not lead to the first root hash")
    if new != second_root:
        raise ProofError("the consistency proof does not lead to the second root hash")


def _roots_from_consistency_proof(first_size: int, second_size: int, path: Sequence[bytes]) -> tuple[bytes, bytes]:
    node, last = first_size - 1, second_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofError("the consistency proof is too long")
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise ProofError("the consistency proof is too short")
    return old, new


def _verify_trivial(first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes) -> None:
    if proof:
        raise ProofError("the consistency proof must be empty")
    if first == 0 and first_root != EMPTY_ROOT:
        raise ProofError("the root hash of an empty tree is not what was given")
    if first == second and first_root != second_root:
        raise ProofError("two root hashes for trees of one size")


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(one) != HASH_LENGTH for one in hashes):
        raise ProofError(f"a hash is not {HASH_LENGTH} bytes long")
