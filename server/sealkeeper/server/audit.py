"""Audit records: who asked for what, what was decided by which policy, and what came of it.

Every call leaves one, refusals too. Records are JSON with sorted names, in the audit log. They name artifacts and
digests, which are the tenant's own; they hold no signature, no content and no secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from sealkeeper.server.clock import rfc3339

FORMAT = "sealkeeper-audit/1"
OK = "OK"
_MAX_RECORD = 65_535
_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One record.

    Attributes:
        time: of the decision, UTC.
        method: gRPC method, ``SigningService/Sign``, or what the gateway did by itself, ``Gateway/DestroyKeyVersion``.
        tenant: the caller's; empty where nobody was authenticated.
        subject: the caller.
        role: the caller's.
        resource: what it was about; empty where that could not be read.
        outcome: OK, or the reason of the refusal.
        policy: which policy decided; empty where none was asked.
        policy_version: of that policy.
        request_id: the caller's, empty where there is none.
        details: more, as the method has it.
    """

    time: datetime
    method: str
    tenant: str = ""
    subject: str = ""
    role: str = ""
    resource: str = ""
    outcome: str = OK
    policy: str = ""
    policy_version: str = ""
    request_id: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The record as a log entry, at most 65,535 bytes: details that do not fit are left out, and that is said."""
        document = {
            "format": FORMAT,
            "time": rfc3339(self.time),
            "method": self.method,
            "tenant": self.tenant,
            "subject": self.subject,
            "role": self.role,
            "resource": self.resource,
            "outcome": self.outcome,
            "policy": self.policy,
            "policyVersion": self.policy_version,
            "requestId": self.request_id,
            "details": self.details,
        }
        data = _encode(document)
        if len(data) > _MAX_RECORD:
            document["details"] = {"omitted": "too long"}
            data = _encode(document)
        return data


def tenant_of(record: bytes) -> str:
    """Whose record it is; empty where it is nobody's or cannot be read."""
    try:
        tenant = msgspec.json.decode(record)["tenant"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""
    return tenant if isinstance(tenant, str) else ""
