"""Private keys of every kind, and how they are wrapped for a store: by ``cryptography`` alone, apart from the product.

Sources: RFC 8017 section 7.1 (RSAES-OAEP), RFC 5649 (AES key wrap with padding), PKCS #11 v3.0 section 2.1.21
(CKM_RSA_AES_KEY_WRAP: the wrapped AES key, followed by the private key wrapped under it).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import cache

from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

_CURVES = {"secp256r1": ec.SECP256R1(), "secp384r1": ec.SECP384R1(), "secp521r1": ec.SECP521R1()}
_ML_DSA: dict[int, Callable[[], PrivateKeyTypes]] = {
    44: mldsa.MLDSA44PrivateKey.generate,
    65: mldsa.MLDSA65PrivateKey.generate,
    87: mldsa.MLDSA87PrivateKey.generate,
}


def new_private_key(parameter: str | int) -> PrivateKeyTypes:
    """A private key for an algorithm's ``parameter``: curve name, modulus bits or ML-DSA parameter set."""
    if isinstance(parameter, int):
        return _ML_DSA[parameter]() if parameter in _ML_DSA else rsa.generate_private_key(65537, parameter)
    if parameter == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(_CURVES[parameter])


@cache
def private_key(parameter: str | int) -> PrivateKeyTypes:
    """One private key a parameter: RSA keys take long to make."""
    return new_private_key(parameter)


def pkcs8(key: PrivateKeyTypes) -> bytes:
    """The private key as PKCS#8, DER."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def spki(key: PrivateKeyTypes) -> bytes:
    """Its public key as SubjectPublicKeyInfo, DER."""
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def wrap(method: str, wrapping_key: bytes, secret: bytes) -> bytes:
    """Wrap a secret under an RSA public key (SubjectPublicKeyInfo, DER) by the ``WrapMethod`` of that name.

    Raises:
        ValueError: the secret is too long for the method.
    """
    rsa_key = serialization.load_der_public_key(wrapping_key)
    assert isinstance(rsa_key, rsa.RSAPublicKey)
    digest = hashes.SHA1() if "SHA1" in method else hashes.SHA256()
    oaep = padding.OAEP(padding.MGF1(digest), digest, None)
    if not method.endswith("_AES_256_KWP"):
        return rsa_key.encrypt(secret, oaep)
    key = secrets.token_bytes(32)
    return rsa_key.encrypt(key, oaep) + keywrap.aes_key_wrap_with_padding(key, secret)
