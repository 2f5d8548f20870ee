"""Questions to policies as requests have them: checked, field by field, and made what the policy engine is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from ipaddress import ip_address
from typing import TypeVar

from sealkeeper.server.authorization import Action, crosses_tenants
from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.server.identity import ATTRIBUTES, Method, Principal, Role
from sealkeeper.server.policy_engine import MAX_APPROVALS, Facts, Policy, Question, kind_of, kinds_of
from sealkeeper.server.policy_trials import Answer, Case, CaseResult, unused_policies
from sealkeeper.server.resources import KeyName, KeyVersionName, ResourceName, parse_resource
from sealkeeper.server.translation import labels_of, moment_of
from sealkeeper.v1 import policy_pb2

_MAX_CASES = 1000
_MAX_CASE_NAME = 200
_MAX_SUBJECT = 2048
_MAX_VALUE = 1024
_MAX_AMR = 32
_HERE = "127.0.0.1"
_Name = TypeVar("_Name", bound=StrEnum)


class Questions:
    """Reads questions of one tenant.

    Args:
        tenant: whose.
        now: when they are asked, where they do not say.
        facts: what is known of a resource, where they do not say.
    """

    def __init__(self, tenant: str, now: datetime, facts: Callable[[ResourceName], Facts]) -> None:
        self._tenant = tenant
        self._now = now
        self._facts = facts

    def cases(self, messages: Sequence[policy_pb2.PolicyCase]) -> list[Case]:
        """Read the cases of a test.

        Raises:
            InvalidRequestError: naming the field.
        """
        if not 1 <= len(messages) <= _MAX_CASES:
            raise InvalidRequestError.of("cases", f"has {len(messages)} cases; 1 to {_MAX_CASES} are allowed")
        return [self._case(one, f"cases[{place}]") for place, one in enumerate(messages)]

    def _case(self, message: policy_pb2.PolicyCase, field: str) -> Case:
        require_length(f"{field}.name", message.name, 1, _MAX_CASE_NAME)
        approvals = None
        if message.HasField("approvals"):
            approvals = within(message.approvals, 0, MAX_APPROVALS, f"{field}.approvals")
        return Case(
            message.name, self.one(message.request, f"{field}.request"), message.allowed, message.policy, approvals
        )

    def one(self, message: policy_pb2.AccessRequest, field: str) -> Question:
        """Read a question.

        Raises:
            InvalidRequestError: naming the field.
        """
        principal = _principal(message.principal, self._tenant, f"{field}.principal")
        action = _one_of(Action, message.action, f"{field}.action")
        resource = parse_resource(message.resource, f"{field}.resource")
        _require_fit(principal, action, resource, f"{field}.resource")
        now = moment_of(message.time, f"{field}.time") if message.HasField("time") else self._now
        facts = self._facts_of(message, resource, f"{field}.labels")
        return Question(principal, action, resource, _address(message.address, f"{field}.address"), now, facts)

    def _facts_of(self, message: policy_pb2.AccessRequest, resource: ResourceName, field: str) -> Facts:
        if not message.labels:
            return self._facts(resource)
        if not isinstance(resource, KeyName | KeyVersionName):
            raise InvalidRequestError.of(field, "only keys have labels")
        return Facts(labels_of(message.labels, field))


def results_message(policy: Policy, results: Sequence[CaseResult]) -> policy_pb2.TestPolicyResponse:
    """What became of the cases of a test."""
    return policy_pb2.TestPolicyResponse(
        results=[
            policy_pb2.PolicyCaseResult(name=one.case.name, passed=one.passed, decision=decision_message(one.answer))
            for one in results
        ],
        unused_policies=unused_policies(policy, results),
    )


def decision_message(one: Answer) -> policy_pb2.AccessDecision:
    """What a policy answers."""
    return policy_pb2.AccessDecision(
        allowed=one.allowed, policies=one.policies, approvals=one.approvals, errors=one.errors
    )


def _principal(message: policy_pb2.AccessPrincipal, tenant: str, field: str) -> Principal:
    require_length(f"{field}.subject", message.subject, 1, _MAX_SUBJECT)
    for name in ("person", "issuer", "acr"):
        require_length(f"{field}.{name}", getattr(message, name), 0, _MAX_VALUE)
    if len(message.amr) > _MAX_AMR:
        raise InvalidRequestError.of(f"{field}.amr", f"has {len(message.amr)} methods; at most {_MAX_AMR} are allowed")
    for place, one in enumerate(message.amr):
        require_length(f"{field}.amr[{place}]", one, 1, _MAX_VALUE)
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
        require_length(f"{field}[{name}]", value, 1, _MAX_VALUE)
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


def within(number: int, least: int, most: int, field: str) -> int:
    """A number within bounds.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if not least <= number <= most:
        raise InvalidRequestError.of(field, f"must be from {least} to {most}")
    return number


def require_length(field: str, text: str, least: int, most: int) -> None:
    """See to it that a text has a length within bounds.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if not least <= len(text) <= most:
        raise InvalidRequestError.of(field, f"has {len(text)} characters; {least} to {most} are allowed")
