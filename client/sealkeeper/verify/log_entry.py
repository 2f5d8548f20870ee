"""What a transparency log says about an entry: Rekor v1's promise, and the checkpoint of the tree that it is in."""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

import rfc8785

from sealkeeper.verify.algorithms import message_verifies
from sealkeeper.verify.bundle import InclusionProof, LogEntry
from sealkeeper.verify.errors import NoteError, VerifyError
from sealkeeper.verify.merkle import leaf_hash, verify_inclusion
from sealkeeper.verify.note import parse_checkpoint, parse_signed_note
from sealkeeper.verify.trust import TransparencyLog

_TREE = re.compile(r"(.{1,253}) - [0-9]{1,20}")


class PromiseError(VerifyError):
    """A log's promise to take in an entry is not the log's, or of another entry."""

    reason = "PROMISE_INVALID"


def verify_promise(entry: LogEntry, promise: bytes, log: TransparencyLog) -> datetime | None:
    """Check a signed entry timestamp: the log's signature of the entry's body, place and time (RFC 8785 JSON).

    Returns:
        When the log took the entry in; ``None`` where it does not say.

    Raises:
        PromiseError: it is wrong, or the log was not trusted at that time.
    """
    signed: dict[str, Any] = {
        "body": b64encode(entry.body).decode(),
        "integratedTime": entry.integrated_time,
        "logID": entry.log_id.hex(),
        "logIndex": entry.log_index,
    }
    try:
        message = rfc8785.dumps(signed)
    except rfc8785.CanonicalizationError:
        raise PromiseError("the entry's index is beyond what a promise can be of") from None
    if not message_verifies(log.algorithm, log.key, message, promise):
        raise PromiseError(f"the promise is not one of {log.origin} for this entry")
    if entry.integrated_time == 0:
        return None
    moment = datetime.fromtimestamp(entry.integrated_time, UTC)
    if not log.validity.covers(moment):
        raise PromiseError(f"the log {log.origin} is trusted from {log.validity} only")
    return moment


def verify_checkpoint(entry: LogEntry, proof: InclusionProof, log: TransparencyLog) -> bool:
    """Check that the log has signed the tree that a proof is of.

    Returns:
        False where the proof has no checkpoint, and so proves nothing.

    Raises:
        NoteError: the checkpoint is malformed, not the log's, or of another tree.
    """
    if proof.checkpoint is None:
        return False
    note = parse_signed_note(proof.checkpoint)
    log.verifier.verify(note)
    checkpoint = parse_checkpoint(note.text)
    if _log_name(entry, checkpoint.origin) != log.origin:
        raise NoteError("the checkpoint is of another log")
    if (checkpoint.size, checkpoint.root_hash) != (proof.tree_size, proof.root_hash):
        raise NoteError("the checkpoint is of another tree than the inclusion proof")
    return True


def _log_name(entry: LogEntry, origin: str) -> str:
    # Rekor v1 adds the number of the tree, which is that of a shard.
    match = _TREE.fullmatch(origin)
    return match[1] if match is not None and not entry.is_rekor_v2 else origin


def verify_proof(entry: LogEntry, proof: InclusionProof) -> None:
    """Check that a proof leads from the entry to the root.

    Raises:
        ProofError: it does not.
    """
    verify_inclusion(leaf_hash(entry.body), proof.log_index, proof.tree_size, proof.hashes, proof.root_hash)
