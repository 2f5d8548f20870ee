"""A gate's policy and exceptions, signed: what a gate decides by while it cannot ask the gateway.

The DSSE payload, of type ``PAYLOAD_TYPE``, has ``gate``, ``version``, ``policy`` (its text), ``exceptions``,
``issuedAt`` and ``expiresAt``. It is signed with the policy's ``verdict_key``, which whoever uses a snapshot pins: any
other key of the tenant could be a build's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sealkeeper.verify.errors import GatePolicyError, VerifyError
from sealkeeper.verify.gate.exceptions import GateException
from sealkeeper.verify.gate.patterns import Pattern
from sealkeeper.verify.gate.policy import GatePolicy, parse_policy
from sealkeeper.verify.strict_json import JsonError, Value
from sealkeeper.verify.trust import TrustRoot
from sealkeeper.verify.verifier import Policy, verify

PAYLOAD_TYPE = "application/vnd.sealkeeper.gate+json"
MAX_EXCEPTIONS = 1000
_MAX_SNAPSHOT = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a gate decides by.

    Attributes:
        gate: ``tenants/{tenant}/gates/{gate}``.
        version: of the policy.
        policy: checked.
        exceptions: in force when it was made, or to come.
        issued: when it was made.
        expires: it decides nothing any more.
    """

    gate: str
    version: int
    policy: GatePolicy
    exceptions: tuple[GateException, ...]
    issued: datetime
    expires: datetime

    @property
    def policy_name(self) -> str:
        """``tenants/{tenant}/gates/{gate}/versions/{version}``."""
        return f"{self.gate}/versions/{self.version}"


def encode_snapshot(
    gate: str, version: int, policy: bytes, exceptions: Sequence[GateException], issued: datetime, expires: datetime
) -> bytes:
    """The payload that is signed; the same bytes for the same input."""
    document = {
        "gate": gate,
        "version": version,
        "policy": policy.decode(),
        "exceptions": [_exception_document(one) for one in exceptions],
        "issuedAt": issued.isoformat(),
        "expiresAt": expires.isoformat(),
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def verify_snapshot(
    bundle: bytes, trust: TrustRoot, gate: str, verdict_key: str, now: datetime, held: Snapshot | None = None
) -> Snapshot:
    """Verify a snapshot, and read it.

    Args:
        bundle: its JSON.
        trust: what is trusted.
        gate: that it must be of.
        verdict_key: ``tenants/{tenant}/keys/{key}`` that must have signed it.
        now: UTC.
        held: the one that it would take the place of: what was signed once stays signed, a laxer policy too.

    Raises:
        VerifyError: it does not verify, is of another gate, has expired, or is older than the one that is held.
    """
    result = verify(bundle, None, trust, Policy(key=verdict_key)).require()
    if result.payload_type != PAYLOAD_TYPE:
        raise VerifyError(f"the bundle holds {result.payload_type[:100]!r}, not the snapshot of a gate")
    snapshot = parse_snapshot(result.payload)
    if snapshot.gate != gate:
        raise VerifyError(f"the snapshot is of {snapshot.gate}, not of {gate}")
    if snapshot.policy.verdict_key.partition("/versions/")[0] != verdict_key.partition("/versions/")[0]:
        raise VerifyError(f"the snapshot's policy names another verdict_key than {verdict_key}")
    if not snapshot.issued <= now < snapshot.expires:
        raise VerifyError(f"the snapshot is good from {snapshot.issued.isoformat()} to {snapshot.expires.isoformat()}")
    if held is not None and (snapshot.version < held.version or snapshot.issued < held.issued):
        raise VerifyError(
            f"the snapshot, version {snapshot.version} of {snapshot.issued.isoformat()}, is older than the one that is "
            f"held, version {held.version} of {held.issued.isoformat()}"
        )
    return snapshot


def parse_snapshot(payload: bytes) -> Snapshot:
    """Read a snapshot that was verified, or came from the gateway itself.

    Raises:
        VerifyError: it is none.
    """
    try:
        members = Value.parse(payload, _MAX_SNAPSHOT, max_values=20_000).members(
            {"gate", "version", "policy", "exceptions", "issuedAt", "expiresAt"}
        )
        return Snapshot(
            members["gate"].text(200),
            members["version"].integer(),
            parse_policy(members["policy"].text(1024 * 1024).encode()),
            tuple(_exception(one) for one in members["exceptions"].items(MAX_EXCEPTIONS)),
            members["issuedAt"].time(),
            members["expiresAt"].time(),
        )
    except (JsonError, GatePolicyError) as error:
        raise VerifyError(f"the snapshot is not one: {error}") from None


def _exception_document(one: GateException) -> dict[str, Any]:
    return {
        "name": one.name,
        "digest": one.digest,
        "pattern": one.pattern.text if one.pattern is not None else "",
        "environment": one.environment,
        "reason": one.reason,
        "from": one.start.isoformat(),
        "until": one.end.isoformat(),
    }


def _exception(value: Value) -> GateException:
    members = value.members({"name", "digest", "pattern", "environment", "reason", "from", "until"})
    pattern = members["pattern"].text(512)
    return GateException(
        members["name"].text(300),
        members["digest"].text(200),
        Pattern(pattern) if pattern else None,
        members["environment"].text(63),
        members["reason"].text(1024),
        members["from"].time(),
        members["until"].time(),
    )
