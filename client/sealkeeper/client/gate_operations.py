"""Calls of GateService as values; see ``operations.py``.

>>> found = client.call(evaluate_gate("tenants/acme/gates/production", subject))  # doctest: +SKIP
>>> found.decision.outcome == gate_pb2.GATE_OUTCOME_ALLOW  # doctest: +SKIP
True
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from sealkeeper.client.errors import CorruptAnswerError
from sealkeeper.client.operations import (
    Operation,
    duration_message,
    invalid,
    new_request_id,
    require_whole,
    timestamp_message,
)
from sealkeeper.v1 import attestation_pb2, gate_pb2
from sealkeeper.verify.bundle import DsseEnvelope, parse_bundle
from sealkeeper.verify.errors import VerifyError

MAX_BUNDLES = 64
MAX_BUNDLES_BYTES = 8 * 1024 * 1024
"""Of all bundles of a request together."""
MAX_POLICY = 256 * 1024
"""Bytes of a policy."""
MAX_REPORTED = 1000
"""Decisions of a report."""


def evaluate_gate(
    gate: str,
    subject: attestation_pb2.Subject,
    *,
    children: Sequence[attestation_pb2.Subject] = (),
    environment: str = "",
    bundles: Sequence[bytes] = (),
    image: str = "",
    without_summary: bool = False,
    dry_run: bool = False,
    request_id: str | None = None,
) -> Operation[gate_pb2.EvaluateResponse]:
    """Ask whether an artifact may run. A DENY is an answer, not an error.

    Args:
        gate: ``tenants/{tenant}/gates/{gate}``.
        subject: the artifact.
        children: of an image index, its images.
        environment: where it is to run.
        bundles: Sigstore bundles about it that the caller has, JSON.
        image: reference of an image whose registry the gateway is to ask as well.
        without_summary: sign no SLSA Verification Summary.
        dry_run: record nothing, sign nothing.
        request_id: of a call that this one repeats.

    Raises:
        InvalidRequestError: the bundles are too many, or too large.
    """
    if len(bundles) > MAX_BUNDLES or sum(map(len, bundles)) > MAX_BUNDLES_BYTES:
        said = f"must be at most {MAX_BUNDLES}, with {MAX_BUNDLES_BYTES} bytes together"
        raise invalid("bundles", said)
    request = gate_pb2.EvaluateRequest(
        gate=gate,
        subject=subject,
        children=children,
        environment=environment,
        bundles=bundles,
        image=image,
        without_summary=without_summary,
        dry_run=dry_run,
        request_id=request_id or new_request_id(),
    )

    def check(response: gate_pb2.EvaluateResponse) -> gate_pb2.EvaluateResponse:
        decision = response.decision
        _require_consistent(decision)
        if dict(decision.subject.digest) != dict(subject.digest) or decision.environment != environment:
            raise CorruptAnswerError("the decision is on another artifact or environment than was asked about")
        if not dry_run and not decision.name.startswith(f"{gate}/decisions/"):
            raise CorruptAnswerError("the decision is not a recorded one of this gate")
        if response.HasField("summary"):
            require_whole(response.summary, "summary")
        return response

    return Operation("GateService", "Evaluate", request, check)


def report_gate_decisions(
    gate: str, decisions: Sequence[gate_pb2.GateDecision], *, request_id: str | None = None
) -> Operation[Sequence[str]]:
    """Tell of decisions that a gate made while it could not ask; their names.

    Raises:
        InvalidRequestError: there are none, or too many.
    """
    if not 1 <= len(decisions) <= MAX_REPORTED:
        said = f"must be 1 to {MAX_REPORTED}"
        raise invalid("decisions", said)
    request = gate_pb2.ReportDecisionsRequest(gate=gate, decisions=decisions, request_id=request_id or new_request_id())

    def check(response: gate_pb2.ReportDecisionsResponse) -> Sequence[str]:
        if len(response.names) != len(decisions):
            raise CorruptAnswerError("not all decisions were recorded")
        return response.names

    return Operation("GateService", "ReportDecisions", request, check)


def get_gate_snapshot(gate: str) -> Operation[gate_pb2.GetGateSnapshotResponse]:
    """What a gate needs to decide by itself; ``sealkeeper.verify.gate.snapshot`` verifies it."""

    def check(response: gate_pb2.GetGateSnapshotResponse) -> gate_pb2.GetGateSnapshotResponse:
        if response.bundle:
            try:
                content = parse_bundle(response.bundle).content
            except VerifyError as error:
                raise CorruptAnswerError(f"the snapshot's bundle is malformed: {error}") from None
            if not isinstance(content, DsseEnvelope) or content.payload != response.snapshot:
                raise CorruptAnswerError("the snapshot is another one than its bundle holds")
        return response

    request = gate_pb2.GetGateSnapshotRequest(gate=gate)
    return Operation("GateService", "GetGateSnapshot", request, check)


def list_gates(parent: str, page_token: str, page_size: int) -> Operation[gate_pb2.ListGatesResponse]:
    """A page of a tenant's gates, without the texts of their policies."""
    request = gate_pb2.ListGatesRequest(parent=parent, page_token=page_token, page_size=page_size)
    return Operation("GateService", "ListGates", request, lambda response: response)


def get_gate_version(name: str) -> Operation[gate_pb2.GateVersion]:
    """A version of a gate's policy; of a gate's own name the one in force."""

    def check(response: gate_pb2.GetGateVersionResponse) -> gate_pb2.GateVersion:
        version = response.version
        if version.name != name and not version.name.startswith(f"{name}/versions/"):
            raise CorruptAnswerError(f"{name} was asked for, another one came")
        if hashlib.sha256(version.text.encode()).digest() != version.digest:
            raise CorruptAnswerError("the policy does not have the digest that the answer says")
        return version

    return Operation("GateService", "GetGateVersion", gate_pb2.GetGateVersionRequest(name=name), check)


def list_gate_versions(gate: str, page_token: str, page_size: int) -> Operation[gate_pb2.ListGateVersionsResponse]:
    """A page of the versions of a gate's policy, newest first, without their texts."""
    request = gate_pb2.ListGateVersionsRequest(parent=gate, page_token=page_token, page_size=page_size)
    return Operation("GateService", "ListGateVersions", request, lambda response: response)


def update_gate(gate: str, text: str, base: int, reason: str = "") -> Operation[gate_pb2.GateVersion]:
    """Propose another policy of a gate: it is refused with APPROVAL_REQUIRED, and in force when others have approved.

    Args:
        gate: ``tenants/{tenant}/gates/{gate}``.
        text: the whole policy, YAML.
        base: number of the version that it was made from; 0 for a new gate.
        reason: for those who approve.

    Raises:
        InvalidRequestError: the text is too long.
    """
    request = gate_pb2.UpdateGateRequest(gate=gate, text=_bounded(text), base=base, reason=reason)
    return Operation("GateService", "UpdateGate", request, lambda response: response.version)


def simulate_gate(
    gate: str, text: str, *, period: timedelta | None = None, decisions: int = 0
) -> Operation[gate_pb2.SimulateGateResponse]:
    """What a draft would decide otherwise of earlier decisions; for ``Client.stream``.

    Args:
        gate: ``tenants/{tenant}/gates/{gate}``.
        text: the draft, YAML.
        period: of how long ago; ``None`` for 30 days.
        decisions: at most so many, the newest; 0 for 1,000.

    Raises:
        InvalidRequestError: the text is too long.
    """
    request = gate_pb2.SimulateGateRequest(
        gate=gate, text=_bounded(text), period=duration_message(period), decisions=decisions
    )
    return Operation("GateService", "SimulateGate", request, lambda response: response)


def create_gate_exception(
    gate: str,
    *,
    digest: str = "",
    pattern: str = "",
    environment: str = "",
    lifetime: timedelta,
    reason: str,
    request_id: str | None = None,
) -> Operation[gate_pb2.GateException]:
    """Let an artifact run for a time although the policy refuses it.

    Args:
        gate: ``tenants/{tenant}/gates/{gate}``.
        digest: of the artifact, ``sha256:…``; or
        pattern: of artifacts' names.
        environment: where it is for; empty for all.
        lifetime: 1 minute to 90 days.
        reason: why.
        request_id: of a call that this one repeats.

    Raises:
        InvalidRequestError: neither a digest nor a pattern is there, or both.
    """
    if bool(digest) == bool(pattern):
        said = "needs exactly one of digest and pattern"
        raise invalid("what", said)
    request = gate_pb2.CreateGateExceptionRequest(
        gate=gate,
        environment=environment,
        lifetime=duration_message(lifetime),
        reason=reason,
        request_id=request_id or new_request_id(),
    )
    if digest:
        request.digest = digest
    else:
        request.pattern = pattern

    def check(response: gate_pb2.CreateGateExceptionResponse) -> gate_pb2.GateException:
        made = response.exception
        # An exception that is wider than what was asked for must not go unseen.
        if (made.digest, made.pattern, made.environment) != (digest, pattern, environment):
            raise CorruptAnswerError(
                f"the exception {made.name} is another than was asked for",
                next_step="look at it, and revoke it: sealkeeper gate exceptions list",
            )
        return made

    return Operation("GateService", "CreateGateException", request, check)


def revoke_gate_exception(name: str) -> Operation[gate_pb2.GateException]:
    """End an exception at once."""

    def check(response: gate_pb2.RevokeGateExceptionResponse) -> gate_pb2.GateException:
        found = response.exception
        if found.name != name or found.state == gate_pb2.GATE_EXCEPTION_STATE_ACTIVE:
            raise CorruptAnswerError(
                f"{name} was to be ended and is still in force", next_step="have people look at the gateway"
            )
        return found

    request = gate_pb2.RevokeGateExceptionRequest(name=name)
    return Operation("GateService", "RevokeGateException", request, check)


def list_gate_exceptions(gate: str, page_token: str, page_size: int) -> Operation[gate_pb2.ListGateExceptionsResponse]:
    """A page of a gate's exceptions by name."""
    request = gate_pb2.ListGateExceptionsRequest(parent=gate, page_token=page_token, page_size=page_size)
    return Operation("GateService", "ListGateExceptions", request, lambda response: response)


def get_gate_decision(name: str) -> Operation[gate_pb2.GateDecision]:
    """A decision, with what came of each rule."""

    def check(response: gate_pb2.GetGateDecisionResponse) -> gate_pb2.GateDecision:
        if response.decision.name != name:
            raise CorruptAnswerError(f"{name} was asked for, another decision came")
        _require_consistent(response.decision)
        return response.decision

    return Operation("GateService", "GetGateDecision", gate_pb2.GetGateDecisionRequest(name=name), check)


def list_gate_decisions(
    gate: str,
    page_token: str = "",
    page_size: int = 0,
    *,
    subject_digest: str = "",
    environment: str = "",
    outcome: str = "",
    after: datetime | None = None,
    before: datetime | None = None,
) -> Operation[gate_pb2.ListGateDecisionsResponse]:
    """A page of a gate's decisions, newest first, without their rules.

    Args:
        gate: ``tenants/{tenant}/gates/{gate}``.
        page_token: as the last answer had it.
        page_size: at most so many.
        subject_digest: of the artifact, ``sha256:…``; empty for any, as are the others.
        environment: where it was to run.
        outcome: ``ALLOW`` or ``DENY``.
        after: at or after this time.
        before: before this time.
    """
    request = gate_pb2.ListGateDecisionsRequest(
        parent=gate,
        subject_digest=subject_digest,
        environment=environment,
        outcome=gate_pb2.GateOutcome.Value(f"GATE_OUTCOME_{outcome or 'UNSPECIFIED'}"),
        after=timestamp_message(after),
        before=timestamp_message(before),
        page_size=page_size,
        page_token=page_token,
    )
    return Operation("GateService", "ListGateDecisions", request, lambda response: response)


def _require_consistent(decision: gate_pb2.GateDecision) -> None:
    """Refuse a decision that says of itself what cannot be: whoever acts on it must not choose what to believe."""
    allowed = decision.passed or bool(decision.exception) or decision.mode != gate_pb2.GATE_MODE_ENFORCE
    wanted = gate_pb2.GATE_OUTCOME_ALLOW if allowed else gate_pb2.GATE_OUTCOME_DENY
    unknown = decision.mode == gate_pb2.GATE_MODE_UNSPECIFIED
    if unknown or decision.outcome != wanted or (decision.passed and decision.reasons):
        raise CorruptAnswerError("the decision contradicts itself", next_step="have people look at the gateway")


def _bounded(text: str) -> str:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_POLICY:
        raise invalid("text", f"has {size} bytes; at most {MAX_POLICY} are allowed")
    return text
