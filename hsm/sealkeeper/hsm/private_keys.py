"""Private keys in this process's memory: made, loaded, and signed with. For the software provider alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa, utils

from sealkeeper.hsm.algorithms import Algorithm, require_strong
from sealkeeper.hsm.errors import AlgorithmNotSupportedError

PrivateKey: TypeAlias = (
    ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | rsa.RSAPrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)

_CURVES = {"secp256r1": ec.SECP256R1(), "secp384r1": ec.SECP384R1(), "secp521r1": ec.SECP521R1()}
_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
_ML_DSA: dict[int, Callable[[], PrivateKey]] = {
    44: mldsa.MLDSA44PrivateKey.generate,
    65: mldsa.MLDSA65PrivateKey.generate,
    87: mldsa.MLDSA87PrivateKey.generate,
}
# id-ml-dsa-44, -65 and -87 (RFC 9881 section 2) up to the last number; with the expanded key, some 5 KB.
_ML_DSA_OID = bytes.fromhex("6086480165030403")
_ML_DSA_BYTES = 8192


def generate(algorithm: Algorithm) -> PrivateKey:
    """Make a private key for an algorithm."""
    match algorithm.family:
        case "ecdsa":
            return ec.generate_private_key(_CURVES[str(algorithm.parameter)])
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "ml-dsa":
            return _ML_DSA[int(algorithm.parameter)]()
        case _:
            return rsa.generate_private_key(65537, int(algorithm.parameter))


def load_foreign(algorithm: Algorithm, pkcs8: bytes) -> PrivateKey:
    """Load a private key (PKCS#8, DER) that somebody else has made, and check it.

    Raises:
        AlgorithmNotSupportedError: it is malformed, its numbers do not belong together, or it is of another type, curve
            or size.
        WeakKeyError: as in ``require_strong``.
    """
    if len(pkcs8) > _most_bytes(algorithm, pkcs8):
        raise AlgorithmNotSupportedError(f"it is too long for a private key for {algorithm.name}")
    try:
        private = cast("PrivateKey", serialization.load_der_private_key(pkcs8, None))
        spki = public_half(private)
        if isinstance(private, ec.EllipticCurvePrivateKey):
            # The public key that stands beside the private one need not be its own.
            private = ec.derive_private_key(private.private_numbers().private_value, private.curve)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise AlgorithmNotSupportedError("it is not a private key in PKCS#8, or a damaged one") from None
    if public_half(private) != spki:
        raise AlgorithmNotSupportedError("the public key that stands beside the private one is not its own")
    require_strong(algorithm, spki)
    return private


def _most_bytes(algorithm: Algorithm, pkcs8: bytes) -> int:
    """Most bytes of a PKCS#8. Numbers are tested for primes when it is loaded, whatever is asked: not of any length."""
    if algorithm.family in {"rsa-pkcs1v15", "rsa-pss"}:
        # Modulus, private exponent, and five numbers of half the length (RFC 8017 section A.1.2).
        return int(algorithm.parameter) * 5 // 8 + 256
    return _ML_DSA_BYTES if algorithm.family == "ml-dsa" and _ML_DSA_OID in pkcs8[:32] else 1024


def public_half(private: PrivateKey) -> bytes:
    """Its public key: SubjectPublicKeyInfo, DER."""
    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def pkcs8_of(private: PrivateKey) -> bytes:
    """The private key in clear: PKCS#8, DER."""
    return private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def sign(private: PrivateKey, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
    """Sign each payload, whose lengths have been checked."""
    if isinstance(private, ec.EllipticCurvePrivateKey):
        ecdsa = ec.ECDSA(utils.Prehashed(_HASHES[algorithm.digest or ""]))
        return [private.sign(payload, ecdsa) for payload in payloads]
    if isinstance(private, rsa.RSAPrivateKey):
        digest = _HASHES[algorithm.digest or ""]
        scheme: padding.AsymmetricPadding = padding.PKCS1v15()
        if algorithm.family == "rsa-pss":
            scheme = padding.PSS(padding.MGF1(digest), algorithm.digest_length)
        return [private.sign(payload, scheme, utils.Prehashed(digest)) for payload in payloads]
    return [private.sign(payload) for payload in payloads]
