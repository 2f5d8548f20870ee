"""The gateway's timestamp authority (RFC 3161): it states when a signature existed.

A response differs from the next one in a few fields of fixed length and in the length of its signature, so it is cut
from a template. ``cryptography`` and rfc3161-client can read timestamps, but not make them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import sha256

import msgspec
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
_BEFORE_SERIAL = bytes((INTEGER, _SERIAL))


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
        self._serials: list[bytes] = []
        self._moment = _Moment(0, b"", b"", b"", b"", b"")

    async def stamp(self, messages: Sequence[bytes]) -> list[bytes]:
        """Timestamp each message: a TimeStampResp, DER, with status granted and the leaf certificate.

        The time is in whole seconds, rounded down, with an accuracy of one second.

        Raises:
            ProviderError: the provider did not sign; there is no timestamp of any of them.
            ClockWentBackError: the clock cannot be relied upon.
        """
        now = self._now()
        infos = [
            b"".join((now.before_imprint, sha256(one).digest(), _BEFORE_SERIAL, serial, now.after_serial))
            for one, serial in zip(messages, self._take_serials(len(messages)), strict=True)
        ]
        attributes = [b"".join((now.before_digest, sha256(one).digest(), now.after_digest)) for one in infos]
        # The signature is over the SET, not over the implicit tag that it has in the message (RFC 5652 section 5.4).
        digests = [sha256(now.set_header + one).digest() for one in attributes]
        signatures = await self._provider.sign(self._key.handle, P256, digests)
        return list(map(self._template.response, infos, attributes, signatures))

    def _take_serials(self, count: int) -> list[bytes]:
        # From the operating system in large pieces: asking costs more than the bytes.
        if len(self._serials) < count:
            data = secrets.token_bytes(max(count, 1024) * _SERIAL)
            # The first byte makes the number positive, and all of one length.
            self._serials += [b"\x40" + data[at + 1 : at + _SERIAL] for at in range(0, len(data), _SERIAL)]
        taken = self._serials[-count:]
        del self._serials[-count:]
        return taken

    def _now(self) -> _Moment:
        now = self._clock()
        second = int(now.timestamp())
        if second != self._moment.second:
            self._moment = self._template.at(second, now)
        return self._moment


class _Moment(msgspec.Struct, frozen=True):
    """What all timestamps of one second have in common; see RFC 3161 section 2.4.2 and RFC 5652 section 11.

    Attributes:
        second: since the epoch.
        before_imprint: TSTInfo up to the digest of what is stamped.
        after_serial: TSTInfo from the time on.
        before_digest: signed attributes up to the digest of the TSTInfo.
        after_digest: signed attributes behind it.
        set_header: tag and length of the attributes as a SET.
    """

    second: int
    before_imprint: bytes
    after_serial: bytes
    before_digest: bytes
    after_digest: bytes
    set_header: bytes


class _Template:
    """A response with its variable parts left out. All of them but the signature have a fixed length."""

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
        self._parts: dict[int, tuple[bytes, bytes, bytes]] = {}

    def at(self, second: int, time: datetime) -> _Moment:
        """The parts of one second."""
        text = time.strftime("%Y%m%d%H%M%SZ").encode()
        digest, serial = secrets.token_bytes(32), secrets.token_bytes(_SERIAL)
        info = tlv(
            SEQUENCE,
            b"\x02\x01\x01",
            POLICY,
            tlv(SEQUENCE, SHA256_ALGORITHM, tlv(OCTET_STRING, digest)),
            tlv(INTEGER, serial),
            tlv(GENERALIZED_TIME, text),
            _ACCURACY,
        )
        attributes = b"".join(
            (
                self._content_type,
                tlv(SEQUENCE, _SIGNING_TIME, tlv(SET, tlv(UTC_TIME, text[2:]))),
                tlv(SEQUENCE, _MESSAGE_DIGEST, tlv(SET, tlv(OCTET_STRING, digest))),
                self._signing_certificate,
            )
        )
        before_imprint, _ = info.split(digest)
        _, after_serial = info.split(serial)
        before_digest, after_digest = attributes.split(digest)
        set_header = tlv(SET, attributes).removesuffix(attributes)
        return _Moment(second, before_imprint, after_serial, before_digest, after_digest, set_header)

    def response(self, info: bytes, attributes: bytes, signature: bytes) -> bytes:
        """The whole response."""
        parts = self._parts.get(len(signature))
        if parts is None:
            parts = self._parts[len(signature)] = self._cut(len(info), len(attributes), len(signature))
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
