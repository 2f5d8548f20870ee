"""Audit records: who asked for what, what was decided by which policy, and what came of it.

Every call leaves one, refusals too. Records are JSON with sorted names, in the audit log. They name artifacts and
digests, which are the tenant's own; they hold no signature, no content and no secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec

from sealkeeper.server.clock import rfc3339
from sealkeeper.server.identity import Method, Principal, Role

FORMAT = "sealkeeper-audit/1"
OK = "OK"
_MAX_RECORD = 65_535
_OMITTED = {"omitted": "too long"}
_encode = msgspec.json.Encoder(order="deterministic").encode


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    """The record as JSON has it; in the order of the names."""

    action: str
    address: str
    caller: Mapping[str, Any]
    details: Mapping[str, Any]
    format: str
    method: str
    outcome: str
    policy: str
    policy_version: str
    request_id: str
    resource: str
    role: str
    subject: str
    tenant: str
    time: str


class AuditRecord(msgspec.Struct, frozen=True):
    """One record.

    Attributes:
        time: of the decision, UTC.
        method: gRPC method, ``SigningService/Sign``, or what the gateway did by itself, ``Gateway/DestroyKeyVersion``;
            ``Unknown`` where there is no such method, and then ``details`` have the ``path`` that was asked for.
        tenant: the caller's; empty where nobody was authenticated.
        subject: the caller.
        role: the caller's.
        resource: what it was about; empty where that could not be read.
        outcome: OK, or the reason of the refusal.
        policy: which policy decided; empty where none was asked.
        policy_version: of that policy.
        request_id: the caller's, empty where there is none.
        details: more, as the method has it; of a refused call ``refusal``, what the caller was told, and of a bad
            request ``fields``, which of its fields are wrong.
        action: that was asked for, as policies name it; empty where the call did not come that far.
        address: IP address that the call came from.
        caller: what else is known of the caller, as ``caller_document`` has it: with the action and the resource, it is
            all that a policy decides by.
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
    details: Mapping[str, Any] = {}
    action: str = ""
    address: str = ""
    caller: Mapping[str, Any] = {}

    def encode(self) -> bytes:
        """The record as a log entry, at most 65,535 bytes: details that do not fit are left out, and that is said."""
        data = _encode(self._document(self.details))
        return data if len(data) <= _MAX_RECORD else _encode(self._document(_OMITTED))

    def _document(self, details: Mapping[str, Any]) -> _Document:
        return _Document(
            self.action,
            self.address,
            self.caller,
            details,
            FORMAT,
            self.method,
            self.outcome,
            self.policy,
            self.policy_version,
            self.request_id,
            self.resource,
            self.role,
            self.subject,
            self.tenant,
            rfc3339(self.time),
        )


@lru_cache(maxsize=4096)
def caller_document(principal: Principal) -> Mapping[str, Any]:
    """What policies know of a caller beside subject, tenant and role. Not to be changed."""
    document = {
        "method": principal.method,
        "person": principal.person,
        "issuer": principal.issuer,
        "attributes": dict(principal.attributes),
        "hardware": principal.hardware,
        "acr": principal.acr,
        "amr": list(principal.amr),
    }
    return {name: value for name, value in document.items() if value}


def recorded_caller(
    tenant: str, subject: str, role: str, document: Mapping[str, Any], certificate: bytes = b""
) -> Principal:
    """A caller of before, with what ``caller_document`` keeps."""
    return Principal(
        tenant,
        subject,
        Role(role),
        None,
        Method(document.get("method", Method.CERTIFICATE)),
        document.get("person", ""),
        document.get("issuer", ""),
        tuple(sorted(document.get("attributes", {}).items())),
        document.get("hardware", False),
        document.get("acr", ""),
        tuple(document.get("amr", ())),
        certificate,
    )


def tenant_of(record: bytes) -> str:
    """Whose record it is; empty where it is nobody's or cannot be read."""
    try:
        tenant = msgspec.json.decode(record)["tenant"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""
    return tenant if isinstance(tenant, str) else ""
