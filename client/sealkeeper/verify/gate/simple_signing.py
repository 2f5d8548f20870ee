"""Signatures of images as cosign made them before there were bundles: of a JSON payload that names the image.

Where gates look at bundles, such a signature is a document of ``MEDIA_TYPE`` with the payload and the bundle that
verifies it, so that it can be sent, kept and found again like any other.

Source: cosign, specs/SIGNATURE_SPEC.md; containers/image, docs/containers-signature.5.md.
"""

from __future__ import annotations

import json
from base64 import b64encode

from sealkeeper.verify.bundle import MAX_BUNDLE, Bundle, DsseEnvelope, parse_bundle
from sealkeeper.verify.errors import VerifyError
from sealkeeper.verify.gate.decision import Artifact
from sealkeeper.verify.strict_json import JsonError, Value

MEDIA_TYPE = "application/vnd.sealkeeper.simple-signing+json"
TYPE = "cosign container image signature"
MAX_PAYLOAD = 64 * 1024
_START = b'{"mediaType":"%b",' % MEDIA_TYPE.encode()


def encode_simple_signing(payload: bytes, bundle: bytes) -> bytes:
    """One document of the payload that was signed, and the bundle with a message signature of it."""
    document = {
        "mediaType": MEDIA_TYPE,
        "payload": b64encode(payload).decode(),
        "bundle": b64encode(bundle).decode(),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def parse_found(data: bytes) -> tuple[Bundle, bytes | None]:
    """Read a bundle, or a document of ``encode_simple_signing``.

    Returns:
        The bundle, and the payload that it is a signature of, where that is not the artifact itself.

    Raises:
        VerifyError: it is neither.
    """
    if not data.startswith(_START):
        return parse_bundle(data), None
    try:
        members = Value.parse(data, 2 * MAX_BUNDLE, 10).members({"mediaType", "payload", "bundle"})
        payload, inner = members["payload"].base64(MAX_PAYLOAD), members["bundle"].base64(MAX_BUNDLE)
    except JsonError as error:
        raise VerifyError(f"the simple signing document is malformed: {error}") from None
    bundle = parse_bundle(inner)
    if isinstance(bundle.content, DsseEnvelope):
        raise VerifyError("the simple signing document has an envelope, not a signature of its payload")
    return bundle, payload


def image_digest(payload: bytes) -> str:
    """The digest of the image that a payload names, ``sha256:…``.

    Raises:
        VerifyError: it is not what cosign signs.
    """
    try:
        critical = Value.parse(payload, MAX_PAYLOAD, 1000).member("critical")
        kind = critical.member("type").text(100)
        digest = critical.member("image").member("docker-manifest-digest").text(200)
    except JsonError as error:
        raise VerifyError(f"the signed payload is not one of simple signing: {error}") from None
    if kind != TYPE:
        raise VerifyError(f"the signed payload is a {kind!r}, not a {TYPE!r}")
    return digest


def require_image(payload: bytes, artifact: Artifact) -> None:
    """Check that a payload names the artifact.

    Raises:
        VerifyError: it is of another image, or of none.
    """
    named = image_digest(payload)
    algorithm, _, value = named.partition(":")
    if algorithm not in ("sha256", "sha512") or artifact.digests.get(algorithm) != value:
        raise VerifyError(f"the signed payload names another image: {named}")
