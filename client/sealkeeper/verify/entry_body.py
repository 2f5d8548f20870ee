"""What the body of a log entry has to say of a signature: kinds of Rekor v1 and v2.

A body is compared as bytes with the one that its content leads to, in canonical form (RFC 8785): no parser's leniency,
no second reading. Two things cannot be told from a bundle and are taken from the body, once they have the right form:
how the PEM of the key or certificate is broken into lines, and the digest of the JSON in which an envelope was sent to
Rekor v1, which binds nothing beyond what payload digest and signature do.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeAlias

import rfc8785

from sealkeeper.verify.algorithms import Algorithm
from sealkeeper.verify.bundle import Content, DsseEnvelope, LogEntry
from sealkeeper.verify.errors import VerifyError
from sealkeeper.verify.strict_json import JsonError, Value

_Spec: TypeAlias = dict[str, Any]
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PEM = re.compile(rb"-----BEGIN ([A-Z ]+)-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END ([A-Z ]+)-----\s*")
_NAMES = {"SHA2_256": "sha256", "SHA2_384": "sha384", "SHA2_512": "sha512"}


@dataclass(frozen=True, slots=True)
class Signed:
    """What was signed, by what.

    Attributes:
        content: of the bundle, with the signature.
        algorithm: of the signature.
        digest: of the message, or of the envelope's pre-authentication encoding, as the algorithm has it.
        certificate: of the signer, DER; ``None`` where there is a key only.
        spki: the signer's public key, SubjectPublicKeyInfo DER.
    """

    content: Content
    algorithm: Algorithm
    digest: bytes
    certificate: bytes | None
    spki: bytes


def require_body(entry: LogEntry, signed: Signed) -> None:
    """Check that an entry's body is of this signature and of nothing else.

    Raises:
        VerifyError: its kind or version is not known, or not for such content, or it is of something else.
    """
    kind = _KINDS.get((entry.kind, entry.version))
    if kind is None:
        raise VerifyError(f"log entries of {entry.kind!r} {entry.version!r} are not known")
    if isinstance(signed.content, DsseEnvelope) not in kind.envelopes:
        what = "a DSSE envelope" if isinstance(signed.content, DsseEnvelope) else "a message"
        raise VerifyError(f"a log entry of {entry.kind} {entry.version} is not one of {what}")
    try:
        spec = Value.parse(entry.body, 65_536, 1000).member("spec")
        expected = kind.spec(signed, spec)
    except JsonError as error:
        raise VerifyError(f"the log entry's body is not one of its kind: {error}") from None
    document: _Spec = {"apiVersion": entry.version, "kind": entry.kind, "spec": expected}
    if entry.body != rfc8785.dumps(document):
        raise VerifyError(_difference(kind, expected, spec))


def _difference(kind: _Kind, expected: _Spec, spec: Value) -> str:
    for text, path in kind.places:
        wanted: Any = expected
        found: Any = spec.json
        try:
            for part in path:
                wanted, found = wanted[part], found[part]
        except (LookupError, TypeError):
            return f"the log entry has no {'.'.join(map(str, path))}"
        if found != wanted:
            return text
    return "the log entry is not the canonical form of its kind"


def _hashedrekord_v2(signed: Signed, _: Value) -> _Spec:
    if signed.certificate is not None:
        verifier: _Spec = {"x509Certificate": {"rawBytes": _base64(signed.certificate)}}
    else:
        verifier = {"publicKey": {"rawBytes": _base64(signed.spki)}}
    record = {
        "data": {"algorithm": signed.algorithm.digest, "digest": _base64(signed.digest)},
        "signature": {
            "content": _base64(signed.content.signature),
            "verifier": verifier | {"keyDetails": signed.algorithm.name},
        },
    }
    return {"hashedRekordV002": record}


def _hashedrekord_v1(signed: Signed, spec: Value) -> _Spec:
    key = spec.member("signature").member("publicKey").member("content")
    return {
        "data": {"hash": {"algorithm": _NAMES[signed.algorithm.digest], "value": signed.digest.hex()}},
        "signature": {"content": _base64(signed.content.signature), "publicKey": {"content": _pem(signed, key)}},
    }


def _dsse(signed: Signed, spec: Value) -> _Spec:
    [signature] = spec.member("signatures").items(1, 1)
    return {
        "envelopeHash": _some_hash(spec.member("envelopeHash")),
        "payloadHash": _payload_hash(signed),
        "signatures": [
            {"signature": _base64(signed.content.signature), "verifier": _pem(signed, signature.member("verifier"))}
        ],
    }


def _intoto(signed: Signed, spec: Value) -> _Spec:
    content = spec.member("content")
    [signature] = content.member("envelope").member("signatures").items(1, 1)
    one = {
        "publicKey": _pem(signed, signature.member("publicKey")),
        # Encoded twice, as the type's first clients had it.
        "sig": _base64(_base64(signed.content.signature).encode()),
    }
    envelope = _envelope(signed)
    if "keyid" in signature.json:
        one["keyid"] = envelope.key_id
    return {
        "content": {
            "envelope": {"payloadType": envelope.payload_type, "signatures": [one]},
            "hash": _some_hash(content.member("hash")),
            "payloadHash": _payload_hash(signed),
        }
    }


def _envelope(signed: Signed) -> DsseEnvelope:
    if not isinstance(signed.content, DsseEnvelope):
        raise VerifyError("the log entry is of a DSSE envelope")
    return signed.content


def _payload_hash(signed: Signed) -> _Spec:
    return {"algorithm": "sha256", "value": sha256(_envelope(signed).payload).hexdigest()}


def _some_hash(value: Value) -> _Spec:
    members = value.members({"algorithm", "value"})
    if not _SHA256.fullmatch(members["value"].text(64)):
        raise VerifyError(f"the log entry's {value.path} is not a SHA-256 digest")
    return {"algorithm": "sha256", "value": members["value"].text(64)}


def _pem(signed: Signed, found: Value) -> str:
    """What was found, where it is the PEM of the signer's certificate or key, in base64; else what should be there."""
    label, der = ("PUBLIC KEY", signed.spki) if signed.certificate is None else ("CERTIFICATE", signed.certificate)
    text = found.base64()
    match = _PEM.fullmatch(text)
    inside = match[2].replace(b"\r", b"").replace(b"\n", b"") if match is not None else b""
    if match is not None and match[1] == match[3] == label.encode() and inside == b64encode(der):
        return _base64(text)
    return _base64(f"-----BEGIN {label}-----\n{_base64(der)}\n-----END {label}-----\n".encode())


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


_DIGEST, _SIGNATURE, _SIGNER, _ENVELOPE = (
    "the log entry is of another digest",
    "the log entry is of another signature",
    "the log entry names another key, certificate or algorithm",
    "the log entry is of another payload type or key id",
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of entry: for messages (False), envelopes (True) or both; its spec; what to say where it differs."""

    envelopes: tuple[bool, ...]
    spec: Callable[[Signed, Value], _Spec]
    places: tuple[tuple[str, tuple[str | int, ...]], ...]


_KINDS = {
    ("hashedrekord", "0.0.2"): _Kind(
        (False, True),
        _hashedrekord_v2,
        (
            (_DIGEST, ("hashedRekordV002", "data")),
            (_SIGNATURE, ("hashedRekordV002", "signature", "content")),
            (_SIGNER, ("hashedRekordV002", "signature", "verifier")),
        ),
    ),
    ("hashedrekord", "0.0.1"): _Kind(
        (False,),
        _hashedrekord_v1,
        (
            (_DIGEST, ("data",)),
            (_SIGNATURE, ("signature", "content")),
            (_SIGNER, ("signature", "publicKey")),
        ),
    ),
    ("dsse", "0.0.1"): _Kind(
        (True,),
        _dsse,
        (
            (_DIGEST, ("payloadHash",)),
            (_SIGNATURE, ("signatures", 0, "signature")),
            (_SIGNER, ("signatures", 0, "verifier")),
        ),
    ),
    ("intoto", "0.0.2"): _Kind(
        (True,),
        _intoto,
        (
            (_DIGEST, ("content", "payloadHash")),
            (_SIGNATURE, ("content", "envelope", "signatures", 0, "sig")),
            (_SIGNER, ("content", "envelope", "signatures", 0, "publicKey")),
            (_ENVELOPE, ("content", "envelope")),
        ),
    ),
}
