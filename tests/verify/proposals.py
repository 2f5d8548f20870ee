"""Proposals with their evidence as a gateway has them, by ``cryptography`` and plain JSON, to change a place of."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sealkeeper.verify.kept_proposal import KeptApproval, KeptProposal, KeptRecord
from sealkeeper.verify.known_people import KnownPeople
from sealkeeper.verify.note import Checkpoint, NoteVerifier, ed25519_key_id, signature_line
from sealkeeper.verify.proposal_evidence import ProposalResult, verify_proposal
from tests.verify.naive_tree import inclusion_proof, root

GATEWAY = "sealkeeper.example"
PROPOSAL = "tenants/acme/proposals/p-1"
VERSION = "tenants/acme/keys/release/versions/1"
KIND = "application/vnd.sealkeeper.approval.v1+json"
ORIGIN = f"audit.{GATEWAY}"
START = datetime(2026, 11, 24, 10, tzinfo=UTC)
END = START + timedelta(days=7)
LOG_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(64, 96)))
OTHER_LOG_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
CA_KEY, OTHER_CA_KEY = ec.derive_private_key(41, ec.SECP256R1()), ec.derive_private_key(42, ec.SECP256R1())
SECOND, THIRD, STRANGER = (ec.derive_private_key(number, ec.SECP256R1()) for number in (51, 52, 53))
Change = Callable[[Any], None]


def nothing(_: Any) -> None:
    """Change nothing."""


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def canonical(document: Any) -> bytes:
    # What RFC 8785 asks for, where names are in ASCII and numbers small and whole.
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def spki(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def identity(name: str, role: str = "custodian", tenant: str = "acme", gateway: str = GATEWAY) -> str:
    return f"spiffe://{gateway}/tenants/{tenant}/roles/{role}/{name}"


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)


def authority(key: ec.EllipticCurvePrivateKey = CA_KEY) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "people")])
    dates = (START - timedelta(days=400), START + timedelta(days=400))
    return (
        x509.CertificateBuilder(name, name, key.public_key(), 7, *dates)
        .add_extension(x509.BasicConstraints(True, 0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def certificate(
    key: ec.EllipticCurvePrivateKey,
    uri: str,
    *,
    issuer: ec.EllipticCurvePrivateKey = CA_KEY,
    start: datetime = START - timedelta(days=1),
    end: datetime = END + timedelta(days=1),
    usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    ca: bool = False,
) -> bytes:
    """DER, as the gateway's own CA makes them."""
    issued_by = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "people")])
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())
    made = (
        x509.CertificateBuilder(issued_by, x509.Name([]), key.public_key(), 9, start, end)
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(_usage(ca=ca), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
        .add_extension(identifier, critical=False)
        .sign(issuer, hashes.SHA256())
    )
    return made.public_bytes(Encoding.DER)


def content(**other: Any) -> dict[str, Any]:
    return {
        "format": "sealkeeper-proposal/1",
        "gateway": GATEWAY,
        "proposal": PROPOSAL,
        "action": "DestroyKeyVersion",
        "resource": VERSION,
        "parameters": {"destroyDelaySeconds": 604800, "etag": "e1"},
        "proposer": {"subject": identity("first"), "person": "first", "role": "custodian"},
        "reason": "it was replaced",
        "required": 2,
        "createTime": stamp(START),
        "expireTime": stamp(END),
        **other,
    }


def statement(of: bytes, decision: str = "APPROVE", moment: datetime = START + timedelta(hours=1)) -> dict[str, Any]:
    return {
        "format": "sealkeeper-approval/1",
        "gateway": GATEWAY,
        "proposal": PROPOSAL,
        "contentDigest": f"sha256:{sha256(of).hexdigest()}",
        "decision": decision,
        "reason": "",
        "time": stamp(moment),
    }


def envelope(payload: bytes, key: ec.EllipticCurvePrivateKey, kind: str = KIND) -> bytes:
    signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    signature = {"keyid": sha256(spki(key)).hexdigest(), "sig": b64(key.sign(signed, ec.ECDSA(hashes.SHA256())))}
    return json.dumps({"payloadType": kind, "payload": b64(payload), "signatures": [signature]}).encode()


@dataclass
class Said:
    """A statement of somebody, by certificate unless ``material`` is a public key."""

    key: ec.EllipticCurvePrivateKey
    name: str
    decision: str = "APPROVE"
    moment: datetime = START + timedelta(hours=1)
    recorded: datetime | None = None
    material: bytes | None = None
    certified: bool = True
    subject: str | None = None
    person: str | None = None
    change: Change = nothing
    sealed: bytes = b""

    def seal(self, of: bytes) -> KeptApproval:
        document = statement(of, self.decision, self.moment)
        self.change(document)
        self.sealed = self.sealed or envelope(canonical(document), self.key)
        if self.material is None:
            self.material = certificate(self.key, identity(self.name)) if self.certified else spki(self.key)
        return KeptApproval(self.sealed, self.material, self.certified)

    def record(self, of: bytes) -> dict[str, Any]:
        kept = self.seal(of)
        details = {
            "proposal": PROPOSAL,
            "contentDigest": f"sha256:{sha256(of).hexdigest()}",
            "decision": self.decision,
            "statement": b64(kept.statement),
            "material": b64(kept.material),
            "certificate": kept.certificate,
        }
        subject = self.subject or identity(self.name)
        moment = self.recorded or self.moment + timedelta(seconds=1)
        person = self.name if self.person is None else self.person
        return audit_record("ApprovalService/DecideProposal", details, subject=subject, person=person, moment=moment)


def audit_record(
    method: str,
    details: dict[str, Any],
    *,
    subject: str = "",
    person: str = "",
    outcome: str = "OK",
    moment: datetime = START + timedelta(hours=2),
) -> dict[str, Any]:
    return {
        "action": "",
        "address": "127.0.0.1",
        "caller": {"method": "certificate", "person": person} if person else {},
        "details": details,
        "format": "sealkeeper-audit/1",
        "method": method,
        "outcome": outcome,
        "policy": "",
        "policyVersion": "",
        "requestId": "",
        "resource": PROPOSAL,
        "role": "custodian",
        "subject": subject,
        "tenant": "acme",
        "time": stamp(moment),
    }


def withdrawal(what: str, name: str) -> dict[str, Any]:
    details = {"proposal": PROPOSAL, "withdrawn": what}
    return audit_record("ApprovalService/WithdrawProposal", details, subject=identity(name), person=name)


def execution(of: bytes, document: dict[str, Any]) -> dict[str, Any]:
    details = {"proposal": PROPOSAL, "contentDigest": f"sha256:{sha256(of).hexdigest()}"}
    record = audit_record("Gateway/ExecuteProposal", details, subject=document["proposer"]["subject"])
    return {**record, "action": document["action"], "resource": document["resource"]}


def two_approvals() -> list[Said]:
    return [Said(SECOND, "second"), Said(THIRD, "third")]


def people() -> KnownPeople:
    return KnownPeople.read([authority().public_bytes(Encoding.PEM)], [])


def log_verifier(name: str = ORIGIN, key: ed25519.Ed25519PrivateKey = LOG_KEY) -> NoteVerifier:
    return NoteVerifier(name, spki(key))


@dataclass
class Made:
    """A proposal, changed in one place and whole in all others: what comes after the change is made from it.

    Attributes:
        change_records: of the documents of the records: proposing, what was said, what was done.
    """

    content: dict[str, Any] = field(default_factory=content)
    said: list[Said] = field(default_factory=two_approvals)
    change_records: Change = nothing
    origin: str = ORIGIN
    log_key: ed25519.Ed25519PrivateKey = LOG_KEY

    def records(self) -> list[dict[str, Any]]:
        data = canonical(self.content)
        proposer = self.content["proposer"]
        digest = f"sha256:{sha256(data).hexdigest()}"
        proposing = audit_record(
            "KeyService/SetKeyVersionState",
            {"proposal": PROPOSAL, "contentDigest": digest, "content": self.content},
            subject=proposer["subject"],
            person=proposer["person"],
            outcome="APPROVAL_REQUIRED",
            moment=START,
        )
        found = [proposing, *(one.record(data) for one in self.said), execution(data, self.content)]
        self.change_records(found)
        return found

    def kept(self) -> KeptProposal:
        data = canonical(self.content)
        records = [json.dumps(one).encode() for one in self.records()]
        entries = [b"before", *records, b"after"]
        text = Checkpoint(self.origin, len(entries), root(entries)).text()
        key_id = ed25519_key_id(self.origin, self.log_key.public_key().public_bytes_raw())
        note = f"{text}\n{signature_line(self.origin, key_id, self.log_key.sign(text.encode()))}"
        kept = tuple(
            KeptRecord(place, one, tuple(inclusion_proof(place, entries)), len(entries))
            for place, one in enumerate(records, 1)
        )
        return KeptProposal(data, tuple(one.seal(data) for one in self.said), kept, note)

    def verify(self, known: KnownPeople | None = None) -> ProposalResult:
        return verify_proposal(self.kept(), people=known or people(), log=log_verifier())
