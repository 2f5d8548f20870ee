"""Signatures and attestations in the layouts that cosign used before it attached bundles.

Sources: cosign's ``specs/SIGNATURE_SPEC.md`` and ``specs/ATTESTATION_SPEC.md``, and ``sigstore_bundle.proto`` for what
they become. Nothing is verified: neither the signature, nor that a payload is about the image that it was found at.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from sealkeeper.registry.document import Json, parse_object
from sealkeeper.registry.errors import MalformedError
from sealkeeper.registry.manifest import Descriptor
from sealkeeper.registry.origin import Origin

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
"""Media type of a bundle."""
OLD_BUNDLE = "application/vnd.dev.sigstore.bundle+json;version=0.1"
"""Media type of a bundle whose log entry has a promise in place of a proof."""
NO_HINT = "cosign"
"""Stands for the hint at a key where cosign left none: whose key it is, the verifier's policy says."""
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
DSSE_ENVELOPE = "application/vnd.dsse.envelope.v1+json"
_SIGNATURE = "dev.cosignproject.cosign/signature"
_CERTIFICATE = "dev.sigstore.cosign/certificate"
_CHAIN = "dev.sigstore.cosign/chain"
_REKOR = "dev.sigstore.cosign/bundle"
_TIMESTAMP = "dev.sigstore.cosign/rfc3161timestamp"
_MAX_SIGNATURE = 64 * 1024
_MAX_PEM = 256 * 1024


@dataclass(frozen=True, slots=True)
class CosignMaterial:
    """What cosign keeps beside a signature, in a layer's annotations; each may be empty.

    Attributes:
        certificate: PEM.
        chain: PEM of the CAs above it.
        rekor_bundle: JSON, of the log's entry.
        timestamp: JSON with an RFC 3161 timestamp.
    """

    certificate: str = ""
    chain: str = ""
    rekor_bundle: str = ""
    timestamp: str = ""


@dataclass(frozen=True, slots=True)
class CosignSignature:
    """A signature of an image (``sha256-….sig``).

    Attributes:
        payload: that is signed; JSON of the simple signing format. Whoever verifies the signature compares the digest
            in it with the image's (``verify.gate.simple_signing``).
        signature: of it.
        material: to verify it with.
        annotations: of the layer.
        origin: where it was found.
    """

    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    material: CosignMaterial = field(repr=False)
    annotations: Mapping[str, str] = field(repr=False, hash=False)
    origin: Origin


@dataclass(frozen=True, slots=True)
class CosignAttestation:
    """An attestation about an image (``sha256-….att``).

    Attributes:
        envelope: DSSE, JSON.
        material: to verify it with.
        annotations: of the layer.
        origin: where it was found.
    """

    envelope: bytes = field(repr=False)
    material: CosignMaterial = field(repr=False)
    annotations: Mapping[str, str] = field(repr=False, hash=False)
    origin: Origin


def read_signature(payload: bytes, layer: Descriptor, origin: Origin) -> CosignSignature:
    """A signature of a layer.

    Raises:
        MalformedError: the layer has no signature.
    """
    text = layer.annotations.get(_SIGNATURE, "")
    signature = _base64(text, f"{origin}: {_SIGNATURE}")
    return CosignSignature(payload, signature, _material(layer, origin), layer.annotations, origin)


def read_attestation(envelope: bytes, layer: Descriptor, origin: Origin) -> CosignAttestation:
    """An attestation of a layer.

    Raises:
        MalformedError: an annotation of the layer is too long.
    """
    return CosignAttestation(envelope, _material(layer, origin), layer.annotations, origin)


def to_bundle(found: CosignSignature | CosignAttestation, hint: str = "") -> bytes:
    """The Sigstore bundle that says the same: of v0.3, or of v0.1 where the log's entry has a promise and no proof.

    The chain is left out: verifiers take CAs from their trust root.

    Args:
        found: the signature or attestation.
        hint: at the public key, where there is no certificate.

    Returns:
        JSON.

    Raises:
        MalformedError: a part is missing or not what it should be, which the text names.
    """
    material = found.material
    old = bool(material.rekor_bundle)
    verification: dict[str, Json] = {
        **_key_material(found, hint, old=old),
        "tlogEntries": [_log_entry(material.rekor_bundle, found.origin)] if old else [],
    }
    if material.timestamp:
        stamp = parse_object(material.timestamp.encode(), f"{found.origin}: {_TIMESTAMP}").get("SignedRFC3161Timestamp")
        der = _base64(stamp, f"{found.origin}: {_TIMESTAMP}")
        verification["timestampVerificationData"] = {"rfc3161Timestamps": [{"signedTimestamp": _text(der)}]}
    document = {
        "mediaType": OLD_BUNDLE if old else BUNDLE,
        "verificationMaterial": verification,
        **(_message(found) if isinstance(found, CosignSignature) else _envelope(found)),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _message(found: CosignSignature) -> dict[str, Json]:
    digest = {"algorithm": "SHA2_256", "digest": _text(hashlib.sha256(found.payload).digest())}
    return {"messageSignature": {"messageDigest": digest, "signature": _text(found.signature)}}


def _envelope(found: CosignAttestation) -> dict[str, Json]:
    place = f"{found.origin}: the envelope"
    document = parse_object(found.envelope, place)
    kind, signatures = document.get("payloadType"), document.get("signatures")
    payload = _base64(document.get("payload"), f"{place}: payload", most=len(found.envelope))
    if not isinstance(kind, str) or not isinstance(signatures, list) or len(signatures) != 1:
        raise MalformedError(f"{place}: needs a payload type and one signature")
    one = signatures[0] if isinstance(signatures[0], dict) else {}
    signature: dict[str, Json] = {"sig": _text(_base64(one.get("sig"), f"{place}: sig"))}
    if isinstance(one.get("keyid"), str) and one["keyid"]:
        signature["keyid"] = one["keyid"]
    return {"dsseEnvelope": {"payload": _text(payload), "payloadType": kind, "signatures": [signature]}}


def _key_material(found: CosignSignature | CosignAttestation, hint: str, *, old: bool) -> dict[str, Json]:
    if not found.material.certificate:
        if not hint:
            raise MalformedError(f"{found.origin}: has no certificate, and no key is named")
        return {"publicKey": {"hint": hint}}
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_certificate

    try:
        der = load_pem_x509_certificate(found.material.certificate.encode()).public_bytes(Encoding.DER)
    except ValueError:
        raise MalformedError(f"{found.origin}: {_CERTIFICATE} is no certificate in PEM") from None
    certificate = {"rawBytes": _text(der)}
    return {"x509CertificateChain": {"certificates": [certificate]}} if old else {"certificate": certificate}


def _log_entry(rekor_bundle: str, origin: Origin) -> dict[str, Json]:
    place = f"{origin}: {_REKOR}"
    document = parse_object(rekor_bundle.encode(), place)
    payload = document.get("Payload")
    if not isinstance(payload, dict):
        raise MalformedError(f"{place}: has no Payload")
    body = _base64(payload.get("body"), f"{place}: body", most=len(rekor_bundle))
    entry = parse_object(body, f"{place}: body")
    kind, version, log = entry.get("kind"), entry.get("apiVersion"), payload.get("logID")
    if not isinstance(kind, str) or not isinstance(version, str) or not isinstance(log, str):
        raise MalformedError(f"{place}: needs kind, apiVersion and logID")
    try:
        log_id = bytes.fromhex(log)
    except ValueError:
        raise MalformedError(f"{place}: logID is not hex") from None
    promise = _base64(document.get("SignedEntryTimestamp"), f"{place}: SignedEntryTimestamp")
    return {
        "logIndex": _number(payload, "logIndex", place),
        "logId": {"keyId": _text(log_id)},
        "kindVersion": {"kind": kind, "version": version},
        "integratedTime": _number(payload, "integratedTime", place),
        "inclusionPromise": {"signedEntryTimestamp": _text(promise)},
        "canonicalizedBody": _text(body),
    }


def _material(layer: Descriptor, origin: Origin) -> CosignMaterial:
    annotations = layer.annotations
    for name in (_CERTIFICATE, _CHAIN):
        if len(annotations.get(name, "")) > _MAX_PEM:
            raise MalformedError(f"{origin}: {name} has more than {_MAX_PEM} characters")
    return CosignMaterial(*(annotations.get(name, "") for name in (_CERTIFICATE, _CHAIN, _REKOR, _TIMESTAMP)))


def _number(document: Mapping[str, Json], name: str, place: str) -> str:
    value = document.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise MalformedError(f"{place}: {name} must be a whole number from 0 to 2^63 - 1")
    # Numbers of 64 bits are strings in the JSON of protocol buffers.
    return str(value)


def _base64(value: Json, place: str, most: int = _MAX_SIGNATURE) -> bytes:
    if not isinstance(value, str) or not value or len(value) > most * 4 // 3 + 4:
        raise MalformedError(f"{place}: must be base64 of 1 to {most} bytes")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedError(f"{place}: is not base64") from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
