"""Signature algorithms, named as in Sigstore's ``PublicKeyDetails``, from the verifier's side.

Sources: sigstore/protobuf-specs ``sigstore_common.proto``; FIPS 186-5, RFC 8032, RFC 8017, FIPS 204. ``ML_DSA_44`` is
Sealkeeper's: Sigstore names only 65 and 87.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa, utils

from sealkeeper.verify.errors import VerifyError

PublicKey: TypeAlias = (
    ec.EllipticCurvePublicKey
    | rsa.RSAPublicKey
    | ed25519.Ed25519PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)


class KeyMismatchError(VerifyError):
    """A public key is not one for the algorithm that it is said to be for."""

    reason = "KEY_INVALID"


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One signature algorithm.

    Attributes:
        name: in ``PublicKeyDetails``.
        kind: class of its public keys.
        parameter: curve name or modulus bits; 0 where the class says all.
        digest: name in ``HashAlgorithm`` of the digest that log entries hold, and that is signed where
            ``signs_digest``.
        signs_digest: False for Ed25519 and ML-DSA, which sign the message.
        pss: RSASSA-PSS rather than PKCS#1 v1.5.
    """

    name: str
    kind: type
    parameter: str | int
    digest: str
    signs_digest: bool = True
    pss: bool = False


def _table() -> dict[str, Algorithm]:
    curve, key = ec.EllipticCurvePublicKey, rsa.RSAPublicKey
    rows = [
        Algorithm("PKIX_ECDSA_P256_SHA_256", curve, "secp256r1", "SHA2_256"),
        Algorithm("PKIX_ECDSA_P384_SHA_384", curve, "secp384r1", "SHA2_384"),
        Algorithm("PKIX_ECDSA_P521_SHA_512", curve, "secp521r1", "SHA2_512"),
        Algorithm("PKIX_ED25519", ed25519.Ed25519PublicKey, 0, "SHA2_256", signs_digest=False),
        Algorithm("ML_DSA_44", mldsa.MLDSA44PublicKey, 0, "SHA2_256", signs_digest=False),
        Algorithm("ML_DSA_65", mldsa.MLDSA65PublicKey, 0, "SHA2_256", signs_digest=False),
        Algorithm("ML_DSA_87", mldsa.MLDSA87PublicKey, 0, "SHA2_256", signs_digest=False),
    ]
    for bits in (2048, 3072, 4096):
        rows.append(Algorithm(f"PKIX_RSA_PKCS1V15_{bits}_SHA256", key, bits, "SHA2_256"))
        rows.append(Algorithm(f"PKIX_RSA_PSS_{bits}_SHA256", key, bits, "SHA2_256", pss=True))
    return {row.name: row for row in rows}


ALGORITHMS: dict[str, Algorithm] = _table()

OTHERS_ALGORITHMS: dict[str, Algorithm] = {
    # Deprecated, and what Sigstore's signers did with these curves for long.
    name: Algorithm(name, ec.EllipticCurvePublicKey, curve, "SHA2_256")
    for name, curve in (("PKIX_ECDSA_P384_SHA_256", "secp384r1"), ("PKIX_ECDSA_P521_SHA_256", "secp521r1"))
}
"""What other instances' keys may sign with, and ours do not."""

_HASHES = {"SHA2_256": hashes.SHA256(), "SHA2_384": hashes.SHA384(), "SHA2_512": hashes.SHA512()}


def load_public_key(algorithm: Algorithm, spki: bytes) -> PublicKey:
    """Parse a SubjectPublicKeyInfo (DER).

    Raises:
        KeyMismatchError: malformed, or not a key for the algorithm.
    """
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyMismatchError("the public key is not a DER SubjectPublicKeyInfo of a known kind") from None
    return require_key(algorithm, key)


def require_key(algorithm: Algorithm, key: object) -> PublicKey:
    """Check that a public key is one for the algorithm.

    Raises:
        KeyMismatchError: it is not.
    """
    parameter: str | int = 0
    if isinstance(key, ec.EllipticCurvePublicKey):
        parameter = key.curve.name
    elif isinstance(key, rsa.RSAPublicKey):
        parameter = key.key_size
    if not isinstance(key, algorithm.kind) or parameter != algorithm.parameter:
        raise KeyMismatchError(f"the public key is not one for {algorithm.name}")
    return cast("PublicKey", key)


def fitting_algorithms(key: object) -> tuple[Algorithm, ...]:
    """Those that a public key may be for, the likeliest first; none where its kind is not supported."""
    return tuple(one for one in (*ALGORITHMS.values(), *OTHERS_ALGORITHMS.values()) if _fits(one, key))


def _fits(algorithm: Algorithm, key: object) -> bool:
    try:
        require_key(algorithm, key)
    except KeyMismatchError:
        return False
    return True


def message_verifies(algorithm: Algorithm, key: PublicKey, message: bytes, signature: bytes) -> bool:
    """Tell whether ``signature`` is one of a message, which is hashed where the algorithm signs digests."""
    if algorithm.signs_digest:
        digest = hashes.Hash(_HASHES[algorithm.digest])
        digest.update(message)
        message = digest.finalize()
    return signature_verifies(algorithm, key, message, signature)


def signature_verifies(algorithm: Algorithm, key: PublicKey, payload: bytes, signature: bytes) -> bool:
    """Tell whether ``signature`` is one of ``payload``: a digest where the algorithm signs digests, else a message."""
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, payload, ec.ECDSA(utils.Prehashed(_HASHES[algorithm.digest])))
        elif isinstance(key, rsa.RSAPublicKey):
            digest = _HASHES[algorithm.digest]
            scheme = padding.PSS(padding.MGF1(digest), digest.digest_size) if algorithm.pss else padding.PKCS1v15()
            key.verify(signature, payload, scheme, utils.Prehashed(digest))
        else:
            key.verify(signature, payload)
    except InvalidSignature:
        return False
    return True
