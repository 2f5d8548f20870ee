"""Decisions that were made here, in the contract's words: printed, and reported, like those of the gateway."""

from __future__ import annotations

from sealkeeper.v1 import attestation_pb2, gate_pb2
from sealkeeper.verify.gate.decision import Artifact, Decision, Outcome, Reason

_OUTCOMES = {Outcome.ALLOW: gate_pb2.GATE_OUTCOME_ALLOW, Outcome.DENY: gate_pb2.GATE_OUTCOME_DENY}


def subject_message(artifact: Artifact) -> attestation_pb2.Subject:
    """An artifact."""
    return attestation_pb2.Subject(name=artifact.name, digest=dict(artifact.digests))


def decision_message(decision: Decision) -> gate_pb2.GateDecision:
    """A decision, with its rules."""
    message = gate_pb2.GateDecision(
        outcome=_OUTCOMES[decision.outcome],
        passed=decision.verdict.passed,
        mode=gate_pb2.GateMode.Value(f"GATE_MODE_{decision.mode.name}"),
        subject=subject_message(decision.artifact),
        environment=decision.environment,
        policy_version=decision.policy_name,
        rules=[
            gate_pb2.GateRule(
                rule=one.rule, passed=one.passed, detail=one.detail, reasons=map(_reason_message, one.reasons)
            )
            for one in decision.verdict.results
        ],
        reasons=map(_reason_message, decision.verdict.reasons),
        exception=decision.exception,
        levels=decision.levels,
        attestations=decision.verdict.attestations,
        offline=decision.offline,
    )
    message.time.FromDatetime(decision.time)
    return message


def _reason_message(reason: Reason) -> gate_pb2.GateReason:
    return gate_pb2.GateReason(code=reason.code, message=reason.message, next_step=reason.next_step)
