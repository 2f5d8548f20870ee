"""Records of the gateway's audit log (``sealkeeper-audit/1``), as entries of it have them."""

from __future__ import annotations

from sealkeeper.verify.strict_json import JsonError, Value

AUDIT_FORMAT = "sealkeeper-audit/1"
MAX_RECORD = 65_535
"""Bytes of an audit record."""
_MEMBERS = {
    *("details", "format", "method", "outcome", "policy", "policyVersion"),
    *("requestId", "resource", "role", "subject", "tenant", "time"),
}
_LATER = {"action", "address", "caller"}
"""Records of older gateways do not have them."""


def parse_audit_record(record: bytes) -> dict[str, Value]:
    """The members of an audit record.

    Raises:
        JsonError: it is none; the text names the member.
    """
    members = Value.parse(record, MAX_RECORD).members(_MEMBERS, _LATER)
    if members["format"].text(64) != AUDIT_FORMAT:
        raise JsonError(f"$.format: must be {AUDIT_FORMAT!r}")
    return members
