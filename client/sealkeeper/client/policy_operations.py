"""Calls of PolicyService as values; see ``operations.py``.

>>> client.call(run_policy_cases("tenants/acme", cases, text=draft))  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sealkeeper.client.errors import CorruptAnswerError
from sealkeeper.client.operations import Operation
from sealkeeper.v1 import policy_pb2


def get_policy(parent: str, number: int = 0) -> Operation[policy_pb2.GetPolicyResponse]:
    """A version of a tenant's policy, 0 for the one in force, and the schema."""

    def check(response: policy_pb2.GetPolicyResponse) -> policy_pb2.GetPolicyResponse:
        version = response.version
        if not version.number or (number and version.number != number):
            raise CorruptAnswerError(f"the answer is version {version.number} of the policy, and not {number}")
        if hashlib.sha256(version.text.encode()).digest() != version.digest:
            raise CorruptAnswerError("the policy does not have the digest that the answer says")
        return response

    return Operation("PolicyService", "GetPolicy", policy_pb2.GetPolicyRequest(parent=parent, number=number), check)


def list_policy_versions(parent: str, token: str, size: int) -> Operation[policy_pb2.ListPolicyVersionsResponse]:
    """A page of versions, newest first, without their texts."""
    request = policy_pb2.ListPolicyVersionsRequest(parent=parent, page_size=size, page_token=token)
    return Operation("PolicyService", "ListPolicyVersions", request, lambda response: response)


def update_policy(parent: str, text: str, base: int, reason: str = "") -> Operation[policy_pb2.PolicyVersion]:
    """Propose another policy: it is refused with APPROVAL_REQUIRED, and in force when others have approved.

    Args:
        parent: ``tenants/{tenant}``.
        text: the whole policy.
        base: number of the version that it was made from.
        reason: for those who approve.
    """
    request = policy_pb2.UpdatePolicyRequest(parent=parent, text=text, base=base, reason=reason)
    return Operation("PolicyService", "UpdatePolicy", request, lambda response: response.version)


def run_policy_cases(
    parent: str, cases: Sequence[policy_pb2.PolicyCase], *, text: str = ""
) -> Operation[policy_pb2.TestPolicyResponse]:
    """Run cases against a draft; where it is empty, against the policy in force."""
    request = policy_pb2.TestPolicyRequest(parent=parent, text=text, cases=cases)

    def check(response: policy_pb2.TestPolicyResponse) -> policy_pb2.TestPolicyResponse:
        if [one.name for one in response.results] != [one.name for one in cases]:
            raise CorruptAnswerError("the answer has other cases than were asked for")
        for one, case in zip(response.results, cases, strict=True):
            if one.passed != _fits(case, one.decision):
                raise CorruptAnswerError(f"case {one.name}: the answer contradicts itself")
        return response

    return Operation("PolicyService", "TestPolicy", request, check)


def explain_decision(
    parent: str, request: policy_pb2.AccessRequest, *, text: str = ""
) -> Operation[policy_pb2.ExplainDecisionResponse]:
    """Which policies decide a question; of a draft, or where it is empty of the policy in force."""
    message = policy_pb2.ExplainDecisionRequest(parent=parent, request=request, text=text)
    return Operation("PolicyService", "ExplainDecision", message, lambda response: response)


def simulate_policy(parent: str, text: str, records: int = 0) -> Operation[policy_pb2.SimulatePolicyResponse]:
    """What a draft would decide otherwise of the newest audit records; for ``Client.stream``.

    Args:
        parent: ``tenants/{tenant}``.
        text: the draft.
        records: how many; 0 means 1,000.
    """
    request = policy_pb2.SimulatePolicyRequest(parent=parent, text=text, records=records)
    return Operation("PolicyService", "SimulatePolicy", request, lambda response: response)


def _fits(case: policy_pb2.PolicyCase, decision: policy_pb2.AccessDecision) -> bool:
    return (
        decision.allowed == case.allowed
        and (not case.policy or case.policy in decision.policies)
        and (not case.HasField("approvals") or decision.approvals == case.approvals)
    )
