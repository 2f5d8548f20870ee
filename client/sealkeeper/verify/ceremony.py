"""Ceremony records: how a key version came to be, signed by the version itself and kept in the gateway's audit log.

The record (``sealkeeper-audit/1``) is an entry of the log; its ``details.ceremony`` is a DSSE envelope, whose payload
(``sealkeeper-key-ceremony/1``, RFC 8785) says who made or brought the key, when, where, and what the store says of it.

>>> kept = KeptCeremony.parse(Path("record.json").read_bytes())  # doctest: +SKIP
>>> verify_ceremony(kept.record, kept.proof, public_key=spki, log=NoteVerifier.from_vkey(vkey)).require()
... # doctest: +SKIP
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import rfc8785

from sealkeeper.verify.algorithms import ALGORITHMS, load_public_key, signature_verifies
from sealkeeper.verify.artifact import Artifact
from sealkeeper.verify.audit_record import MAX_RECORD, audit_checkpoint, parse_audit_record
from sealkeeper.verify.dsse import pae
from sealkeeper.verify.errors import StepFailedError, VerifyError
from sealkeeper.verify.merkle import HASH_LENGTH, leaf_hash, verify_inclusion
from sealkeeper.verify.note import Checkpoint, NoteVerifier
from sealkeeper.verify.steps import Step, take_steps
from sealkeeper.verify.strict_json import JsonError, Value

FORMAT = "sealkeeper-key-ceremony/1"
KEPT_FORMAT = "sealkeeper-kept-ceremony/1"
PAYLOAD_TYPE = "application/vnd.sealkeeper.key-ceremony.v1+json"
MAX_KEPT = 512 * 1024
"""Bytes of a kept ceremony."""
_MAX_PROOF = 63
_MAX_CHECKPOINT = 65_536
_MAX_ATTESTATION = 32 * 1024
_MAX_CERTIFICATES = 16
_MAX_CLAIMS = 64
_MAX_TEXT = 4096
_LONGEST = timedelta(minutes=15)
"""From the time in the payload to that of the record: the store signs the one before the gateway writes the other."""
_METHODS = {
    "CREATED": "KeyService/CreateKey",
    "ROTATED": "KeyService/RotateKey",
    "STANDBY_ADDED": "KeyService/AddStandbyVersion",
    "IMPORTED": "KeyImportService/FinishKeyImport",
}
_PAYLOAD_MEMBERS = {
    *("format", "event", "time", "gateway", "keyVersion", "algorithm", "publicKeyFingerprint", "principal"),
    *("provider", "standby", "evidence", "import", "nonce"),
}
_VERSION = re.compile(r"tenants/([a-z0-9-]{1,63})/keys/[a-z0-9-]{1,63}/versions/[1-9][0-9]{0,8}")
_FINGERPRINT = re.compile(r"sha256:([0-9a-f]{64})")
_NONCE = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class LogProof:
    """That an entry is in a log.

    Attributes:
        index: of the entry.
        tree_size: of the tree that the proof is for.
        hashes: the audit path from the leaf up (RFC 6962 section 2.1.1), 32 bytes each.
        checkpoint: the log's of that size, a signed note.
    """

    index: int
    tree_size: int
    hashes: tuple[bytes, ...]
    checkpoint: str


@dataclass(frozen=True, slots=True)
class AttestedBy:
    """A store's signed statement, as far as the record holds it.

    Attributes:
        format: as the vendor names it.
        digest: SHA-256 of the statement, 32 bytes.
        content: the statement; ``None`` where it was too long for the record.
        certificates: that it is signed with, DER, the signer's first; ``None`` as ``content``.
    """

    format: str
    digest: bytes
    content: bytes | None
    certificates: tuple[bytes, ...] | None


@dataclass(frozen=True, slots=True)
class EvidenceThen:
    """What the store said of the private key when the version was made.

    Attributes:
        protection_level: SOFTWARE, HSM or EXTERNAL.
        origin: GENERATED, IMPORTED, or what the gateway writes where the store does not say.
        exportable: ``None`` where the store does not say.
        claims: the store's own words.
        attestation: ``None`` where there is none.
    """

    protection_level: str
    origin: str
    exportable: bool | None
    claims: Mapping[str, str]
    attestation: AttestedBy | None


@dataclass(frozen=True, slots=True)
class ImportedBy:
    """How a private key was brought into the store.

    Attributes:
        name: ``tenants/{tenant}/keyImports/{import}``.
        wrap_method: as in ``WrapMethod``.
        wrapping_key_fingerprint: SHA-256 of its SubjectPublicKeyInfo, 32 bytes.
        wrapped_key_digest: SHA-256 of the wrapped private key, 32 bytes.
        begun_time: when the store offered the wrapping key.
        begun_by: who asked for it.
        attestation: of the wrapping key; ``None`` where there is none.
    """

    name: str
    wrap_method: str
    wrapping_key_fingerprint: bytes
    wrapped_key_digest: bytes
    begun_time: datetime
    begun_by: str
    attestation: AttestedBy | None


@dataclass(frozen=True, slots=True)
class Ceremony:
    """How a key version came to be.

    Attributes:
        event: CREATED, ROTATED, STANDBY_ADDED or IMPORTED.
        time: when.
        gateway: domain of the gateway.
        key_version: ``tenants/{tenant}/keys/{key}/versions/{version}``.
        algorithm: in ``PublicKeyDetails``.
        fingerprint: SHA-256 of the public key's SubjectPublicKeyInfo, 32 bytes.
        tenant: of whoever asked for it.
        subject: who asked for it.
        role: in which role.
        provider: name, scheme, description, region and protectionLevel of the provider, as the record has them.
        standby: it stands by.
        evidence: what the store said of the private key.
        imported: ``None`` unless it was brought into the store.
        nonce: 64 hexadecimal digits.
    """

    event: str
    time: datetime
    gateway: str
    key_version: str
    algorithm: str
    fingerprint: bytes
    tenant: str
    subject: str
    role: str
    provider: Mapping[str, str]
    standby: bool
    evidence: EvidenceThen
    imported: ImportedBy | None
    nonce: str


@dataclass(frozen=True, slots=True)
class CeremonyResult:
    """What came out.

    Attributes:
        verified: every step passed.
        steps: in order; the last one failed where ``verified`` is False.
        ceremony: what the record says; ``None`` unless ``verified``.
        checkpoint: that the record is under; ``None`` unless ``verified``.
        log_verified: the checkpoint's signature was checked against a key of the log.
    """

    verified: bool = False
    steps: tuple[Step, ...] = ()
    ceremony: Ceremony | None = None
    checkpoint: Checkpoint | None = None
    log_verified: bool = False

    def require(self) -> Ceremony:
        """What the record says.

        Raises:
            StepFailedError: a step failed.
        """
        if self.ceremony is None:
            raise StepFailedError(self.steps[-1].name, self.steps[-1].detail)
        return self.ceremony


@dataclass(frozen=True, slots=True)
class KeptCeremony:
    """A record with its proof, as it is kept in a file: all but the keys to check it with.

    Attributes:
        record: the audit record, byte by byte.
        proof: that it is in the log.
    """

    record: bytes = field(repr=False)
    proof: LogProof

    @classmethod
    def parse(cls, data: bytes) -> KeptCeremony:
        """Read the file; nothing is verified.

        Raises:
            JsonError: it is not of the format ``sealkeeper-kept-ceremony/1``.
        """
        names = {"format", "record", "logIndex", "treeSize", "hashes", "checkpoint"}
        members = Value.parse(data, MAX_KEPT).members(names)
        _require_format(members["format"], KEPT_FORMAT)
        proof = LogProof(
            members["logIndex"].integer(),
            members["treeSize"].integer(),
            tuple(one.base64(HASH_LENGTH) for one in members["hashes"].items(_MAX_PROOF)),
            members["checkpoint"].text(_MAX_CHECKPOINT),
        )
        return cls(members["record"].base64(MAX_RECORD), proof)

    def encode(self) -> bytes:
        """The file: JSON with a line for each member."""
        document = {
            "format": KEPT_FORMAT,
            "record": _base64(self.record),
            "logIndex": self.proof.index,
            "treeSize": self.proof.tree_size,
            "hashes": [_base64(one) for one in self.proof.hashes],
            "checkpoint": self.proof.checkpoint,
        }
        return json.dumps(document, indent=2).encode() + b"\n"


def verify_ceremony(
    record: bytes, proof: LogProof, *, public_key: bytes, log: NoteVerifier | None, key_version: str | None = None
) -> CeremonyResult:
    """Verify a ceremony record. A bad record is an answer, never an exception.

    Args:
        record: the audit record.
        proof: that it is in the audit log.
        public_key: the key version's, SubjectPublicKeyInfo DER, from another hand than the record if it can be.
        log: the audit log's verifier key. Without it the record is shown to be in *a* tree, not in the gateway's log;
            ``CeremonyResult.log_verified`` says so.
        key_version: that the record must be of; ``None`` for whichever has the public key.
    """
    run = _Verification(record, proof, public_key, log, key_version)
    steps = take_steps(run.steps())
    return replace(run.result() if steps[-1].passed else CeremonyResult(), steps=steps)


class _Verification:
    """The steps of one verification, and what they have found so far."""

    def __init__(
        self, record: bytes, proof: LogProof, public_key: bytes, log: NoteVerifier | None, key_version: str | None
    ) -> None:
        self._bytes = record
        self._proof = proof
        self._spki = public_key
        self._log = log
        self._wanted = key_version
        self._record: dict[str, Value]
        self._payload: bytes
        self._signature: bytes
        self._key_id: str
        self._ceremony: Ceremony
        self._checkpoint: Checkpoint

    def steps(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Each step's stable name and what it does; later ones rely on what earlier ones have found."""
        yield "record", self._read_record
        yield "envelope", self._read_envelope
        yield "payload", self._read_payload
        yield "public-key", self._compare_public_key
        yield "signature", self._check_signature
        yield "agreement", self._compare_with_record
        yield "evidence", self._check_attestations
        yield "checkpoint", self._check_checkpoint
        yield "inclusion-proof", self._check_inclusion

    def result(self) -> CeremonyResult:
        """After all steps have passed."""
        return CeremonyResult(True, (), self._ceremony, self._checkpoint, self._log is not None)

    def _read_record(self) -> str:
        members = parse_audit_record(self._bytes)
        outcome = members["outcome"].text(64)
        if outcome != "OK":
            raise VerifyError(f"the record is of a call that was refused: {outcome}")
        self._record = members
        return f"{members['method'].text(128)} at {members['time'].time().isoformat()}"

    def _read_envelope(self) -> str:
        envelope = self._record["details"].member("ceremony").members({"payloadType", "payload", "signatures"})
        kind = envelope["payloadType"].text(256)
        if kind != PAYLOAD_TYPE:
            raise VerifyError(f"the envelope holds {kind!r}, not a key ceremony")
        signature = envelope["signatures"].items(1, 1)[0].members({"keyid", "sig"})
        self._payload = envelope["payload"].base64(MAX_RECORD)
        self._key_id = signature["keyid"].text(128)
        self._signature = signature["sig"].base64(MAX_RECORD)
        return f"DSSE envelope of {len(self._payload)} bytes"

    def _read_payload(self) -> str:
        root = Value.parse(self._payload, MAX_RECORD)
        self._ceremony = _ceremony(root)
        try:
            canonical = rfc8785.dumps(root.json)
        except rfc8785.CanonicalizationError:
            canonical = b""
        # One byte string is right: no parser's leniency, no second reading.
        if canonical != self._payload:
            raise VerifyError("the payload is not in the canonical form of RFC 8785")
        return f"{self._ceremony.event} {self._ceremony.key_version}"

    def _compare_public_key(self) -> str:
        found, said = sha256(self._spki).digest(), self._ceremony.fingerprint
        if found != said:
            raise VerifyError(f"the public key is sha256:{found.hex()}; the record is of sha256:{said.hex()}")
        return f"sha256:{found.hex()}"

    def _check_signature(self) -> str:
        algorithm = ALGORITHMS[self._ceremony.algorithm]
        key = load_public_key(algorithm, self._spki)
        if self._key_id != _base64(sha256(self._spki).digest()):
            raise VerifyError("the envelope's keyid is not the hint of the public key")
        signed = pae(PAYLOAD_TYPE, self._payload)
        if algorithm.signs_digest:
            signed = Artifact.from_bytes(signed).digest(algorithm.digest)
        if not signature_verifies(algorithm, key, signed, self._signature):
            raise VerifyError("the signature is not one of the key version: it has not proved to hold its private key")
        return f"{algorithm.name}, by the key version itself"

    def _compare_with_record(self) -> str:
        ceremony, record = self._ceremony, self._record
        version = _VERSION.fullmatch(ceremony.key_version)
        _require_equal("tenant of the key", version[1] if version else "", ceremony.tenant)
        if self._wanted is not None:
            _require_equal("key version", ceremony.key_version, self._wanted)
        _require_equal("key version", ceremony.key_version, record["details"].member("keyVersion").text(256))
        for name in ("tenant", "subject", "role"):
            _require_equal(name, getattr(ceremony, name), record[name].text(_MAX_TEXT))
        _require_equal("method", _METHODS[ceremony.event], record["method"].text(128))
        passed = record["time"].time() - ceremony.time
        if not timedelta() <= passed <= _LONGEST:
            raise VerifyError(f"the ceremony was at {ceremony.time.isoformat()}, not when the record was written")
        return f"of {ceremony.subject} of {ceremony.tenant}, as {ceremony.role}"

    def _check_attestations(self) -> str:
        ceremony = self._ceremony
        if (ceremony.event == "IMPORTED") != (ceremony.imported is not None):
            raise VerifyError(f"a version that was {ceremony.event} says otherwise of an import")
        found = [ceremony.evidence.attestation, ceremony.imported.attestation if ceremony.imported else None]
        for one in found:
            if one is not None and one.content is not None and sha256(one.content).digest() != one.digest:
                raise VerifyError(f"the attestation {one.format!r} is not the one whose digest is in the record")
        count = sum(one is not None for one in found)
        return f"{ceremony.evidence.protection_level}, {ceremony.evidence.origin}, {count} attestations (not checked)"

    def _check_checkpoint(self) -> str:
        checkpoint, found = audit_checkpoint(self._proof.checkpoint, self._ceremony.gateway, self._log)
        if checkpoint.size != self._proof.tree_size:
            raise VerifyError(f"the checkpoint is of {checkpoint.size} entries, the proof of {self._proof.tree_size}")
        self._checkpoint = checkpoint
        return found

    def _check_inclusion(self) -> str:
        proof = self._proof
        leaf = leaf_hash(self._bytes)
        verify_inclusion(leaf, proof.index, proof.tree_size, proof.hashes, self._checkpoint.root_hash)
        return f"entry {proof.index} is in the tree of {proof.tree_size}"


def _ceremony(root: Value) -> Ceremony:
    members = root.members(_PAYLOAD_MEMBERS)
    _require_format(members["format"], FORMAT)
    principal = members["principal"].members({"tenant", "subject", "role"})
    names = {"name", "scheme", "description", "region", "protectionLevel"}
    provider = {name: one.text(_MAX_TEXT) for name, one in members["provider"].members(names).items()}
    return Ceremony(
        event=_one_of(members["event"], _METHODS),
        time=members["time"].time(),
        gateway=members["gateway"].text(256),
        key_version=_matching(members["keyVersion"], _VERSION)[0],
        algorithm=_one_of(members["algorithm"], ALGORITHMS),
        fingerprint=_fingerprint(members["publicKeyFingerprint"]),
        tenant=principal["tenant"].text(64),
        subject=principal["subject"].text(_MAX_TEXT),
        role=principal["role"].text(64),
        provider=provider,
        standby=members["standby"].boolean(),
        evidence=_evidence(members["evidence"]),
        imported=_imported(members["import"]),
        nonce=_matching(members["nonce"], _NONCE)[0],
    )


def _evidence(value: Value) -> EvidenceThen:
    members = value.members({"protectionLevel", "origin", "exportable", "claims", "attestation"})
    claims = members["claims"]
    if not isinstance(claims.json, dict) or len(claims.json) > _MAX_CLAIMS:
        raise JsonError(f"{claims.path}: must be an object of at most {_MAX_CLAIMS} members")
    return EvidenceThen(
        members["protectionLevel"].text(64),
        members["origin"].text(64),
        None if members["exportable"].json is None else members["exportable"].boolean(),
        {name: one.text(_MAX_TEXT) for name, one in claims.members(claims.json.keys()).items()},
        _attestation(members["attestation"]),
    )


def _imported(value: Value) -> ImportedBy | None:
    if value.json is None:
        return None
    names = {"name", "wrapMethod", "wrappingKeyFingerprint", "wrappedKeyDigest", "begunTime", "begunBy", "attestation"}
    members = value.members(names)
    return ImportedBy(
        members["name"].text(256),
        members["wrapMethod"].text(64),
        _fingerprint(members["wrappingKeyFingerprint"]),
        _fingerprint(members["wrappedKeyDigest"]),
        members["begunTime"].time(),
        members["begunBy"].text(_MAX_TEXT),
        _attestation(members["attestation"]),
    )


def _attestation(value: Value) -> AttestedBy | None:
    if value.json is None:
        return None
    members = value.members({"format", "digest", "content", "certificates"})
    content, chain = members["content"], members["certificates"]
    certificates = None
    if chain.json is not None:
        certificates = tuple(one.base64() for one in chain.items(_MAX_CERTIFICATES))
    return AttestedBy(
        members["format"].text(128),
        _fingerprint(members["digest"]),
        None if content.json is None else content.base64(_MAX_ATTESTATION),
        certificates,
    )


def _fingerprint(value: Value) -> bytes:
    return bytes.fromhex(_matching(value, _FINGERPRINT)[1])


def _matching(value: Value, pattern: re.Pattern[str]) -> re.Match[str]:
    match = pattern.fullmatch(value.text(256))
    if match is None:
        raise JsonError(f"{value.path}: is not of the form that it must have")
    return match


def _one_of(value: Value, known: Mapping[str, Any]) -> str:
    text = value.text(64)
    if text not in known:
        raise JsonError(f"{value.path}: {text!r} is not known")
    return text


def _require_format(value: Value, known: str) -> None:
    if value.text(64) != known:
        raise JsonError(f"{value.path}: must be {known!r}")


def _require_equal(what: str, said: str, record: str) -> None:
    if said != record:
        raise VerifyError(f"the {what} is {said!r} in the ceremony, and {record!r} where it should be the same")


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
