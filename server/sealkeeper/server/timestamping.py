"""The gateway's timestamp authority (RFC 3161): it states when a signature existed.

A response differs from the next one in a few fields of fixed length and in the length of its signature, so it is cut
from a template. ``cryptography`` and rfc3161-client can read timestamps, but not make them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sealkeeper.hsm import KeyProvider, ProviderKey
from sealkeeper.server.der import (
    ECDSA_SHA256,
    GENERALIZED_TIME,
    INTEGER,
    OCTET_STRING,
    SEQUENCE,
    SET,
    SHA256_ALGORITHM,
    UTC_TIME,
    oid,
    tlv,
)
from sealkeeper.server.x509_signing import P256, key_usage, public_key_of, sign_certificate

POLICY = oid("1.3.6.1.4.1.57264.2")
"""Sigstore's timestamping policy."""

_SIGNED_DATA = oid("1.2.840.113549.1.7.2")
_TST_INFO = oid("1.2.840.113549.1.9.16.1.4")
_CONTENT_TYPE = oid("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST = oid("1.2.840.113549.1.9.4")
_SIGNING_TIME = oid("1.2.840.113549.1.9.5")
_SIGNING_CERTIFICATE_V2 = oid("1.2.840.113549.1.9.16.2.47")
_ACCURACY = tlv(SEQUENCE, tlv(INTEGER, b"\x01"))
_SERIAL = 16


class TimestampAuthority:
    """Answers with timestamps of its leaf certificate's key.

    Args:
        provider: holds the key.
        key: P-256.
        chain: leaf first, then its issuers up to the root.
        clock: the time, UTC.
    """

    def __init__(
        self,
        provider: KeyProvider,
        key: ProviderKey,
        chain: Sequence[x509.Certificate],
        clock: Callable[[], datetime],
    ) -> None:
        self.chain = tuple(chain)
        self._provider = provider
        self._key = key
        self._clock = clock
        self._template = _Template(chain[0])
        self._pool: list[bytes] = []
        self._second: tuple[int, bytes, bytes] = (0, b"", b"")

    async def stamp(self, messages: Sequence[bytes]) -> list[bytes]:
        """Timestamp each message: a TimeStampResp, DER, with status granted and the leaf certificate.

        The time is in whole seconds, rounded down, with an accuracy of one second.

        Raises:
            ProviderError: the provider did not sign; there is no timestamp of any of them.
            ClockWentBackError: the clock cannot be relied upon.
        """
        general, utc = self._times()
        infos = [_tst_info(sha256(message).digest(), self._random(), general) for message in messages]
        attributes = [self._template.attributes(sha256(info).digest(), utc) for info in infos]
        # The signature is over the SET, not over the implicit tag that it has in the message (RFC 5652 section 5.4).
        digests = [sha256(tlv(SET, one)).digest() for one in attributes]
        signatures = await self._provider.sign(self._key.handle, P256, digests)
        return [
            self._template.response(info, attribute, signature)
            for info, attribute, signature in zip(infos, attributes, signatures, strict=True)
        ]

    def _random(self) -> bytes:
        # From the operating system in large pieces: asking costs more than the bytes.
        if not self._pool:
            data = secrets.token_bytes(256 * _SERIAL)
            self._pool = [data[at : at + _SERIAL] for at in range(0, len(data), _SERIAL)]
        return self._pool.pop()

    def _times(self) -> tuple[bytes, bytes]:
        now = self._clock()
        second = int(now.timestamp())
        if second != self._second[0]:
            text = now.strftime("%Y%m%d%H%M%SZ").encode()
            self._second = second, tlv(GENERALIZED_TIME, text), tlv(UTC_TIME, text[2:])
        return self._second[1:]


def _tst_info(digest: bytes, random: bytes, time: bytes) -> bytes:
    # The first bits make the serial number positive, and all of one length.
    serial = bytes((0x40 | random[0] & 0x3F,)) + random[1:]
    return tlv(
        SEQUENCE,
        b"\x02\x01\x01",
        POLICY,
        tlv(SEQUENCE, SHA256_ALGORITHM, tlv(OCTET_STRING, digest)),
        tlv(INTEGER, serial),
        time,
        _ACCURACY,
    )


class _Template:
    """A response with its variable parts left out."""

    def __init__(self, leaf: x509.Certificate) -> None:
        self._leaf = leaf.public_bytes(serialization.Encoding.DER)
        issuer = leaf.issuer.public_bytes()
        number = leaf.serial_number
        serial = tlv(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))
        self._signer = tlv(SEQUENCE, issuer, serial)
        # Attributes of a SET are in the order of their encodings, here of their lengths (X.690 section 11.6).
        self._content_type = tlv(SEQUENCE, _CONTENT_TYPE, tlv(SET, _TST_INFO))
        certificate = tlv(SEQUENCE, tlv(SEQUENCE, tlv(SEQUENCE, tlv(OCTET_STRING, leaf.fingerprint(hashes.SHA256())))))
        self._signing_certificate = tlv(SEQUENCE, _SIGNING_CERTIFICATE_V2, tlv(SET, certificate))
        self._parts: dict[tuple[int, int, int], tuple[bytes, bytes, bytes]] = {}

    def attributes(self, digest: bytes, time: bytes) -> bytes:
        """The content of the signed attributes."""
        return b"".join(
            (
                self._content_type,
                tlv(SEQUENCE, _SIGNING_TIME, tlv(SET, time)),
                tlv(SEQUENCE, _MESSAGE_DIGEST, tlv(SET, tlv(OCTET_STRING, digest))),
                self._signing_certificate,
            )
        )

    def response(self, info: bytes, attributes: bytes, signature: bytes) -> bytes:
        """The whole response."""
        lengths = len(info), len(attributes), len(signature)
        parts = self._parts.get(lengths)
        if parts is None:
            parts = self._parts[lengths] = self._cut(*lengths)
        return b"".join((parts[0], info, parts[1], attributes, parts[2], signature))

    def _cut(self, info: int, attributes: int, signature: int) -> tuple[bytes, bytes, bytes]:
        marks = [secrets.token_bytes(length) for length in (info, attributes, signature)]
        whole = self._encode(*marks)
        before, after_info = whole.split(marks[0])
        between, after_attributes = after_info.split(marks[1])
        return before, between, after_attributes.removesuffix(marks[2])

    def _encode(self, info: bytes, attributes: bytes, signature: bytes) -> bytes:
        signer_info = tlv(
            SEQUENCE,
            b"\x02\x01\x01",
            self._signer,
            SHA256_ALGORITHM,
            tlv(0xA0, attributes),
            ECDSA_SHA256,
            tlv(OCTET_STRING, signature),
        )
        signed_data = tlv(
            SEQUENCE,
            b"\x02\x01\x03",
            tlv(SET, SHA256_ALGORITHM),
            tlv(SEQUENCE, _TST_INFO, tlv(0xA0, tlv(OCTET_STRING, info))),
            tlv(0xA0, self._leaf),
            tlv(SET, signer_info),
        )
        status = tlv(SEQUENCE, tlv(INTEGER, b"\0"))
        return tlv(SEQUENCE, status, tlv(SEQUENCE, _SIGNED_DATA, tlv(0xA0, signed_data)))


async def create_timestamp_chain(
    provider: KeyProvider,
    root: ProviderKey,
    leaf: ProviderKey,
    organization: str,
    not_before: datetime,
    not_after: datetime,
) -> list[x509.Certificate]:
    """Make the authority's certificates: leaf, root.

    Args:
        provider: holds both keys.
        root: P-384.
        leaf: P-256.
        organization: names the gateway.
        not_before: start of both.
        not_after: end of both.

    Raises:
        ProviderError: the provider did not sign.
    """
    root_name, leaf_name = _name(organization, "timestamp root"), _name(organization, "timestamp authority")
    root_public, leaf_public = public_key_of(root), public_key_of(leaf)
    base = x509.CertificateBuilder().issuer_name(root_name).not_valid_before(not_before).not_valid_after(not_after)
    root_certificate = await sign_certificate(
        base.subject_name(root_name)
        .public_key(root_public)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(root_public), critical=False),
        provider,
        root,
    )
    leaf_certificate = await sign_certificate(
        base.subject_name(leaf_name)
        .public_key(leaf_public)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(leaf_public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_public), critical=False),
        provider,
        root,
    )
    return [leaf_certificate, root_certificate]


def _name(organization: str, common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
