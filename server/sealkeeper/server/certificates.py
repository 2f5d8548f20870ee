"""The gateway's certificate authority: short-lived certificates that name tenant and key, for stock verifiers.

A certificate holds one signed certificate timestamp (RFC 6962 section 3.2). That is a promise to log it; here the
precertificate is in the ``ct`` log before the certificate is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sealkeeper.hsm import KeyProvider, ProviderKey
from sealkeeper.server.der import tlv
from sealkeeper.server.x509_signing import P256, P384, key_usage, public_key_of, sign_certificate, to_be_signed

_ISSUER_V1 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_UTF8_STRING = 0x0C
_OCTET_STRING = 0x04


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate for a signing key.

    Attributes:
        der: the certificate.
        not_before: start of its validity.
        not_after: end of its validity.
        precertificate_entry: MerkleTreeLeaf for the ``ct`` log (RFC 6962 section 3.4).
    """

    der: bytes
    not_before: datetime
    not_after: datetime
    precertificate_entry: bytes


class CertificateAuthority:
    """Issues certificates.

    Args:
        provider: holds both keys.
        key: the intermediate's, P-384.
        chain: intermediate, root.
        ct_key: signs certificate timestamps, P-256.
        domain: the gateway's; ``https://{domain}`` is the issuer extension and the start of identities.
        lifetime: of a certificate.
        clock: the time, UTC.
    """

    def __init__(
        self,
        provider: KeyProvider,
        key: ProviderKey,
        chain: Sequence[x509.Certificate],
        ct_key: ProviderKey,
        domain: str,
        lifetime: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self.chain = tuple(chain)
        self.clock = clock
        self._provider = provider
        self._key = key
        self._ct_key = ct_key
        self._issuer = f"https://{domain}"
        self._lifetime = lifetime
        self._issuer_key_hash = sha256(key.public_key).digest()
        self._ct_log_id = sha256(ct_key.public_key).digest()

    def identity_of(self, key_name: str) -> str:
        """The URI subject alternative name of a key: ``https://{domain}/tenants/{tenant}/keys/{key}``."""
        return f"{self._issuer}/{key_name}"

    async def issue(self, key_name: str, public_key: bytes) -> IssuedCertificate:
        """Certify a key.

        Args:
            key_name: ``tenants/{tenant}/keys/{key}``.
            public_key: SubjectPublicKeyInfo, DER.

        Raises:
            ProviderError: the provider did not sign.
            ClockWentBackError: the clock cannot be relied upon.
        """
        now = self.clock()
        start = now.replace(microsecond=0)
        end = start + self._lifetime
        builder = self._builder(key_name, public_key).not_valid_before(start).not_valid_after(end)
        entry = self._precertificate_entry(to_be_signed(builder, self._key), int(now.timestamp() * 1000))
        [signature] = await self._provider.sign(self._ct_key.handle, P256, [sha256(entry).digest()])
        final = builder.add_extension(
            x509.UnrecognizedExtension(_SCT_LIST, self._timestamp_list(entry, signature)), critical=False
        )
        certificate = await sign_certificate(final, self._provider, self._key)
        return IssuedCertificate(certificate.public_bytes(serialization.Encoding.DER), start, end, entry)

    def _builder(self, key_name: str, public_key: bytes) -> x509.CertificateBuilder:
        # A signing key of any kind: the provider made it.
        subject_key: Any = serialization.load_der_public_key(public_key)
        issuer_key = public_key_of(self._key)
        issuer = self._issuer.encode()
        identity = x509.UniformResourceIdentifier(self.identity_of(key_name))
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.chain[0].subject)
            .serial_number(x509.random_serial_number())
            .public_key(subject_key)
            .add_extension(key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(subject_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
            .add_extension(x509.SubjectAlternativeName([identity]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_V1, issuer), critical=False)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_V2, tlv(_UTF8_STRING, issuer)), critical=False)
        )

    def _precertificate_entry(self, tbs: bytes, milliseconds: int) -> bytes:
        # What the timestamp signs (RFC 6962 section 3.2) and what is logged (section 3.4) are the same bytes.
        return b"".join(
            (
                b"\0\0",
                milliseconds.to_bytes(8, "big"),
                b"\0\1",
                self._issuer_key_hash,
                len(tbs).to_bytes(3, "big"),
                tbs,
                b"\0\0",
            )
        )

    def _timestamp_list(self, entry: bytes, signature: bytes) -> bytes:
        # Hash 4 is SHA-256, signature 3 is ECDSA (RFC 5246 section 7.4.1.4.1).
        signed = b"\4\3" + len(signature).to_bytes(2, "big") + signature
        timestamp = b"\0" + self._ct_log_id + entry[2:10] + b"\0\0" + signed
        one = len(timestamp).to_bytes(2, "big") + timestamp
        return tlv(_OCTET_STRING, len(one).to_bytes(2, "big") + one)


class KeyCertificates:
    """The current certificate of each key version; a new one when less than half of its life is left.

    Args:
        authority: issues them.
        record: puts a precertificate into the ``ct`` log; done before the certificate is used.
    """

    _LIMIT = 10_000

    def __init__(self, authority: CertificateAuthority, record: Callable[[bytes], Awaitable[None]]) -> None:
        self.authority = authority
        self._record = record
        self._current: dict[tuple[str, bytes], IssuedCertificate] = {}
        self._issuing: dict[tuple[str, bytes], asyncio.Task[IssuedCertificate]] = {}

    async def get(self, key_name: str, public_key: bytes) -> IssuedCertificate:
        """A certificate that is valid now. Concurrent callers share one issuance.

        Raises:
            ProviderError: the provider did not sign.
            LogError: the precertificate could not be logged.
            ClockWentBackError: the clock cannot be relied upon.
        """
        wanted = key_name, public_key
        current = self._current.get(wanted)
        if current is not None:
            now = self.authority.clock()
            if current.not_before <= now < current.not_after - (current.not_after - current.not_before) / 2:
                return current
        task = self._issuing.get(wanted)
        if task is None:
            task = self._issuing[wanted] = asyncio.create_task(self._issue(wanted))
        return await asyncio.shield(task)

    async def _issue(self, wanted: tuple[str, bytes]) -> IssuedCertificate:
        try:
            issued = await self.authority.issue(*wanted)
            await self._record(issued.precertificate_entry)
            if len(self._current) >= self._LIMIT:
                self._current.clear()
            self._current[wanted] = issued
            return issued
        finally:
            del self._issuing[wanted]


async def create_certificate_chain(
    provider: KeyProvider,
    root: ProviderKey,
    intermediate: ProviderKey,
    organization: str,
    not_before: datetime,
    not_after: datetime,
) -> list[x509.Certificate]:
    """Make the authority's certificates: intermediate, root.

    Args:
        provider: holds both keys, P-384.
        root: signs the intermediate and nothing else.
        intermediate: signs leaf certificates.
        organization: names the gateway.
        not_before: start of both.
        not_after: end of both.

    Raises:
        ProviderError: the provider did not sign.
    """
    if root.algorithm is not P384 or intermediate.algorithm is not P384:
        raise TypeError("the keys of the certificate authority are P-384")
    root_name, intermediate_name = _name(organization, "signing root"), _name(organization, "signing intermediate")
    base = x509.CertificateBuilder().issuer_name(root_name).not_valid_before(not_before).not_valid_after(not_after)

    def authority(name: x509.Name, key: ProviderKey, path_length: int) -> x509.CertificateBuilder:
        public = public_key_of(key)
        return (
            base.subject_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
            .add_extension(key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )

    issued = (
        authority(intermediate_name, intermediate, 0)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public_key_of(root)), critical=False)
    )
    return [
        await sign_certificate(issued, provider, root),
        await sign_certificate(authority(root_name, root, 1), provider, root),
    ]


def _name(organization: str, common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
