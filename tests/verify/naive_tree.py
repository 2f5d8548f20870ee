"""RFC 6962 section 2.1 written down word by word: slow, and plain enough to be believed."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256


def _split(size: int) -> int:
    """Largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1


def root(entries: Sequence[bytes]) -> bytes:
    """MTH (section 2.1)."""
    if not entries:
        return sha256(b"").digest()
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0]).digest()
    k = _split(len(entries))
    return sha256(b"\x01" + root(entries[:k]) + root(entries[k:])).digest()


def inclusion_proof(index: int, entries: Sequence[bytes]) -> list[bytes]:
    """PATH (section 2.1.1)."""
    if len(entries) == 1:
        return []
    k = _split(len(entries))
    if index < k:
        return [*inclusion_proof(index, entries[:k]), root(entries[k:])]
    return [*inclusion_proof(index - k, entries[k:]), root(entries[:k])]


def consistency_proof(first: int, entries: Sequence[bytes]) -> list[bytes]:
    """PROOF (section 2.1.2)."""
    return [] if first in (0, len(entries)) else _subproof(first, entries, whole=True)


def _subproof(first: int, entries: Sequence[bytes], *, whole: bool) -> list[bytes]:
    if first == len(entries):
        return [] if whole else [root(entries)]
    k = _split(len(entries))
    if first <= k:
        return [*_subproof(first, entries[:k], whole=whole), root(entries[k:])]
    return [*_subproof(first - k, entries[k:], whole=False), root(entries[:k])]
