"""A gate's decision, for a person and for a machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sealkeeper.client.cli.output import mark, print_text, printable
from sealkeeper.client.cli.resources import enum_name, short_name, time_of

if TYPE_CHECKING:
    from sealkeeper.v1 import gate_pb2


def print_decision(decision: gate_pb2.GateDecision, *, explain: bool) -> None:
    """Print a decision: whether it may run, why not, and what to do.

    Args:
        decision: it.
        explain: with what came of every rule.
    """
    allowed = enum_name(decision, "outcome") == "ALLOW"
    where = f" in {printable(decision.environment)}" if decision.environment else ""
    print_text(f"{mark(allowed)} {printable(decision.subject.name)} {'may' if allowed else 'may not'} run{where}")
    for algorithm, value in decision.subject.digest.items():
        print_text(f"  {printable(algorithm)}:{printable(value)}")
    if explain:
        for rule in decision.rules:
            print_text(f"  {mark(rule.passed)} {printable(rule.rule)}: {printable(rule.detail)}")
    if allowed and not decision.passed:
        print_text(f"  allowed {_although(decision)}")
    for reason in decision.reasons:
        print_text(f"  {printable(reason.code)}: {printable(reason.message)}")
        if reason.next_step:
            print_text(f"    next: {printable(reason.next_step)}")
    _print_grounds(decision)


def _although(decision: gate_pb2.GateDecision) -> str:
    if decision.exception:
        return f"by the exception {printable(short_name(decision.exception))}; the policy refuses it:"
    return f"since the policy's mode is {enum_name(decision, 'mode').lower()}; it refuses it:"


def _print_grounds(decision: gate_pb2.GateDecision) -> None:
    how = [
        f"by {printable(decision.policy_version)}" if decision.policy_version else "",
        f"at {time_of(decision, 'time')}",
        "from earlier evidence" if decision.cached else "",
        "without asking the gateway" if decision.offline else "",
        f"levels {printable(', '.join(decision.levels))}" if decision.levels else "",
    ]
    print_text(f"  decided {', '.join(one for one in how if one)}")
    if decision.name:
        print_text(f"  recorded as {printable(decision.name)}")


def decision_document(decision: gate_pb2.GateDecision) -> dict[str, Any]:
    """For ``--json``."""
    return {
        "name": decision.name or None,
        "outcome": enum_name(decision, "outcome"),
        "passed": decision.passed,
        "mode": enum_name(decision, "mode"),
        "subject": {"name": decision.subject.name, "digest": dict(decision.subject.digest)},
        "environment": decision.environment or None,
        "time": decision.time.ToJsonString(),
        "policyVersion": decision.policy_version or None,
        "rules": [
            {"rule": one.rule, "passed": one.passed, "detail": one.detail, "reasons": list(map(_reason, one.reasons))}
            for one in decision.rules
        ],
        "reasons": list(map(_reason, decision.reasons)),
        "exception": decision.exception or None,
        "levels": list(decision.levels),
        "attestations": list(decision.attestations),
        "caller": decision.caller or None,
        "cached": decision.cached,
        "offline": decision.offline,
    }


def _reason(reason: gate_pb2.GateReason) -> dict[str, str]:
    return {"code": reason.code, "message": reason.message, "nextStep": reason.next_step}
