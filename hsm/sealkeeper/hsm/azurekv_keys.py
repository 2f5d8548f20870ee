"""What Azure writes of keys, and what the gateway makes of it: public keys, signatures, attributes, attestations."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from azure.keyvault.keys import KeyProperties, KeyVaultKey
from azure.keyvault.keys.crypto import SignatureAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils

from sealkeeper.hsm.algorithms import ALGORITHMS, Algorithm, load_public_key
from sealkeeper.hsm.errors import AlgorithmNotSupportedError, SelfCheckError
from sealkeeper.hsm.provider import Attestation

_MAX_ATTESTATION = 32 * 1024
_MAX_CERTIFICATES = 16
_CURVES: dict[str, tuple[str, ec.EllipticCurve]] = {
    "secp256r1": ("P-256", ec.SECP256R1()),
    "secp384r1": ("P-384", ec.SECP384R1()),
    "secp521r1": ("P-521", ec.SECP521R1()),
}
SIGNS_WITH = {
    ("ecdsa", "sha256"): SignatureAlgorithm.es256,
    ("ecdsa", "sha384"): SignatureAlgorithm.es384,
    ("ecdsa", "sha512"): SignatureAlgorithm.es512,
    ("rsa-pkcs1v15", "sha256"): SignatureAlgorithm.rs256,
    ("rsa-pss", "sha256"): SignatureAlgorithm.ps256,
}
"""By family and digest."""
# The SDK's KeyType and KeyCurveName name no Edwards curve and no ML-DSA, and both kinds of store take the same.
OFFERED = frozenset(name for name, one in ALGORITHMS.items() if (one.family, one.digest) in SIGNS_WITH)


def kind_of_key(algorithm: Algorithm) -> tuple[str, dict[str, Any]]:
    """What to ask for: the key type without ``-HSM``, and ``curve`` or ``size``."""
    if algorithm.family == "ecdsa":
        return "EC", {"curve": _CURVES[str(algorithm.parameter)][0]}
    return "RSA", {"size": int(algorithm.parameter)}


def jwk(key: KeyVaultKey, name: str) -> Any:
    """A member of its JSON Web Key; ``None`` where it has none of that name. The SDK does not declare them."""
    value = getattr(key.key, name, None)
    return value.value if isinstance(value, Enum) else value


def public_key_of(key: KeyVaultKey, algorithm: Algorithm, hardware: str) -> tuple[bytes, dict[str, Any]]:
    """A key's SubjectPublicKeyInfo (DER), and its public JSON Web Key and nothing else of what the store gave.

    Raises:
        AlgorithmNotSupportedError: it is not one for the algorithm, or not protected as it should be.
    """
    kty = str(jwk(key, "kty"))
    if hardware and not kty.endswith(hardware):
        raise AlgorithmNotSupportedError("the key is protected in software, and this provider's are in hardware")
    try:
        if kty.startswith("EC"):
            public: dict[str, Any] = {name: jwk(key, name) for name in ("crv", "x", "y")}
            [curve] = [curve for crv, curve in _CURVES.values() if crv == public["crv"]]
            size = (curve.key_size + 7) // 8
            x, y = (_number(public[name], size) for name in ("x", "y"))
            spki = spki_of(ec.EllipticCurvePublicNumbers(x, y, curve).public_key())
        else:
            public = {name: jwk(key, name) for name in ("n", "e")}
            spki = spki_of(rsa_public_key_of(key))
    except (ValueError, TypeError):
        raise AlgorithmNotSupportedError("the key store gave a public key that is none") from None
    load_public_key(algorithm, spki)
    return spki, {"kty": kty, "key_ops": ["sign"], **public}


def rsa_public_key_of(key: KeyVaultKey) -> rsa.RSAPublicKey:
    """The RSA public key of a key.

    Raises:
        AlgorithmNotSupportedError: it is another kind of key, or malformed.
    """
    try:
        n, e = _number(jwk(key, "n"), 1024), _number(jwk(key, "e"), 8)
        return rsa.RSAPublicNumbers(e, n).public_key()
    except (ValueError, TypeError):
        raise AlgorithmNotSupportedError("the key store gave a public key that is none") from None


def _number(data: object, longest: int) -> int:
    if not isinstance(data, bytes) or not 0 < len(data) <= longest:
        raise ValueError
    return int.from_bytes(data, "big")


def spki_of(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    """SubjectPublicKeyInfo, DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def signature_of(algorithm: Algorithm, raw: object) -> bytes:
    """A signature as others write it: Azure writes those of elliptic curves as r and s of equal length (RFC 7518
    section 3.4).

    Raises:
        SelfCheckError: it has another length than one for the algorithm has.
    """
    ecdsa = algorithm.family == "ecdsa"
    size = (_CURVES[str(algorithm.parameter)][1].key_size + 7) // 8 * 2 if ecdsa else int(algorithm.parameter) // 8
    if not isinstance(raw, bytes) or len(raw) != size:
        raise SelfCheckError(
            "the key store made a signature of the wrong length; it was withheld",
            next_step="take the store out of use and have it examined",
        )
    if not ecdsa:
        return raw
    half = size // 2
    return utils.encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


def transfer_blob(wrapping_key_id: str, wrapped: bytes) -> bytes:
    """A key transfer blob (Azure Key Vault, bring your own key specification, schema version 1.0.0)."""
    document = {
        "schema_version": "1.0.0",
        "header": {"kid": wrapping_key_id, "alg": "dir", "enc": "CKM_RSA_AES_KEY_WRAP"},
        "ciphertext": base64.urlsafe_b64encode(wrapped).rstrip(b"=").decode(),
        "generator": "Sealkeeper",
    }
    return json.dumps(document).encode()


def claims_of(key: KeyVaultKey) -> dict[str, str]:
    """What the store says of a key, under the names of its REST API."""
    properties, operations = key.properties, jwk(key, "key_ops")
    policy = properties.release_policy
    said: dict[str, object] = {
        "kty": jwk(key, "kty"),
        "key_ops": ",".join(map(str, operations)) if isinstance(operations, list) else None,
        "enabled": properties.enabled,
        "exportable": properties.exportable,
        "managed": properties.managed,
        "release_policy": "none" if policy is None else f"immutable={policy.immutable}",
        "hsmPlatform": properties.hsm_platform,
        "recoveryLevel": properties.recovery_level,
        "recoverableDays": properties.recoverable_days,
        "created": properties.created_on,
        "updated": properties.updated_on,
        "nbf": properties.not_before,
        "exp": properties.expires_on,
    }
    tag = (properties.tags or {}).get("sealkeeper-origin")
    said["tag sealkeeper-origin (written by the gateway)"] = tag
    return {name: _plain(value) for name, value in said.items() if value is not None and _plain(value)}


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    text = str(value.value if isinstance(value, Enum) else value)
    text = text.lower() if isinstance(value, bool) else text
    return re.sub(r"[^\x20-\x7e]", "?", text[:256]).strip()


def attestation_of(properties: KeyProperties) -> Attestation | None:
    """The attestation of a key in a Managed HSM: its two statements in one JSON document, as the store writes them."""
    # Imported when needed: it takes a good part of a worker's start.
    from cryptography import x509

    said = properties.attestation
    if said is None or not said.private_key_attestation:
        return None
    document = {
        "privateKeyAttestation": _base64url(said.private_key_attestation),
        "publicKeyAttestation": _base64url(said.public_key_attestation or b""),
        "version": _plain(said.version or ""),
    }
    content = json.dumps(document).encode()
    if len(content) > _MAX_ATTESTATION:
        return None
    try:
        chain = x509.load_pem_x509_certificates(said.certificate_pem_file or b"")[:_MAX_CERTIFICATES]
        certificates = tuple(one.public_bytes(serialization.Encoding.DER) for one in chain)
    except ValueError:
        certificates = ()
    return Attestation("AZURE_MANAGED_HSM_JSON", content, certificates)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
