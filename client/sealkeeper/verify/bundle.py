"""Sigstore bundles v0.1 to v0.3 (sigstore/protobuf-specs, ``sigstore_bundle.proto``), parsed strictly from JSON.

Sizes and counts are bounded, unknown members are refused; what protobuf's JSON leaves out because it is 0 or empty may
be left out. Nothing is verified here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from sealkeeper.verify.errors import MalformedBundleError
from sealkeeper.verify.strict_json import JsonError, Value

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MEDIA_TYPES = {
    "application/vnd.dev.sigstore.bundle+json;version=0.1": "0.1",
    "application/vnd.dev.sigstore.bundle+json;version=0.2": "0.2",
    "application/vnd.dev.sigstore.bundle+json;version=0.3": "0.3",
    MEDIA_TYPE: "0.3",
}
"""Version of the format, by media type."""

MAX_BUNDLE = 24 * 1024 * 1024
"""Most bytes of a bundle: there are attestations of 16 MiB, which base64 makes a third longer."""

MAX_SENT_BUNDLE = 8 * 1024 * 1024
"""Most bytes of a bundle that a gateway is asked to verify."""

MAX_ENTRIES = 32
MAX_TIMESTAMPS = 32
MAX_HASHES = 64
MAX_CERTIFICATES = 10
REKOR_V2 = ("hashedrekord", "0.0.2")
"""Kind and version of Rekor v2's entries, which have neither an integrated time nor a promise."""

_DIGESTS = {"SHA2_256": 32, "SHA2_384": 48, "SHA2_512": 64}
# The last second that a datetime can say.
_MAX_TIME = 253_402_300_799


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
class InclusionProof:
    """That an entry is in a tree; hashes are 32 bytes each, ``checkpoint`` is a signed note or ``None`` (v0.1 only)."""

    log_index: int
    root_hash: bytes
    tree_size: int
    hashes: tuple[bytes, ...]
    checkpoint: str | None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A transparency log entry.

    Attributes:
        log_index: over all of the log's shards; in Rekor v1 not that of the proof.
        log_id: of the log, untruncated.
        kind: of the body.
        version: of the kind.
        integrated_time: Unix time that Rekor v1 says it took the entry in, 0 for none; only a promise vouches for it.
        promise: Rekor v1's signed entry timestamp (SET).
        proof: of inclusion; ``None`` in v0.1 only.
        body: as it was logged.
    """

    log_index: int
    log_id: bytes
    kind: str
    version: str
    integrated_time: int
    promise: bytes | None
    proof: InclusionProof | None
    body: bytes

    @property
    def is_rekor_v2(self) -> bool:
        """Whether it is one of Rekor v2; else it is taken for one of v1."""
        return (self.kind, self.version) == REKOR_V2


Content: TypeAlias = MessageSignature | DsseEnvelope


@dataclass(frozen=True, slots=True)
class Bundle:
    """A parsed bundle.

    Attributes:
        version: of the format: 0.1, 0.2 or 0.3.
        hint: at a public key, unauthenticated; ``None`` where there is a certificate.
        certificate: the signer's, DER; ``None`` where there is a hint. Others of a chain are nothing to go by.
        entries: of transparency logs.
        timestamps: RFC 3161 TimeStampResp, DER.
        content: what was signed, and the signature.
    """

    version: str
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
        version = _version(document)
        members = document.members({"mediaType", "verificationMaterial"}, {"messageSignature", "dsseEnvelope"})
        material = members["verificationMaterial"].members(
            {"tlogEntries"}, {"publicKey", _CERTIFICATE[version], "timestampVerificationData"}
        )
        return Bundle(
            version,
            *_key_material(members["verificationMaterial"].path, material),
            tuple(_entry(one, version) for one in material["tlogEntries"].items(MAX_ENTRIES)),
            _timestamps(material.get("timestampVerificationData")),
            _content(members),
        )
    except JsonError as error:
        raise MalformedBundleError(str(error)) from None


_CERTIFICATE = {"0.1": "x509CertificateChain", "0.2": "x509CertificateChain", "0.3": "certificate"}


def _version(document: Value) -> str:
    kind = document.member("mediaType").text()
    if kind not in MEDIA_TYPES:
        raise JsonError(f"$.mediaType: {kind[:100]!r} is not that of a Sigstore bundle v0.1, v0.2 or v0.3")
    return MEDIA_TYPES[kind]


def _key_material(path: str, material: dict[str, Value]) -> tuple[str | None, bytes | None]:
    found = [name for name in ("publicKey", "certificate", "x509CertificateChain") if name in material]
    if len(found) != 1:
        raise JsonError(f"{path}: needs exactly one of publicKey and certificate")
    value = material[found[0]]
    if found == ["publicKey"]:
        return value.members({"hint"})["hint"].text(256), None
    if found == ["certificate"]:
        return None, _raw_bytes(value)
    leaf, *_ = [_raw_bytes(one) for one in value.members({"certificates"})["certificates"].items(MAX_CERTIFICATES, 1)]
    return None, leaf


def _raw_bytes(value: Value) -> bytes:
    return value.members({"rawBytes"})["rawBytes"].base64()


def _timestamps(data: Value | None) -> tuple[bytes, ...]:
    if data is None:
        return ()
    members = data.members(set(), {"rfc3161Timestamps"})
    items = members["rfc3161Timestamps"].items(MAX_TIMESTAMPS) if members else []
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


def _entry(value: Value, version: str) -> LogEntry:
    members = value.members(
        {"logId", "kindVersion", "canonicalizedBody"},
        {"logIndex", "integratedTime", "inclusionPromise", "inclusionProof"},
    )
    kind = members["kindVersion"].members({"kind", "version"})
    entry = LogEntry(
        _integer(members.get("logIndex")),
        members["logId"].members({"keyId"})["keyId"].base64(64),
        kind["kind"].text(64),
        kind["version"].text(64),
        _integer(members.get("integratedTime")),
        _promise(members.get("inclusionPromise")),
        _proof(members["inclusionProof"]) if "inclusionProof" in members else None,
        members["canonicalizedBody"].base64(),
    )
    _require_evidence(entry, value.path, version)
    return entry


def _require_evidence(entry: LogEntry, path: str, version: str) -> None:
    if entry.integrated_time > _MAX_TIME:
        raise JsonError(f"{path}.integratedTime: must be at most {_MAX_TIME}")
    # Rekor v2 knows neither; a time that is not 0 would be a claim that nobody signed.
    if entry.is_rekor_v2 and entry.integrated_time != 0:
        raise JsonError(f"{path}.integratedTime: must be 0")
    if entry.is_rekor_v2 and entry.promise is not None:
        raise JsonError(f"{path}: an entry of Rekor v2 has no inclusionPromise")
    if version == "0.1" and entry.promise is None:
        raise JsonError(f"{path}: inclusionPromise is missing")
    if version != "0.1" and entry.proof is None:
        raise JsonError(f"{path}: inclusionProof is missing")
    if version != "0.1" and entry.proof is not None and entry.proof.checkpoint is None:
        raise JsonError(f"{path}.inclusionProof: checkpoint is missing")


def _integer(value: Value | None) -> int:
    return value.integer() if value is not None else 0


def _promise(value: Value | None) -> bytes | None:
    if value is None:
        return None
    return value.members({"signedEntryTimestamp"})["signedEntryTimestamp"].base64(4096)


def _proof(value: Value) -> InclusionProof:
    members = value.members({"rootHash", "treeSize"}, {"logIndex", "hashes", "checkpoint"})
    checkpoint = members["checkpoint"].members({"envelope"})["envelope"] if "checkpoint" in members else None
    return InclusionProof(
        _integer(members.get("logIndex")),
        _hash(members["rootHash"]),
        members["treeSize"].integer(),
        tuple(_hash(one) for one in members["hashes"].items(MAX_HASHES)) if "hashes" in members else (),
        checkpoint.text(65_536) if checkpoint is not None else None,
    )


def _hash(value: Value) -> bytes:
    data = value.base64(64)
    if len(data) != 32:
        raise JsonError(f"{value.path}: a hash has 32 bytes, not {len(data)}")
    return data
