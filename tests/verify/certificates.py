"""Certificates with any extension, of an authority made here, and what cryptography reads only in part."""

from __future__ import annotations

from base64 import b64encode
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.shapes.world import NOW

AUTHORITY = ec.derive_private_key(11, ec.SECP256R1())
SIGNER = ec.derive_private_key(12, ec.SECP256R1())
IDENTITY = "https://ci.example/job"
TLS_FEATURE = "1.3.6.1.5.5.7.1.24"
UNKNOWN_FEATURE = bytes.fromhex("3003020163")
"""Value of a TLS feature extension (RFC 7633) with the feature 99, which nobody has defined."""


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# The last byte of the curve's object identifier, 1.2.840.10045.3.1.7, is another.
UNKNOWN_CURVE = spki(SIGNER.public_key()).replace(bytes.fromhex("ce3d030107"), bytes.fromhex("ce3d030177"))


def certificate(*extensions: tuple[str, bytes], start: datetime = NOW) -> x509.Certificate:
    """A signer's certificate with further extensions, each an object identifier and its DER value."""
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    builder = (
        x509.CertificateBuilder(issuer, x509.Name([]), SIGNER.public_key(), 5, start, start + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(IDENTITY)]), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    )
    for oid, value in extensions:
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
    return builder.sign(AUTHORITY, hashes.SHA256())


def raw_bytes(one: x509.Certificate) -> str:
    """As bundles and trust roots have it."""
    return b64encode(one.public_bytes(Encoding.DER)).decode()
