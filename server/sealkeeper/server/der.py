"""Distinguished Encoding Rules (X.690), the little of it that the hot path and spliced signatures need."""

from __future__ import annotations

SEQUENCE, SET, INTEGER, OCTET_STRING, BIT_STRING, OBJECT_IDENTIFIER = 0x30, 0x31, 0x02, 0x04, 0x03, 0x06
UTC_TIME, GENERALIZED_TIME = 0x17, 0x18


def tlv(tag: int, *content: bytes) -> bytes:
    """Tag, length, content; the length in the shortest form (X.690 section 10.1)."""
    body = b"".join(content)
    length = len(body)
    if length < 0x80:
        return bytes((tag, length)) + body
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + body


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER (X.690 section 8.19)."""
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray()
    for arc in (40 * first + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        content += bytes(reversed(groups))
    return tlv(OBJECT_IDENTIFIER, bytes(content))


SHA256_ALGORITHM = tlv(SEQUENCE, oid("2.16.840.1.101.3.4.2.1"))
ECDSA_SHA256 = tlv(SEQUENCE, oid("1.2.840.10045.4.3.2"))
ECDSA_SHA384 = tlv(SEQUENCE, oid("1.2.840.10045.4.3.3"))
