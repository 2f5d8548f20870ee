"""Sigstore bundles v0.3 (sigstore/protobuf-specs, ``sigstore_bundle.proto``), parsed strictly from JSON.

Sizes and counts are bounded, unknown members are refused. Nothing is verified here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from sealkeeper.verify.errors import MalformedBundleError
from sealkeeper.verify.strict_json import JsonError, Value

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MAX_BUNDLE = 8 * 1024 * 1024
MAX_ENTRIES = 32
MAX_TIMESTAMPS = 32
MAX_HASHES = 64
_DIGESTS = {"SHA2_256": 32, "SHA2_384": 48, "SHA2_512": 64}


@dataclass(frozen=True, slots=True)
class MessageDigest:
    """A digest; ``algorithm`` as in ``HashAlgorithm``."""

    algorithm: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class MessageSignature:
    """A signature of an artifact; the digest is a help to find it, and optional."""

    digest: MessageDigest | None
    signature: bytes


@dataclass(frozen=True, slots=True)
class DsseEnvelope:
    """A payload and its one signature."""

    payload_type: str
    payload: bytes
    signature: bytes
    key_id: str


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A transparency log entry with its inclusion proof; hashes are 32 bytes each."""

    log_index: int
    log_id: bytes
    kind: str
    version: str
    proof_index: int
    root_hash: bytes
    tree_size: int
    hashes: tuple[bytes, ...]
    checkpoint: str
    body: bytes


Content: TypeAlias = MessageSignature | DsseEnvelope


@dataclass(frozen=True, slots=True)
class Bundle:
    """A parsed bundle.

    Attributes:
        hint: at a public key; ``None`` where there is a certificate.
        certificate: DER; ``None`` where there is a hint.
        entries: of transparency logs.
        timestamps: RFC 3161 TimeStampResp, DER.
        content: what was signed, and the signature.
    """

    hint: str | None
    certificate: bytes | None
    entries: tuple[LogEntry, ...]
    timestamps: tuple[bytes, ...]
    content: Content

    @property
    def signature(self) -> bytes:
        """The signature."""
        return self.content.signature


def parse_bundle(data: bytes) -> Bundle:
    """Parse a bundle.

    Raises:
        MalformedBundleError: naming the place that is not as the format has it.
    """
    try:
        document = Value.parse(data, MAX_BUNDLE)
        _require_media_type(document)
        members = document.members({"mediaType", "verificationMaterial"}, {"messageSignature", "dsseEnvelope"})
        material = members["verificationMaterial"].members(
            {"tlogEntries"}, {"publicKey", "certificate", "timestampVerificationData"}
        )
        return Bundle(
            *_key_material(members["verificationMaterial"], material),
            tuple(_entry(one) for one in material["tlogEntries"].items(MAX_ENTRIES)),
            _timestamps(material.get("timestampVerificationData")),
            _content(members),
        )
    except JsonError as error:
        raise MalformedBundleError(str(error)) from None


def _require_media_type(document: Value) -> None:
    kind = document.member("mediaType").text()
    if kind != MEDIA_TYPE:
        raise JsonError(f"$.mediaType: {kind[:100]!r} is not {MEDIA_TYPE}")


def _key_material(parent: Value, material: dict[str, Value]) -> tuple[str | None, bytes | None]:
    if ("publicKey" in material) == ("certificate" in material):
        raise JsonError(f"{parent.path}: needs exactly one of publicKey and certificate")
    if "publicKey" in material:
        return material["publicKey"].members({"hint"})["hint"].text(256), None
    return None, material["certificate"].members({"rawBytes"})["rawBytes"].base64()


def _timestamps(data: Value | None) -> tuple[bytes, ...]:
    if data is None:
        return ()
    items = data.members({"rfc3161Timestamps"})["rfc3161Timestamps"].items(MAX_TIMESTAMPS)
    return tuple(one.members({"signedTimestamp"})["signedTimestamp"].base64() for one in items)


def _content(members: dict[str, Value]) -> Content:
    if ("messageSignature" in members) == ("dsseEnvelope" in members):
        raise JsonError("$: needs exactly one of messageSignature and dsseEnvelope")
    if "messageSignature" in members:
        message = members["messageSignature"].members({"signature"}, {"messageDigest"})
        digest = _digest(message["messageDigest"]) if "messageDigest" in message else None
        return MessageSignature(digest, message["signature"].base64())
    envelope = members["dsseEnvelope"].members({"payload", "payloadType", "signatures"})
    [signature] = envelope["signatures"].items(1, 1)
    parts = signature.members({"sig"}, {"keyid"})
    return DsseEnvelope(
        envelope["payloadType"].text(256),
        envelope["payload"].base64(MAX_BUNDLE),
        parts["sig"].base64(),
        parts["keyid"].text(256) if "keyid" in parts else "",
    )


def _digest(value: Value) -> MessageDigest:
    members = value.members({"algorithm", "digest"})
    algorithm, digest = members["algorithm"].text(), members["digest"].base64()
    if algorithm not in _DIGESTS:
        raise JsonError(f"{value.path}.algorithm: must be one of {', '.join(_DIGESTS)}")
    if len(digest) != _DIGESTS[algorithm]:
        raise JsonError(f"{value.path}.digest: a {algorithm} digest has {_DIGESTS[algorithm]} bytes, not {len(digest)}")
    return MessageDigest(algorithm, digest)


def _entry(value: Value) -> LogEntry:
    entry = value.members(
        {"logIndex", "logId", "kindVersion", "inclusionProof", "canonicalizedBody"}, {"integratedTime"}
    )
    # Rekor v2 knows no integrated time; one that is not 0 would be a claim that nobody signed.
    if "integratedTime" in entry and entry["integratedTime"].integer() != 0:
        raise JsonError(f"{value.path}.integratedTime: must be 0")
    kind = entry["kindVersion"].members({"kind", "version"})
    proof = entry["inclusionProof"].members({"logIndex", "rootHash", "treeSize", "hashes", "checkpoint"})
    return LogEntry(
        entry["logIndex"].integer(),
        entry["logId"].members({"keyId"})["keyId"].base64(64),
        kind["kind"].text(64),
        kind["version"].text(64),
        proof["logIndex"].integer(),
        _hash(proof["rootHash"]),
        proof["treeSize"].integer(),
        tuple(_hash(one) for one in proof["hashes"].items(MAX_HASHES)),
        proof["checkpoint"].members({"envelope"})["envelope"].text(65_536),
        entry["canonicalizedBody"].base64(),
    )


def _hash(value: Value) -> bytes:
    data = value.base64(64)
    if len(data) != 32:
        raise JsonError(f"{value.path}: a hash has 32 bytes, not {len(data)}")
    return data
