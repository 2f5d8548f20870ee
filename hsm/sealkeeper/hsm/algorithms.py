"""Signature algorithms, named as in Sigstore's ``PublicKeyDetails``.

>>> ALGORITHMS["PKIX_ECDSA_P256_SHA_256"].digest_length
32

Algorithms with a ``digest`` sign a digest of exactly that kind; the others (Ed25519, ML-DSA) sign the message.
Sources: sigstore/protobuf-specs ``sigstore_common.proto``; FIPS 186-5, RFC 8032, RFC 8017, FIPS 204.
``ML_DSA_44`` is ours: Sigstore names only 65 and 87.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa, utils

from sealkeeper.hsm.errors import AlgorithmNotSupportedError, WeakKeyError
from sealkeeper.hsm.weak_rsa import weakness

Family: TypeAlias = Literal["ecdsa", "ed25519", "rsa-pkcs1v15", "rsa-pss", "ml-dsa"]
PublicKey: TypeAlias = (
    ec.EllipticCurvePublicKey
    | ed25519.Ed25519PublicKey
    | rsa.RSAPublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)

MAX_MESSAGE = 4 * 1024 * 1024
"""Longest message, in bytes, that an algorithm without a digest signs."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One signature algorithm with its parameters.

    Attributes:
        name: name in ``PublicKeyDetails``.
        family: how it signs.
        digest: hashlib name of the digest that is signed; ``None`` where the message itself is signed.
        digest_length: length of that digest in bytes; 0 where the message itself is signed.
        parameter: curve name, modulus bits or ML-DSA parameter set.
    """

    name: str
    family: Family
    digest: str | None
    digest_length: int
    parameter: str | int

    @property
    def signs_digest(self) -> bool:
        """True where the algorithm signs a digest rather than the message."""
        return self.digest is not None


def _table() -> dict[str, Algorithm]:
    rows = [
        Algorithm("PKIX_ECDSA_P256_SHA_256", "ecdsa", "sha256", 32, "secp256r1"),
        Algorithm("PKIX_ECDSA_P384_SHA_384", "ecdsa", "sha384", 48, "secp384r1"),
        Algorithm("PKIX_ECDSA_P521_SHA_512", "ecdsa", "sha512", 64, "secp521r1"),
        Algorithm("PKIX_ED25519", "ed25519", None, 0, "ed25519"),
    ]
    sizes = (2048, 3072, 4096)
    rows.extend(Algorithm(f"PKIX_RSA_PKCS1V15_{n}_SHA256", "rsa-pkcs1v15", "sha256", 32, n) for n in sizes)
    rows.extend(Algorithm(f"PKIX_RSA_PSS_{n}_SHA256", "rsa-pss", "sha256", 32, n) for n in sizes)
    rows.extend(Algorithm(f"ML_DSA_{size}", "ml-dsa", None, 0, size) for size in (44, 65, 87))
    return {row.name: row for row in rows}


ALGORITHMS: dict[str, Algorithm] = _table()

_ML_DSA_PUBLIC = {44: mldsa.MLDSA44PublicKey, 65: mldsa.MLDSA65PublicKey, 87: mldsa.MLDSA87PublicKey}
_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


def algorithm_named(name: str) -> Algorithm:
    """Look an algorithm up.

    Raises:
        AlgorithmNotSupportedError: there is none of that name.
    """
    try:
        return ALGORITHMS[name]
    except KeyError:
        raise AlgorithmNotSupportedError(f"there is no algorithm named {name[:64]!r}") from None


def load_public_key(algorithm: Algorithm, spki: bytes) -> PublicKey:
    """Parse a SubjectPublicKeyInfo (DER) and check that it is a key for the algorithm.

    Raises:
        AlgorithmNotSupportedError: it is malformed, or of another type, curve or size.
    """
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        raise AlgorithmNotSupportedError("the public key is not a DER SubjectPublicKeyInfo of a known kind") from None
    match algorithm.family, key:
        case "ecdsa", ec.EllipticCurvePublicKey() if key.curve.name == algorithm.parameter:
            return key
        case "ed25519", ed25519.Ed25519PublicKey():
            return key
        case (("rsa-pkcs1v15" | "rsa-pss"), rsa.RSAPublicKey()) if key.key_size == algorithm.parameter:
            return key
        case "ml-dsa", (mldsa.MLDSA44PublicKey() | mldsa.MLDSA65PublicKey() | mldsa.MLDSA87PublicKey()) if isinstance(
            key, _ML_DSA_PUBLIC[int(algorithm.parameter)]
        ):
            return key
    raise AlgorithmNotSupportedError(f"the public key is not one for {algorithm.name}")


def require_strong(algorithm: Algorithm, spki: bytes) -> None:
    """Refuse a public key (SubjectPublicKeyInfo, DER) that others can break, as far as can be told from it alone.

    That a point is on its curve is checked by the library; what is looked for in RSA keys is in ``weak_rsa.py``.

    Raises:
        AlgorithmNotSupportedError: as in ``load_public_key``.
        WeakKeyError: saying what is weak about it.
    """
    key = load_public_key(algorithm, spki)
    if not isinstance(key, rsa.RSAPublicKey):
        return
    numbers = key.public_numbers()
    if (found := weakness(numbers.n, numbers.e)) is not None:
        raise WeakKeyError(
            f"the RSA key is weak: {found}", next_step="make a new key pair, with another library or device"
        )


def signature_verifies(algorithm: Algorithm, public_key: PublicKey, payload: bytes, signature: bytes) -> bool:
    """Tell whether ``signature`` is one of ``payload``: a digest where the algorithm signs digests, else a message."""
    try:
        if isinstance(public_key, ec.EllipticCurvePublicKey):
            public_key.verify(signature, payload, ec.ECDSA(utils.Prehashed(_HASHES[algorithm.digest or ""])))
        elif isinstance(public_key, rsa.RSAPublicKey):
            digest = _HASHES[algorithm.digest or ""]
            scheme: padding.AsymmetricPadding = padding.PKCS1v15()
            if algorithm.family == "rsa-pss":
                scheme = padding.PSS(padding.MGF1(digest), algorithm.digest_length)
            public_key.verify(signature, payload, scheme, utils.Prehashed(digest))
        else:
            public_key.verify(signature, payload)
    except InvalidSignature:
        return False
    return True
