"""DSSE, protocol v1 (https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md)."""

from __future__ import annotations


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: what is signed.

    Args:
        payload_type: media type of the payload.
        payload: the payload.
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
