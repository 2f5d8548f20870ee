"""Certificates signed by a key in a provider.

``cryptography`` encodes a certificate only while it signs it, and signs only at once; a provider signs later. So the
certificate is first signed with a key that is thrown away, and the provider's signature is then put over the same
to-be-signed part, which names the same signature algorithm.
"""

from __future__ import annotations

from hashlib import sha256, sha384

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sealkeeper.hsm import ALGORITHMS, KeyProvider, ProviderKey
from sealkeeper.server.der import BIT_STRING, ECDSA_SHA256, ECDSA_SHA384, SEQUENCE, tlv

P256 = ALGORITHMS["PKIX_ECDSA_P256_SHA_256"]
P384 = ALGORITHMS["PKIX_ECDSA_P384_SHA_384"]
_THROWN_AWAY = {P256.name: ec.generate_private_key(ec.SECP256R1()), P384.name: ec.generate_private_key(ec.SECP384R1())}
_HASHES: dict[str, hashes.SHA256 | hashes.SHA384] = {P256.name: hashes.SHA256(), P384.name: hashes.SHA384()}


def to_be_signed(builder: x509.CertificateBuilder, signer: ProviderKey) -> bytes:
    """The TBSCertificate, DER (RFC 5280 section 4.1), as it will be when ``signer`` has signed it."""
    name = signer.algorithm.name
    return builder.sign(_THROWN_AWAY[name], _HASHES[name]).tbs_certificate_bytes


async def sign_certificate(
    builder: x509.CertificateBuilder, provider: KeyProvider, signer: ProviderKey
) -> x509.Certificate:
    """Sign a certificate with a P-256 or P-384 key.

    Raises:
        ProviderError: the provider did not sign.
    """
    tbs = to_be_signed(builder, signer)
    digest, algorithm = (sha256, ECDSA_SHA256) if signer.algorithm is P256 else (sha384, ECDSA_SHA384)
    [signature] = await provider.sign(signer.handle, signer.algorithm, [digest(tbs).digest()])
    der = tlv(SEQUENCE, tbs, algorithm, tlv(BIT_STRING, b"\0", signature))
    return x509.load_der_x509_certificate(der)


def public_key_of(key: ProviderKey) -> ec.EllipticCurvePublicKey:
    """The key that a certificate of one of the gateway's own authorities certifies."""
    public = serialization.load_der_public_key(key.public_key)
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise TypeError("authorities have elliptic curve keys")
    return public


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """KeyUsage of an authority, or of a signer."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
