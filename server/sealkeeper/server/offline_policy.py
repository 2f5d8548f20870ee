"""What ``sealkeeper policy test --offline`` does: runs cases against a policy on whatever machine, without a gateway.

The same engine answers; keys have the labels that a case gives them, and there are no others.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sealkeeper.server.policy_engine import Facts, compile_policy, default_policy
from sealkeeper.server.policy_questions import Questions, results_message
from sealkeeper.server.policy_trials import run_cases
from sealkeeper.server.resources import ResourceName, parse_tenant_name
from sealkeeper.v1 import policy_pb2


def run_offline(request: policy_pb2.TestPolicyRequest) -> policy_pb2.TestPolicyResponse:
    """Run cases.

    Args:
        request: as PolicyService takes it; an empty text is the policy that tenants begin with.

    Raises:
        InvalidRequestError: naming the field.
    """
    tenant = parse_tenant_name(request.parent, "parent").tenant
    cases = Questions(tenant, datetime.now(UTC), _nothing_known).cases(request.cases)
    policy = compile_policy(request.text or default_policy())
    return results_message(policy, run_cases(policy, cases))


def _nothing_known(_: ResourceName) -> Facts:
    # A key without labels, rather than one that there is not.
    return Facts({})
