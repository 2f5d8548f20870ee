"""Ceremony records as a gateway writes them, by ``cryptography`` and plain JSON alone, and ways to change one place."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from sealkeeper.verify import CeremonyResult, KeptCeremony, LogProof, verify_ceremony
from sealkeeper.verify.note import Checkpoint, NoteVerifier, ed25519_key_id, signature_line
from tests.verify.naive_tree import inclusion_proof, root

VERSION = "tenants/acme/keys/release/versions/1"
KIND = "application/vnd.sealkeeper.key-ceremony.v1+json"
ORIGIN = "audit.sealkeeper.example"
Change = Callable[[Any], None]
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

KEY = ec.derive_private_key(21, ec.SECP256R1())
LOG_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STATEMENT = b"the vendor says so"


def spki(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def sha256_of(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def attestation() -> dict[str, Any]:
    return {
        "format": "VENDOR_V1",
        "digest": sha256_of(STATEMENT),
        "content": b64(STATEMENT),
        "certificates": [b64(b"certificate")],
    }


def payload(key: PrivateKey = KEY) -> dict[str, Any]:
    """Of a key that was imported."""
    curve = isinstance(key, ec.EllipticCurvePrivateKey)
    return {
        "format": "sealkeeper-key-ceremony/1",
        "event": "IMPORTED",
        "time": "2026-11-24T10:00:00.000Z",
        "gateway": "sealkeeper.example",
        "keyVersion": VERSION,
        "algorithm": "PKIX_ECDSA_P256_SHA_256" if curve else "PKIX_ED25519",
        "publicKeyFingerprint": sha256_of(spki(key)),
        "principal": {"tenant": "acme", "subject": "spiffe://acme/custodian", "role": "custodian"},
        "provider": {
            "name": "vault",
            "scheme": "transit",
            "description": "OpenBao at bao.example, mount transit",
            "region": "eu-central",
            "protectionLevel": "SOFTWARE",
        },
        "standby": False,
        "evidence": {
            "protectionLevel": "SOFTWARE",
            "origin": "IMPORTED",
            "exportable": False,
            "claims": {"imported_key": "true", "type": "ecdsa-p256"},
            "attestation": attestation(),
        },
        "import": {
            "name": "tenants/acme/keyImports/i-1",
            "wrapMethod": "RSA_OAEP_SHA256_AES_256_KWP",
            "wrappingKeyFingerprint": "sha256:" + "ab" * 32,
            "wrappedKeyDigest": "sha256:" + "cd" * 32,
            "begunTime": "2026-11-24T09:00:00.000Z",
            "begunBy": "spiffe://acme/custodian",
            "attestation": None,
        },
        "nonce": "0f" * 32,
    }


def canonical(document: Any) -> bytes:
    # What RFC 8785 asks for, of text in ASCII without numbers.
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def pae(kind: str, data: bytes) -> bytes:
    return f"DSSEv1 {len(kind)} {kind} {len(data)} ".encode() + data


def envelope(data: bytes, key: PrivateKey = KEY, kind: str = KIND) -> dict[str, Any]:
    signed = pae(kind, data)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        signature = key.sign(signed)
    else:
        signature = key.sign(signed, ec.ECDSA(hashes.SHA256()))
    signatures = [{"keyid": b64(sha256(spki(key)).digest()), "sig": b64(signature)}]
    return {"payloadType": kind, "payload": b64(data), "signatures": signatures}


def audit_record(sealed: dict[str, Any]) -> dict[str, Any]:
    return {
        "details": {"keyVersion": VERSION, "ceremony": sealed},
        "format": "sealkeeper-audit/1",
        "method": "KeyImportService/FinishKeyImport",
        "outcome": "OK",
        "policy": "roles",
        "policyVersion": "1",
        "requestId": "r1",
        "resource": "tenants/acme/keyImports/i-1",
        "role": "custodian",
        "subject": "spiffe://acme/custodian",
        "tenant": "acme",
        "time": "2026-11-24T10:00:00.250Z",
    }


def log_verifier(name: str = ORIGIN, key: ed25519.Ed25519PrivateKey = LOG_KEY) -> NoteVerifier:
    return NoteVerifier(name, spki(key))


def proof_of(
    record: bytes, *, origin: str = ORIGIN, size: int | None = None, key: ed25519.Ed25519PrivateKey = LOG_KEY
) -> LogProof:
    """In a log of five entries; ``size`` is said by the checkpoint in the place of 5."""
    entries = [b"a", b"b", record, b"c", b"d"]
    text = Checkpoint(origin, size or len(entries), root(entries)).text()
    key_id = ed25519_key_id(origin, key.public_key().public_bytes_raw())
    note = f"{text}\n{signature_line(origin, key_id, key.sign(text.encode()))}"
    return LogProof(2, len(entries), tuple(inclusion_proof(2, entries)), note)


@dataclass(frozen=True)
class Made:
    """A record, changed in one place and whole in all others: what comes after the change is made from it."""

    key: PrivateKey = KEY
    change_payload: Change = field(default=lambda _: None)
    change_envelope: Change = field(default=lambda _: None)
    change_record: Change = field(default=lambda _: None)
    encode: Callable[[Any], bytes] = canonical

    def record(self) -> bytes:
        document = payload(self.key)
        self.change_payload(document)
        sealed = envelope(self.encode(document), self.key)
        self.change_envelope(sealed)
        record = audit_record(sealed)
        self.change_record(record)
        return json.dumps(record, separators=(",", ":")).encode()

    def kept(self) -> KeptCeremony:
        record = self.record()
        return KeptCeremony(record, proof_of(record))

    def verify(self, key_version: str | None = VERSION) -> CeremonyResult:
        kept = self.kept()
        return verify_ceremony(
            kept.record, kept.proof, public_key=spki(self.key), log=log_verifier(), key_version=key_version
        )
