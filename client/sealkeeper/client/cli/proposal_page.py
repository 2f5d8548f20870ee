"""Proposals as people and programs are shown them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC
from typing import TYPE_CHECKING, Any

from sealkeeper.client.cli.output import printable
from sealkeeper.client.cli.proposal_effects import Known, effects
from sealkeeper.client.cli.resources import enum_name, short_name, time_of, time_text

if TYPE_CHECKING:
    from sealkeeper.v1 import approval_pb2
    from sealkeeper.verify.approval import Content

OPEN = ("PENDING", "APPROVED")
HEADINGS = ("PROPOSAL", "STATE", "ACTION", "RESOURCE", "BY", "APPROVALS", "UNTIL")


def row(proposal: approval_pb2.Proposal) -> tuple[object, ...]:
    """A line of the table with ``HEADINGS``."""
    return (
        short_name(proposal.name),
        enum_name(proposal, "state"),
        proposal.action,
        proposal.resource,
        proposal.proposer_person or proposal.proposer,
        f"{standing(proposal)}/{proposal.required}",
        time_of(proposal, "expire_time"),
    )


def standing(proposal: approval_pb2.Proposal) -> int:
    """How many approvals stand."""
    return sum(
        enum_name(one, "decision") == "APPROVE" and not one.HasField("withdraw_time") for one in proposal.approvals
    )


def counted(number: int, what: str) -> str:
    """``1 approval``, ``2 approvals``."""
    return f"{number} {what}{'s' if number != 1 else ''}"


def page(proposal: approval_pb2.Proposal, content: Content, known: Known) -> Iterator[str]:
    """What an approver reads before signing.

    Args:
        proposal: as the gateway has it: its state, and what was said.
        content: of it, as it will be signed.
        known: what the gateway says beside it.
    """
    yield f"{printable(content.proposal)}  {enum_name(proposal, 'state')}"
    yield f"  {printable(content.action)} of {printable(content.resource)}"
    by = f"{printable(content.proposer_person)}, " if content.proposer_person else ""
    yield f"  proposed by {by}{printable(content.proposer_subject)}, as {printable(content.proposer_role)}"
    for line in content.reason.split("\n") if content.reason else ("(none was given)",):
        yield f"  reason: {printable(line)}"
    yield f"  at {printable(content.gateway)}, {_moment(content.create_time)}; until {_moment(content.expire_time)}"
    yield ""
    yield from effects(content, known)
    yield ""
    yield f"Needs {counted(content.required, 'approval')}; it has {standing(proposal) or 'none so far'}."
    yield from (_said(one) for one in proposal.approvals)
    if proposal.outcome:
        yield f"Outcome: {printable(proposal.outcome)}"
    yield f"What is signed: SHA-256 {content.digest.hex()}"


def _said(one: approval_pb2.Approval) -> str:
    back = f", taken back {time_text(one.withdraw_time)}" if one.HasField("withdraw_time") else ""
    who = f"{printable(one.person)} ({printable(one.subject)})"
    return f"  {enum_name(one, 'decision')} {time_of(one, 'create_time')} by {who}{back}"


def _moment(moment: Any) -> str:
    text: str = moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return text


def document(proposal: approval_pb2.Proposal, content: Content | None = None) -> dict[str, Any]:
    """For ``--json``.

    Args:
        proposal: as the gateway has it.
        content: of it, where it came along.
    """
    found: dict[str, Any] = {
        "name": proposal.name,
        "state": enum_name(proposal, "state"),
        "action": proposal.action,
        "resource": proposal.resource,
        "proposer": proposal.proposer,
        "proposerPerson": proposal.proposer_person or None,
        "reason": proposal.reason,
        "required": proposal.required,
        "standing": standing(proposal),
        "approvals": [_approval_document(one) for one in proposal.approvals],
        "createTime": _time(proposal, "create_time"),
        "expireTime": _time(proposal, "expire_time"),
        "closeTime": _time(proposal, "close_time"),
        "outcome": proposal.outcome or None,
        "logIndex": proposal.log_index,
    }
    if content is not None:
        found["digest"] = f"sha256:{content.digest.hex()}"
        found["parameters"] = dict(content.parameters)
        found["content"] = base64.b64encode(proposal.content).decode()
    if proposal.HasField("impact"):
        found["impact"] = _impact_document(proposal.impact)
    return found


def _approval_document(one: approval_pb2.Approval) -> dict[str, Any]:
    return {
        "subject": one.subject,
        "person": one.person,
        "decision": enum_name(one, "decision"),
        "createTime": _time(one, "create_time"),
        "withdrawTime": _time(one, "withdraw_time"),
        "logIndex": one.log_index,
    }


def _impact_document(impact: approval_pb2.Impact) -> dict[str, Any]:
    return {
        "signatures": impact.signatures,
        "lastUseTime": _time(impact, "last_use_time"),
        "recentArtifacts": [_artifact_document(one) for one in impact.recent_artifacts],
        "productionArtifacts": [_artifact_document(one) for one in impact.production_artifacts],
        "productionSignatures": impact.production_signatures,
    }


def _artifact_document(one: approval_pb2.SignedArtifact) -> dict[str, Any]:
    return {"name": one.name, "digest": one.digest, "signTime": _time(one, "sign_time"), "subject": one.subject}


def _time(message: Any, field: str) -> str | None:
    return getattr(message, field).ToJsonString() if message.HasField(field) else None
