"""CAs of trust domains and certificates of their workloads, as SPIRE makes them unless told otherwise."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sealkeeper.server.identity import Caller
from sealkeeper.server.trust_bundles import TrustBundles

Key: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
DAY = timedelta(days=1)
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
# As SPIRE's: alike in all trust domains.
NAME = x509.Name(
    [x509.NameAttribute(NameOID.COUNTRY_NAME, "US"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SPIFFE")]
)
HARDWARE = "1.3.6.1.4.1.311.21.31"


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def usage(*, signs: bool = True, certificates: bool = False, revocations: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(signs, False, signs, False, signs, certificates, revocations, False, False)


def uris(*names: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(one) for one in names])


def policies(*oids: str) -> x509.CertificatePolicies:
    return x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier(one), None) for one in oids])


NO_CA, SIGNS = x509.BasicConstraints(False, None), usage()


@dataclass(frozen=True)
class Svid:
    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def caller(self) -> Caller:
        return caller_with(self.pem)

    def credentials(self, roots: bytes) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(roots, self.key_pem, self.pem)

    def write(self, certificate: Path, key: Path) -> None:
        certificate.write_bytes(self.pem)
        key.write_bytes(self.key_pem)


def caller_with(pem: bytes) -> Caller:
    return Caller({"x509_pem_cert": [pem]}, {}, "ipv4:192.0.2.1:50000")


@dataclass(frozen=True)
class Ca(Svid):
    """A CA; it issues from ``now`` on."""

    now: datetime

    @classmethod
    def make(
        cls,
        now: datetime,
        *,
        key: Key | None = None,
        parent: Ca | None = None,
        name: x509.Name = NAME,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] | None = None,
        lifetime: timedelta = 10 * DAY,
    ) -> Ca:
        key = key or new_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(parent.certificate.subject if parent else name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + lifetime)
        )
        if extensions is None:
            extensions = (
                (x509.BasicConstraints(True, None), True),
                (usage(signs=False, certificates=True, revocations=True), True),
                (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return cls(builder.sign(parent.key if parent else key, hashes.SHA256()), key, now)

    def issue(
        self,
        name: str | None = None,
        *,
        key: Key | None = None,
        san: x509.SubjectAlternativeName | None = None,
        san_critical: bool = False,
        subject: x509.Name | None = None,
        extended: Sequence[x509.ObjectIdentifier] | None = BOTH,
        constraints: x509.BasicConstraints | None = NO_CA,
        key_usage: x509.KeyUsage | None = SIGNS,
        authority_key: bool = True,
        more: Sequence[tuple[x509.ExtensionType, bool]] = (),
        start: timedelta = -timedelta(hours=1),
        lifetime: timedelta = DAY,
    ) -> Svid:
        key = key or new_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject or x509.Name([]))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now + start)
            .not_valid_after(self.now + lifetime)
        )
        found: list[tuple[x509.ExtensionType | None, bool]] = [
            (constraints, True),
            (key_usage, True),
            (x509.ExtendedKeyUsage(extended) if extended else None, False),
            (
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()) if authority_key else None,
                False,
            ),
            (san or (uris(name) if name else None), san_critical),
            *more,
        ]
        for extension, critical in found:
            if extension is not None:
                builder = builder.add_extension(extension, critical)
        return Svid(builder.sign(self.key, hashes.SHA256()), key)


class Bundles:
    """Where the bundles are, for tests: others when they say so."""

    def __init__(self) -> None:
        self.bundles = TrustBundles({})

    @classmethod
    def of(cls, authorities: dict[str, Sequence[x509.Certificate]]) -> Bundles:
        found = cls()
        found.replace(authorities)
        return found

    def replace(self, authorities: dict[str, Sequence[x509.Certificate]]) -> None:
        self.bundles = TrustBundles(authorities, self.bundles.generation + 1)


class NamedPeople:
    """People by subject."""

    def __init__(self, names: dict[str, str] | None = None) -> None:
        self._names = names or {}

    def name_of(self, subject: str) -> str | None:
        return self._names.get(subject)

    def __contains__(self, name: object) -> bool:
        return name in self._names.values()


def number(value: int) -> str:
    """An unsigned number in base64url without padding (RFC 7518 section 2)."""
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8)).rstrip(b"=").decode()


def jwk(one: Svid) -> dict[str, Any]:
    """A CA certificate as a SPIFFE bundle has it."""
    public = one.key.public_key().public_numbers()
    numbers = (
        {"kty": "RSA", "n": number(public.n), "e": number(public.e)}
        if isinstance(public, rsa.RSAPublicNumbers)
        else {"kty": "EC", "crv": "P-256", "x": number(public.x), "y": number(public.y)}
    )
    return {"use": "x509-svid", "x5c": [base64.b64encode(one.der).decode()], **numbers}


def bundle(*keys: Any, **more: Any) -> bytes:
    return json.dumps({"keys": keys, "spiffe_sequence": 7, "spiffe_refresh_hint": 300, **more}).encode()
