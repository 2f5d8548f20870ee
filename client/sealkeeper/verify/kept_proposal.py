"""A proposal with what approvers said and its records in the audit log, as it is kept in a file.

The file (``sealkeeper-kept-proposal/1``) has everything that ``verify_proposal`` looks at, but not whom to believe.
"""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any

from sealkeeper.verify.approval import MAX_CONTENT, MAX_ENVELOPE
from sealkeeper.verify.audit_record import MAX_RECORD
from sealkeeper.verify.merkle import HASH_LENGTH
from sealkeeper.verify.strict_json import JsonError, Value

KEPT_FORMAT = "sealkeeper-kept-proposal/1"
MAX_KEPT = 24 * 1024 * 1024
"""Bytes of a kept proposal."""
MAX_APPROVALS = 200
"""Statements of a proposal, withdrawn ones as well."""
MAX_RECORDS = 200
"""Audit records of a proposal."""
_MAX_MATERIAL = 64 * 1024
_MAX_PROOF = 63
_MAX_CHECKPOINT = 65_536


@dataclass(frozen=True, slots=True)
class KeptApproval:
    """What an approver said.

    Attributes:
        statement: DSSE envelope, JSON.
        material: the signer's certificate or public key, DER.
        certificate: True where ``material`` is a certificate.
    """

    statement: bytes
    material: bytes
    certificate: bool


@dataclass(frozen=True, slots=True)
class KeptRecord:
    """An audit record and the proof that it is in the log.

    Attributes:
        index: of the entry.
        record: JSON, byte by byte.
        hashes: the audit path from the leaf up (RFC 6962 section 2.1.1), 32 bytes each.
        tree_size: of the tree that it leads to: the checkpoint's.
    """

    index: int
    record: bytes = field(repr=False)
    hashes: tuple[bytes, ...]
    tree_size: int


@dataclass(frozen=True, slots=True)
class KeptProposal:
    """All but the keys to check it with.

    Attributes:
        content: what is to be done, canonical JSON.
        approvals: what approvers said, withdrawn ones as well.
        records: of the proposal, in the order of the log.
        checkpoint: the audit log's, a signed note.
    """

    content: bytes = field(repr=False)
    approvals: tuple[KeptApproval, ...]
    records: tuple[KeptRecord, ...]
    checkpoint: str

    @classmethod
    def parse(cls, data: bytes) -> KeptProposal:
        """Read the file; nothing is verified.

        Raises:
            JsonError: it is not of the format ``sealkeeper-kept-proposal/1``.
        """
        root = Value.parse(data, MAX_KEPT, MAX_RECORDS * 80)
        members = root.members({"format", "content", "approvals", "records", "checkpoint"})
        if members["format"].text(64) != KEPT_FORMAT:
            raise JsonError(f"$.format: must be {KEPT_FORMAT!r}")
        return cls(
            members["content"].base64(MAX_CONTENT),
            tuple(_approval(one) for one in members["approvals"].items(MAX_APPROVALS)),
            tuple(_record(one) for one in members["records"].items(MAX_RECORDS)),
            members["checkpoint"].text(_MAX_CHECKPOINT),
        )

    def encode(self) -> bytes:
        """The file: JSON with a line for each member."""
        document = {
            "format": KEPT_FORMAT,
            "content": _base64(self.content),
            "approvals": [
                {
                    "statement": _base64(one.statement),
                    "material": _base64(one.material),
                    "certificate": one.certificate,
                }
                for one in self.approvals
            ],
            "records": [_record_document(one) for one in self.records],
            "checkpoint": self.checkpoint,
        }
        return json.dumps(document, indent=2).encode() + b"\n"


def _approval(value: Value) -> KeptApproval:
    members = value.members({"statement", "material", "certificate"})
    return KeptApproval(
        members["statement"].base64(MAX_ENVELOPE),
        members["material"].base64(_MAX_MATERIAL),
        members["certificate"].boolean(),
    )


def _record(value: Value) -> KeptRecord:
    members = value.members({"logIndex", "record", "hashes", "treeSize"})
    return KeptRecord(
        members["logIndex"].integer(),
        members["record"].base64(MAX_RECORD),
        tuple(one.base64(HASH_LENGTH) for one in members["hashes"].items(_MAX_PROOF)),
        members["treeSize"].integer(),
    )


def _record_document(one: KeptRecord) -> dict[str, Any]:
    return {
        "logIndex": one.index,
        "record": _base64(one.record),
        "hashes": [_base64(each) for each in one.hashes],
        "treeSize": one.tree_size,
    }


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
