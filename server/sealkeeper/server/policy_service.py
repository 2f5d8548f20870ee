"""PolicyService: checks and translates requests, and leaves the rest to the policies, their trials and simulations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from datetime import datetime
from enum import StrEnum
from ipaddress import ip_address
from typing import Any, TypeVar

from sealkeeper.server.authorization import Action, crosses_tenants
from sealkeeper.server.calls import Call, current_call
from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.server.identity import ATTRIBUTES, Method, Principal, Role
from sealkeeper.server.policies import Policies
from sealkeeper.server.policy_authorizer import PolicyAuthorizer
from sealkeeper.server.policy_engine import MAX_APPROVALS, Facts, Question, kind_of, kinds_of, schema_text
from sealkeeper.server.policy_simulation import Change, Progress, Simulations
from sealkeeper.server.policy_trials import Answer, Case, Drafts, answer, resource_of, unused_policies
from sealkeeper.server.proposer import Proposer
from sealkeeper.server.resources import KeyName, KeyVersionName, ResourceName, parse_tenant_name
from sealkeeper.server.tenant_policy import TenantPolicy
from sealkeeper.server.translation import labels_of, moment_of, page_size_of, page_token, timestamp, versions_left
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
    """

    def __init__(
        self,
        policies: Policies,
        authorizer: PolicyAuthorizer,
        drafts: Drafts,
        simulations: Simulations,
        proposer: Proposer,
    ) -> None:
        self._policies = policies
        self._authorizer = authorizer
        self._drafts = drafts
        self._simulations = simulations
        self._proposer = proposer

    async def GetPolicy(  # noqa: N802
        self, request: policy_pb2.GetPolicyRequest, context: Any
    ) -> policy_pb2.GetPolicyResponse:
        """Give a version, and the schema."""
        parent = parse_tenant_name(request.parent, "parent")
        current_call().authorize(Action.GET_POLICY, parent)
        number = _within(request.number, 0, _MAX_NUMBER, "number")
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
        _require_length("reason", request.reason, 0, _MAX_REASON)
        base = _within(request.base, 1, _MAX_NUMBER, "base")
        await self._drafts.compiled(request.text)
        self._policies.require_base(parent.tenant, base)
        parameters = {"base": base, "text": request.text}
        await self._proposer.require(call, Action.UPDATE_POLICY, parent, parameters, request.reason)
        return policy_pb2.UpdatePolicyResponse(version=_version(self._policies.in_force(parent.tenant).version))

    async def TestPolicy(  # noqa: N802
        self, request: policy_pb2.TestPolicyRequest, context: Any
    ) -> policy_pb2.TestPolicyResponse:
        """Run cases against a draft or the policy in force, without grants."""
        parent, call = parse_tenant_name(request.parent, "parent"), current_call()
        call.authorize(Action.GET_POLICY, parent)
        if not 1 <= len(request.cases) <= _MAX_CASES:
            raise InvalidRequestError.of("cases", f"has {len(request.cases)} cases; 1 to {_MAX_CASES} are allowed")
        cases = [self._case(one, call, f"cases[{place}]") for place, one in enumerate(request.cases)]
        policy, _ = await self._drafts.chosen(parent.tenant, request.text)
        results = await self._drafts.tested(policy, cases)
        return policy_pb2.TestPolicyResponse(
            results=[
                policy_pb2.PolicyCaseResult(name=one.case.name, passed=one.passed, decision=_decision(one.answer))
                for one in results
            ],
            unused_policies=unused_policies(policy, results),
        )

    async def ExplainDecision(  # noqa: N802
        self, request: policy_pb2.ExplainDecisionRequest, context: Any
    ) -> policy_pb2.ExplainDecisionResponse:
        """Tell which policies decide, the grants in force among them."""
        parent, call = parse_tenant_name(request.parent, "parent"), current_call()
        call.authorize(Action.GET_POLICY, parent)
        question = self._question(request.request, call, "request")
        policy, number = await self._drafts.chosen(parent.tenant, request.text)
        links, emergencies = self._authorizer.grants(parent.tenant, call.now())
        granted = policy.granting(links.get(question.principal.subject, ()))
        found = answer(granted, question, emergencies)
        texts = [policy.texts[name] for name in found.policies if name in policy.texts]
        return policy_pb2.ExplainDecisionResponse(decision=_decision(found), texts=texts, policy_version=number)

    async def SimulatePolicy(  # noqa: N802
        self, request: policy_pb2.SimulatePolicyRequest, context: Any
    ) -> AsyncIterator[policy_pb2.SimulatePolicyResponse]:
        """Decide again what was asked of late, and tell what would be decided otherwise."""
        parent = parse_tenant_name(request.parent, "parent")
        current_call().authorize(Action.SIMULATE_POLICY, parent)
        records = _within(request.records, 0, _MAX_RECORDS, "records") or _DEFAULT_RECORDS
        draft = await self._drafts.compiled(request.text)
        async with aclosing(self._simulations.run(parent.tenant, draft, records)) as running:
            async for progress in running:
                yield _progress(progress)

    def _case(self, message: policy_pb2.PolicyCase, call: Call, field: str) -> Case:
        _require_length(f"{field}.name", message.name, 1, _MAX_CASE_NAME)
        approvals = None
        if message.HasField("approvals"):
            approvals = _within(message.approvals, 0, MAX_APPROVALS, f"{field}.approvals")
        question = self._question(message.request, call, f"{field}.request")
        return Case(message.name, question, message.allowed, message.policy, approvals)

    def _question(self, message: policy_pb2.AccessRequest, call: Call, field: str) -> Question:
        tenant = call.caller.tenant
        principal = _principal(message.principal, tenant, f"{field}.principal")
        action = _one_of(Action, message.action, f"{field}.action")
        resource = resource_of(message.resource, f"{field}.resource")
        _require_fit(principal, action, resource, f"{field}.resource")
        now = moment_of(message.time, f"{field}.time") if message.HasField("time") else call.now()
        facts = self._facts(message, resource, f"{field}.labels")
        return Question(principal, action, resource, _address(message.address, f"{field}.address"), now, facts)

    def _facts(self, message: policy_pb2.AccessRequest, resource: ResourceName, field: str) -> Facts:
        if not message.labels:
            return self._authorizer.facts(resource)
        if not isinstance(resource, KeyName | KeyVersionName):
            raise InvalidRequestError.of(field, "only keys have labels")
        return Facts(labels_of(message.labels, field))


def _principal(message: policy_pb2.AccessPrincipal, tenant: str, field: str) -> Principal:
    _require_length(f"{field}.subject", message.subject, 1, _MAX_SUBJECT)
    for name in ("person", "issuer", "acr"):
        _require_length(f"{field}.{name}", getattr(message, name), 0, _MAX_VALUE)
    if len(message.amr) > _MAX_AMR:
        raise InvalidRequestError.of(f"{field}.amr", f"has {len(message.amr)} methods; at most {_MAX_AMR} are allowed")
    for place, one in enumerate(message.amr):
        _require_length(f"{field}.amr[{place}]", one, 1, _MAX_VALUE)
    return Principal(
        tenant,
        message.subject,
        _one_of(Role, message.role, f"{field}.role"),
        method=_one_of(Method, message.method or Method.CERTIFICATE, f"{field}.method"),
        person=message.person,
        issuer=message.issuer,
        attributes=_attributes(message.attributes, f"{field}.attributes"),
        hardware=message.hardware,
        acr=message.acr,
        amr=tuple(sorted(message.amr)),
    )


def _attributes(given: Mapping[str, str], field: str) -> tuple[tuple[str, str], ...]:
    for name, value in given.items():
        if name not in ATTRIBUTES:
            raise InvalidRequestError.of(field, f"{name[:64]!r}: must be one of {', '.join(ATTRIBUTES)}")
        _require_length(f"{field}[{name}]", value, 1, _MAX_VALUE)
        if name == "ref_protected" and value not in ("true", "false"):
            raise InvalidRequestError.of(f"{field}[{name}]", "must be true or false")
    return tuple(sorted(given.items()))


def _require_fit(principal: Principal, action: Action, resource: ResourceName, field: str) -> None:
    if crosses_tenants(principal, resource):
        raise InvalidRequestError.of(field, "must be of your own tenant")
    kinds = kinds_of(action)
    if kind_of(resource) not in kinds:
        raise InvalidRequestError.of(
            field, f"is a {kind_of(resource)}, and {action} is asked of a {' or '.join(sorted(kinds))}"
        )


def _address(text: str, field: str) -> str:
    try:
        return str(ip_address(text or _HERE))
    except ValueError:
        raise InvalidRequestError.of(field, "must be an IP address") from None


def _one_of(kind: type[_Name], value: str, field: str) -> _Name:
    try:
        return kind(value)
    except ValueError:
        raise InvalidRequestError.of(field, f"must be one of {', '.join(kind)}") from None


def _within(number: int, least: int, most: int, field: str) -> int:
    if not least <= number <= most:
        raise InvalidRequestError.of(field, f"must be from {least} to {most}")
    return number


def _require_length(field: str, text: str, least: int, most: int) -> None:
    if not least <= len(text) <= most:
        raise InvalidRequestError.of(field, f"has {len(text)} characters; {least} to {most} are allowed")


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


def _decision(one: Answer) -> policy_pb2.AccessDecision:
    return policy_pb2.AccessDecision(
        allowed=one.allowed, policies=one.policies, approvals=one.approvals, errors=one.errors
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
        before=_decision(one.before),
        after=_decision(one.after),
        count=count,
        last_time=timestamp(last),
    )
