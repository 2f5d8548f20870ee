"""PolicyService: checks and translates requests, and leaves the rest to the policies, their trials and simulations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from sealkeeper.server.authorization import Action
from sealkeeper.server.calls import Call, current_call
from sealkeeper.server.new_version import Audit
from sealkeeper.server.policies import Policies
from sealkeeper.server.policy_authorizer import PolicyAuthorizer
from sealkeeper.server.policy_engine import concerning, schema_text
from sealkeeper.server.policy_questions import Questions, decision_message, require_length, results_message, within
from sealkeeper.server.policy_simulation import Change, Progress, Simulations
from sealkeeper.server.policy_trials import Drafts, answer
from sealkeeper.server.proposer import Proposer
from sealkeeper.server.resources import parse_tenant_name
from sealkeeper.server.tenant_policy import TenantPolicy
from sealkeeper.server.translation import page_size_of, page_token, timestamp, versions_left
from sealkeeper.v1 import policy_pb2, policy_pb2_grpc

_MAX_REASON = 1024
_MAX_CASES = 1000
_MAX_CASE_NAME = 200
_MAX_RECORDS = 100_000
_DEFAULT_RECORDS = 1000
_MAX_NUMBER = 999_999_999
_MAX_SUBJECT = 2048
_MAX_VALUE = 1024
_MAX_AMR = 32
_HERE = "127.0.0.1"
_Name = TypeVar("_Name", bound=StrEnum)


class PolicyService(policy_pb2_grpc.PolicyServiceServicer):
    """Answers for the contract's PolicyService.

    Args:
        policies: of the tenants.
        authorizer: knows grants, and what is known of resources.
        drafts: checks drafts.
        simulations: replay audit records.
        proposer: has changes approved.
        audit: for the call under way.
    """

    def __init__(
        self,
        policies: Policies,
        authorizer: PolicyAuthorizer,
        drafts: Drafts,
        simulations: Simulations,
        proposer: Proposer,
        audit: Callable[[], Audit],
    ) -> None:
        self._policies = policies
        self._authorizer = authorizer
        self._drafts = drafts
        self._simulations = simulations
        self._proposer = proposer
        self._audit = audit

    async def GetPolicy(  # noqa: N802
        self, request: policy_pb2.GetPolicyRequest, context: Any
    ) -> policy_pb2.GetPolicyResponse:
        """Give a version, and the schema."""
        parent = parse_tenant_name(request.parent, "parent")
        current_call().authorize(Action.GET_POLICY, parent)
        number = within(request.number, 0, _MAX_NUMBER, "number")
        found = await self._policies.get(parent.tenant, number)
        return policy_pb2.GetPolicyResponse(version=_version(found), schema=schema_text())

    async def ListPolicyVersions(  # noqa: N802
        self, request: policy_pb2.ListPolicyVersionsRequest, context: Any
    ) -> policy_pb2.ListPolicyVersionsResponse:
        """List versions, newest first."""
        parent = parse_tenant_name(request.parent, "parent")
        current_call().authorize(Action.GET_POLICY, parent)
        size = page_size_of(request.page_size)
        newest = self._policies.in_force(parent.tenant).version.number
        left = versions_left(request.page_token, newest)
        found = await self._policies.page(parent.tenant, left + 1, size)
        last = found[-1].number if found else 1
        return policy_pb2.ListPolicyVersionsResponse(
            versions=[_version(one, text="") for one in found],
            next_page_token=page_token(str(last)) if last > 1 else "",
        )

    async def UpdatePolicy(  # noqa: N802
        self, request: policy_pb2.UpdatePolicyRequest, context: Any
    ) -> policy_pb2.UpdatePolicyResponse:
        """Have another policy approved; it is put in force when it is."""
        parent, call = parse_tenant_name(request.parent, "parent"), current_call()
        call.authorize(Action.UPDATE_POLICY, parent, proposable=True)
        require_length("reason", request.reason, 0, _MAX_REASON)
        base = within(request.base, 1, _MAX_NUMBER, "base")
        await self._drafts.compiled(parent.tenant, request.text)
        self._policies.require_base(parent.tenant, base)
        parameters = {"base": base, "text": request.text}
        await self._proposer.require(call, Action.UPDATE_POLICY, parent, parameters, request.reason)
        # Come here, nobody else is there to approve: on the insecure loopback port.
        made = await self._policies.change(parent.tenant, request.text, base, "", self._audit(), None)
        return policy_pb2.UpdatePolicyResponse(version=_version(made))

    async def TestPolicy(  # noqa: N802
        self, request: policy_pb2.TestPolicyRequest, context: Any
    ) -> policy_pb2.TestPolicyResponse:
        """Run cases against a draft or the policy in force, without grants."""
        parent, call = parse_tenant_name(request.parent, "parent"), current_call()
        call.authorize(Action.GET_POLICY, parent)
        cases = self._questions(call).cases(request.cases)
        policy, _ = await self._drafts.chosen(parent.tenant, request.text)
        return results_message(policy, await self._drafts.tested(parent.tenant, policy, cases))

    async def ExplainDecision(  # noqa: N802
        self, request: policy_pb2.ExplainDecisionRequest, context: Any
    ) -> policy_pb2.ExplainDecisionResponse:
        """Tell which policies decide, the grants in force among them."""
        parent, call = parse_tenant_name(request.parent, "parent"), current_call()
        call.authorize(Action.GET_POLICY, parent)
        question = self._questions(call).one(request.request, "request")
        policy, number = await self._drafts.chosen(parent.tenant, request.text)
        links, emergencies = self._authorizer.grants(parent.tenant, call.now())
        own = concerning(links.get(question.principal.subject, ()), question.action, question.resource)
        found = answer(policy.granting(own), question, emergencies)
        texts = [policy.texts[name] for name in found.policies if name in policy.texts]
        return policy_pb2.ExplainDecisionResponse(decision=decision_message(found), texts=texts, policy_version=number)

    async def SimulatePolicy(  # noqa: N802
        self, request: policy_pb2.SimulatePolicyRequest, context: Any
    ) -> AsyncIterator[policy_pb2.SimulatePolicyResponse]:
        """Decide again what was asked of late, and tell what would be decided otherwise."""
        parent = parse_tenant_name(request.parent, "parent")
        current_call().authorize(Action.SIMULATE_POLICY, parent)
        records = within(request.records, 0, _MAX_RECORDS, "records") or _DEFAULT_RECORDS
        draft = await self._drafts.compiled(parent.tenant, request.text)
        async with aclosing(self._simulations.run(parent.tenant, draft, records)) as running:
            async for progress in running:
                yield _progress(progress)

    def _questions(self, call: Call) -> Questions:
        return Questions(call.caller.tenant, call.now(), self._authorizer.facts)


def _version(one: TenantPolicy, text: str | None = None) -> policy_pb2.PolicyVersion:
    return policy_pb2.PolicyVersion(
        name=f"tenants/{one.tenant}/policyVersions/{one.number}",
        number=one.number,
        text=one.text if text is None else text,
        digest=one.digest,
        create_time=timestamp(one.create_time),
        proposal=one.proposal,
        author=one.author,
    )


def _progress(one: Progress) -> policy_pb2.SimulatePolicyResponse:
    message = policy_pb2.SimulatePolicyResponse(done=one.done, total=one.total)
    if one.ended:
        message.skipped = one.skipped
        often = sorted(one.changes.items(), key=lambda item: -item[1][0])
        message.changes.extend(_change(change, *seen) for change, seen in often)
    return message


def _change(one: Change, count: int, last: datetime) -> policy_pb2.PolicyChange:
    return policy_pb2.PolicyChange(
        subject=one.subject,
        action=one.action,
        resource=one.resource,
        before=decision_message(one.before),
        after=decision_message(one.after),
        count=count,
        last_time=timestamp(last),
    )
