"""Records of the gateway's audit log (``sealkeeper-audit/1``), as entries of it have them, and its checkpoints."""

from __future__ import annotations

from sealkeeper.verify.errors import VerifyError
from sealkeeper.verify.note import Checkpoint, NoteVerifier, parse_checkpoint, parse_signed_note
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


def audit_checkpoint(text: str, gateway: str, log: NoteVerifier | None) -> tuple[Checkpoint, str]:
    """A checkpoint of a gateway's audit log, and what was found of it, for a person.

    Args:
        text: the signed note.
        gateway: domain of the gateway.
        log: the log's verifier key; where there is none, the signature is not checked, and what was found says so.

    Raises:
        VerifyError: it is malformed, not signed with the log's key, or the checkpoint or the key is of another log.
    """
    note = parse_signed_note(text)
    checkpoint = parse_checkpoint(note.text)
    origin = f"audit.{gateway}"
    if log is not None:
        log.verify(note)
        if log.name != origin:
            raise VerifyError(f"the log's key is that of {log.name!r}; the record belongs in {origin!r}")
    if checkpoint.origin != origin:
        raise VerifyError(f"the checkpoint is of {checkpoint.origin!r}; the record belongs in {origin!r}")
    signed = "signature checked" if log is not None else "signature NOT checked: no key of the log was given"
    return checkpoint, f"{checkpoint.origin} at size {checkpoint.size}, {signed}"
