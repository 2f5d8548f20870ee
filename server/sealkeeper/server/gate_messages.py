"""Gates between the contract's messages and what the gateway works with: checked, field by field."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sealkeeper.registry import ImageReference, RegistryError
from sealkeeper.server.clock import TOLERANCE
from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.server.gate import ExceptionState, GateException, GateVersion
from sealkeeper.server.gate_decisions import (
    MAX_LOOKED_AT,
    MAX_REASONS,
    MAX_RULES,
    MAX_TEXT,
    KeptArtifact,
    KeptDecision,
    KeptReason,
    KeptRule,
    subject_digest,
)
from sealkeeper.server.gate_evaluation import Question
from sealkeeper.server.gate_exceptions import environment_of
from sealkeeper.server.gate_simulation import Change, Progress
from sealkeeper.server.resources import GateExceptionName, GateName, parse_exception_name, parse_gate_or_version_name
from sealkeeper.server.signing import Signature
from sealkeeper.server.store.gate_tables import DecisionFilter
from sealkeeper.server.translation import crc32c, moment_of, timestamp, whole_seconds_of
from sealkeeper.v1 import attestation_pb2, gate_pb2, signing_pb2
from sealkeeper.verify.gate.decision import Artifact, Outcome
from sealkeeper.verify.gate.policy import Mode

MAX_BUNDLES = 64
MAX_BUNDLES_BYTES = 8 * 1024 * 1024
MAX_CHILDREN = 1000
"""Of a request; the decision refuses what is more than it looks at."""
MAX_REPORTED = 1000
_MAX_NAME = 512
_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128, "sha1": 40, "gitCommit": 40}
_SHA2 = ("sha256", "sha384", "sha512")
_HEX = re.compile(r"[0-9a-f]+")
_BUNDLE = re.compile(r"sha256:[0-9a-f]{64}")
_SUBJECT = re.compile(r"(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})")
_CODE = re.compile(r"[A-Z][A-Z0-9_]{1,63}")
_LEVEL = re.compile(r"[A-Z][A-Z0-9_]{1,99}")
_IN_LISTS = 3
_OUTCOMES: Mapping[str, gate_pb2.GateOutcome.ValueType] = {
    Outcome.ALLOW: gate_pb2.GATE_OUTCOME_ALLOW,
    Outcome.DENY: gate_pb2.GATE_OUTCOME_DENY,
}
_MODES: Mapping[str, gate_pb2.GateMode.ValueType] = {
    Mode.ENFORCE: gate_pb2.GATE_MODE_ENFORCE,
    Mode.WARN: gate_pb2.GATE_MODE_WARN,
    Mode.AUDIT: gate_pb2.GATE_MODE_AUDIT,
}
_STATES = {
    ExceptionState.ACTIVE: gate_pb2.GATE_EXCEPTION_STATE_ACTIVE,
    ExceptionState.EXPIRED: gate_pb2.GATE_EXCEPTION_STATE_EXPIRED,
    ExceptionState.REVOKED: gate_pb2.GATE_EXCEPTION_STATE_REVOKED,
}


def question_of(request: gate_pb2.EvaluateRequest, gate: GateName) -> Question:
    """What a gate is asked.

    Raises:
        InvalidRequestError: naming the field.
    """
    if len(request.children) > MAX_CHILDREN:
        raise InvalidRequestError.of("children", f"has {len(request.children)}; at most {MAX_CHILDREN} are taken")
    children = tuple(_artifact(one, f"children[{place}]") for place, one in enumerate(request.children))
    artifact = _artifact(request.subject, "subject", children)
    size = sum(map(len, request.bundles))
    if len(request.bundles) > MAX_BUNDLES or size > MAX_BUNDLES_BYTES:
        raise InvalidRequestError.of(
            "bundles",
            f"has {len(request.bundles)} with {size} bytes together; {MAX_BUNDLES} with {MAX_BUNDLES_BYTES} may be",
        )
    return Question(
        gate,
        artifact,
        environment_of(request.environment, "environment"),
        tuple(request.bundles),
        _image(request.image, artifact),
        remember=not request.dry_run,
    )


def _image(text: str, artifact: Artifact) -> ImageReference | None:
    if not text:
        return None
    try:
        found = ImageReference.parse(text)
    except RegistryError as error:
        raise InvalidRequestError.of("image", str(error)[:300]) from None
    if found.digest and found.digest.partition(":")[2] not in artifact.digests.values():
        raise InvalidRequestError.of("image", "has another digest than the subject")
    return found


def _artifact(message: attestation_pb2.Subject, field: str, children: tuple[Artifact, ...] = ()) -> Artifact:
    if len(message.name) > _MAX_NAME or not message.name.isprintable():
        raise InvalidRequestError.of(
            f"{field}.name", f"must be at most {_MAX_NAME} characters without control characters"
        )
    digests = dict(message.digest)
    for name, value in digests.items():
        if name not in _LENGTHS:
            raise InvalidRequestError.of(f"{field}.digest", f"{name[:64]!r}: must be one of {', '.join(_LENGTHS)}")
        if len(value) != _LENGTHS[name] or not _HEX.fullmatch(value):
            raise InvalidRequestError.of(
                f"{field}.digest[{name}]", f"must be {_LENGTHS[name]} lower-case hexadecimal digits"
            )
    if not any(name in digests for name in _SHA2):
        raise InvalidRequestError.of(f"{field}.digest", f"needs one of {', '.join(_SHA2)}")
    return Artifact(message.name, digests, children)


def reported_of(
    message: gate_pb2.GateDecision, gate: GateName, field: str, caller: str, oldest: datetime, now: datetime
) -> KeptDecision:
    """A decision that a gate made by itself.

    Args:
        message: of the caller's.
        gate: that made it.
        field: for errors.
        caller: who tells of it.
        oldest: those of before are not kept.
        now: the time.

    Raises:
        InvalidRequestError: naming the field.
    """
    if not message.HasField("time"):
        raise InvalidRequestError.of(f"{field}.time", "is needed")
    moment = moment_of(message.time, f"{field}.time")
    if not oldest <= moment <= now + TOLERANCE:
        raise InvalidRequestError.of(f"{field}.time", f"must be from {oldest:%Y-%m-%d} until now")
    exception = _exception_of(message.exception, gate, f"{field}.exception")
    outcome, mode = _outcome_of(message, exception is not None, field)
    artifact = _artifact(message.subject, f"{field}.subject")
    return KeptDecision(
        gate,
        "",
        outcome,
        message.passed,
        mode,
        KeptArtifact(artifact.name, artifact.digests),
        (),
        environment_of(message.environment, f"{field}.environment"),
        moment,
        _version_of(message.policy_version, gate, f"{field}.policy_version"),
        _rules_of(message, field),
        exception.id if exception is not None else "",
        _texts(message.levels, _LEVEL, 20, f"{field}.levels"),
        _texts(message.attestations, _BUNDLE, MAX_LOOKED_AT, f"{field}.attestations"),
        caller,
        message.cached,
        offline=True,
    )


def _outcome_of(message: gate_pb2.GateDecision, excepted: bool, field: str) -> tuple[str, str]:
    outcome = next((name for name, value in _OUTCOMES.items() if value == message.outcome), "")
    mode = next((name for name, value in _MODES.items() if value == message.mode), "")
    if not outcome or not mode:
        raise InvalidRequestError.of(field, "needs an outcome and a mode")
    allowed = message.passed or excepted or mode != Mode.ENFORCE
    if (outcome == Outcome.ALLOW) != allowed or (message.passed and message.reasons):
        raise InvalidRequestError.of(f"{field}.outcome", "contradicts passed, reasons, mode and exception")
    return outcome, mode


def _exception_of(text: str, gate: GateName, field: str) -> GateExceptionName | None:
    if not text:
        return None
    name = parse_exception_name(text, field)
    if name.parent != gate:
        raise InvalidRequestError.of(field, "must be one of the gate")
    return name


def _version_of(text: str, gate: GateName, field: str) -> int:
    if not text:
        return 0
    name = parse_gate_or_version_name(text, field)
    number = getattr(name, "number", 0)
    if not number or name != gate.version(number):
        raise InvalidRequestError.of(field, "must be a version of the gate")
    return number


def _rules_of(message: gate_pb2.GateDecision, field: str) -> tuple[KeptRule, ...]:
    if len(message.rules) > MAX_RULES or len(message.reasons) > MAX_RULES:
        raise InvalidRequestError.of(field, f"has more than {MAX_RULES} rules or reasons")
    found = tuple(
        KeptRule(
            one.rule[:MAX_TEXT],
            one.passed,
            one.detail[:MAX_TEXT],
            _reasons_of(one.reasons[:MAX_REASONS], f"{field}.rules[{place}].reasons"),
        )
        for place, one in enumerate(message.rules)
    )
    if found or not message.reasons:
        return found
    # Whoever tells reasons only.
    return (KeptRule("", False, "", _reasons_of(message.reasons, f"{field}.reasons")),)


def _reasons_of(messages: Sequence[gate_pb2.GateReason], field: str) -> tuple[KeptReason, ...]:
    for place, one in enumerate(messages):
        if not _CODE.fullmatch(one.code):
            raise InvalidRequestError.of(f"{field}[{place}].code", "must be upper snake case, at most 64 characters")
    return tuple(KeptReason(one.code, one.message[:MAX_TEXT], one.next_step[:MAX_TEXT]) for one in messages)


def _texts(found: Sequence[str], form: re.Pattern[str], most: int, field: str) -> tuple[str, ...]:
    if len(found) > most:
        raise InvalidRequestError.of(field, f"has {len(found)}; at most {most} are allowed")
    for place, one in enumerate(found):
        if not form.fullmatch(one):
            raise InvalidRequestError.of(f"{field}[{place}]", "is not one")
    return tuple(found)


def filter_of(request: gate_pb2.ListGateDecisionsRequest) -> DecisionFilter:
    """Which decisions are asked for.

    Raises:
        InvalidRequestError: naming the field.
    """
    if request.subject_digest and not _SUBJECT.fullmatch(request.subject_digest):
        raise InvalidRequestError.of("subject_digest", "must be sha256: and 64 lower-case hexadecimal digits")
    outcome = next((name for name, value in _OUTCOMES.items() if value == request.outcome), "")
    if request.outcome and not outcome:
        raise InvalidRequestError.of("outcome", "must be ALLOW or DENY")
    return DecisionFilter(
        request.subject_digest,
        environment_of(request.environment, "environment"),
        outcome,
        moment_of(request.after, "after") if request.HasField("after") else None,
        moment_of(request.before, "before") if request.HasField("before") else None,
    )


def decision_message(one: KeptDecision, *, with_rules: bool = True) -> gate_pb2.GateDecision:
    """A decision; without its rules, as lists have it, with its first reasons."""
    reasons = one.reasons if with_rules else one.reasons[:_IN_LISTS]
    return gate_pb2.GateDecision(
        name=one.name,
        outcome=_OUTCOMES[one.outcome],
        passed=one.passed,
        mode=_MODES[one.mode],
        subject=attestation_pb2.Subject(name=one.subject.name, digest=dict(one.subject.digests)),
        environment=one.environment,
        time=timestamp(one.time),
        policy_version=one.policy_version,
        rules=[_rule(rule) for rule in one.rules] if with_rules else [],
        reasons=[_reason(reason) for reason in reasons],
        exception=str(one.exception_name) if one.exception else "",
        levels=one.levels,
        attestations=one.attestations,
        caller=one.caller,
        cached=one.cached,
        offline=one.offline,
    )


def _rule(one: KeptRule) -> gate_pb2.GateRule:
    reasons = [_reason(reason) for reason in one.reasons]
    return gate_pb2.GateRule(rule=one.rule, passed=one.passed, detail=one.detail, reasons=reasons)


def _reason(one: KeptReason) -> gate_pb2.GateReason:
    return gate_pb2.GateReason(code=one.code, message=one.message, next_step=one.next_step)


def summary_message(one: Signature | None) -> signing_pb2.Signature | None:
    """A summary in its bundle."""
    if one is None:
        return None
    return signing_pb2.Signature(
        bundle=one.bundle,
        bundle_crc32c=crc32c(one.bundle),
        signature=one.signature,
        signature_crc32c=crc32c(one.signature),
        log_index=one.log_index,
    )


def version_message(one: GateVersion, text: str | None = None) -> gate_pb2.GateVersion:
    """A version of a policy, with this text instead where one is given."""
    return gate_pb2.GateVersion(
        name=str(one.name),
        number=one.number,
        text=one.text if text is None else text,
        digest=one.digest,
        create_time=timestamp(one.create_time),
        proposal=one.proposal,
        author=one.author,
    )


def exception_message(one: GateException, now: datetime) -> gate_pb2.GateException:
    """An exception."""
    return gate_pb2.GateException(
        name=str(one.name),
        state=_STATES[one.state_at(now)],
        digest=one.digest,
        pattern=one.pattern,
        environment=one.environment,
        reason=one.reason,
        created_by=one.created_by,
        proposal=one.proposal,
        create_time=timestamp(one.create_time),
        expire_time=timestamp(one.expire_time),
        revoke_time=timestamp(one.revoke_time),
        revoked_by=one.revoked_by,
        uses=one.uses,
    )


def exception_parameters(request: gate_pb2.CreateGateExceptionRequest) -> dict[str, Any]:
    """What is proposed, for ``gate_exceptions.order_of``.

    Raises:
        InvalidRequestError: the lifetime is none.
    """
    return {
        "digest": request.digest,
        "pattern": request.pattern,
        "environment": request.environment,
        "lifetimeSeconds": whole_seconds_of(request.lifetime, "lifetime"),
    }


def progress_message(one: Progress) -> gate_pb2.SimulateGateResponse:
    """How far a simulation is; at the end with what changed, most often first."""
    message = gate_pb2.SimulateGateResponse(done=one.done, total=one.total)
    if one.ended:
        message.skipped = one.skipped
        message.changes.extend(map(_change, sorted(one.changes.values(), key=lambda change: -change.count)))
    return message


def _change(one: Change) -> gate_pb2.GateChange:
    return gate_pb2.GateChange(
        before=decision_message(one.before, with_rules=False),
        after=decision_message(one.after, with_rules=False),
        count=one.count,
    )


def audit_details(one: KeptDecision) -> dict[str, Any]:
    """For the audit record; of bounded length."""
    codes = list(dict.fromkeys(reason.code for reason in one.reasons))
    details: dict[str, Any] = {
        "decision": one.name,
        "gateVersion": one.policy_version,
        "artifact": one.subject.name,
        "digest": subject_digest(one.subject.digests),
        "environment": one.environment,
        "outcome": one.outcome,
        "passed": one.passed,
        "reasons": codes[:50],
        "exception": one.exception,
        "evidence": list(one.attestations[:50]),
        "evidenceCount": len(one.attestations),
        "cached": one.cached,
    }
    return {name: value for name, value in details.items() if value not in ("", [])}
