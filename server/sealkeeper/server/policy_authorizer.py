"""Decides by the tenants' policies and grants, and remembers what it has decided.

An answer is remembered for as long as nothing has changed that it could depend on: the tenant's policy, its grants and
their ends, its keys. Where a policy looks at the time or the address of a call, it is asked each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol, TypeAlias

from sealkeeper.server.authorization import Action, Decision, crosses_tenants
from sealkeeper.server.identity import Principal
from sealkeeper.server.keys import Keys
from sealkeeper.server.policies import Policies
from sealkeeper.server.policy_engine import Facts, Link, Policy, Question, concerning, with_grants
from sealkeeper.server.resources import KeyName, KeyVersionName, ProposalName, ResourceName

_MAX_KNOWN = 100_000
"""Decisions that are remembered, of all tenants together; each has an equal share, and at least ``_MIN_KNOWN``."""
_MIN_KNOWN = 1000
_Asked: TypeAlias = tuple[Principal, Action, ResourceName]


class Grants(Protocol):
    """What the authorizer needs to know of grants."""

    def links(self, tenant: str, now: datetime) -> Sequence[Link]:
        """Those in force."""
        ...

    def emergencies(self, tenant: str, now: datetime) -> frozenset[str]:
        """Names of those in force that are break-glass."""
        ...

    def revision(self, tenant: str) -> int:
        """Changes with every change of the tenant's grants."""
        ...

    def next_end(self, tenant: str, now: datetime) -> datetime | None:
        """When the next one in force ends."""
        ...


class Proposed(Protocol):
    """What the authorizer needs to know of proposals."""

    def facts(self, name: ProposalName) -> tuple[str, str, str] | None:
        """Action, proposer and key of a proposal; ``None`` where there is none."""
        ...


@dataclass(slots=True)
class _Ready:
    """A tenant's policy with its grants, as of some state of both and of the keys."""

    state: tuple[int, int, int]
    until: datetime | None
    policy: Policy
    version: str
    # By subject, since Cedar takes longer the more grants it knows.
    links: Mapping[str, Sequence[Link]]
    emergencies: frozenset[str]
    granted: dict[tuple[str, ...], Policy] = field(default_factory=dict)
    known: dict[_Asked, Decision] = field(default_factory=dict)

    def policy_of(self, subject: str, action: Action, resource: ResourceName) -> Policy:
        """The policy with the grants of a subject that concern what is asked."""
        links = concerning(self.links.get(subject, ()), action, resource)
        return with_grants(self.policy, action, links, self.granted)

    def with_keys_of(self, state: tuple[int, int, int]) -> _Ready:
        """The same where nothing has changed but keys: what was decided is forgotten, what was made ready is not."""
        return replace(self, state=state, known={})


class PolicyAuthorizer:
    """Decides.

    Args:
        policies: of the tenants.
        grants: of the tenants.
        keys: whose labels policies look at.
        proposed: what waits for approvals.
    """

    def __init__(self, policies: Policies, grants: Grants, keys: Keys, proposed: Proposed) -> None:
        self._policies = policies
        self._grants = grants
        self._keys = keys
        self._proposed = proposed
        self._ready: dict[str, _Ready] = {}

    def decide(
        self, principal: Principal, action: Action, resource: ResourceName, address: str, now: datetime
    ) -> Decision:
        """As ``Authorizer`` has it."""
        tenant = principal.tenant
        ready = self.ready(tenant, now)
        if crosses_tenants(principal, resource):
            return Decision(False, "tenant-isolation", ready.version)
        # What is known of a proposal begins when it is made, which changes nothing that is looked at here.
        if ready.policy.uses_context or isinstance(resource, ProposalName):
            return self._ask(ready, principal, action, resource, address, now)
        asked = principal, action, resource
        decision = ready.known.get(asked)
        if decision is None:
            decision = self._ask(ready, principal, action, resource, address, now)
            if len(ready.known) >= max(_MIN_KNOWN, _MAX_KNOWN // len(self._ready)):
                ready.known.clear()
            ready.known[asked] = decision
        return decision

    def grants(self, tenant: str, now: datetime) -> tuple[Mapping[str, Sequence[Link]], frozenset[str]]:
        """The grants in force by subject, and the names of those that are break-glass."""
        ready = self.ready(tenant, now)
        return ready.links, ready.emergencies

    def ready(self, tenant: str, now: datetime) -> _Ready:
        """The tenant's policy and the grants in force."""
        ready = self._ready.get(tenant)
        state = self._policies.revision(tenant), self._grants.revision(tenant), self._keys.revision(tenant)
        if ready is not None and ready.state[:2] == state[:2] and (ready.until is None or now < ready.until):
            if ready.state != state:
                ready = self._ready[tenant] = ready.with_keys_of(state)
            return ready
        current = self._policies.in_force(tenant)
        until = self._grants.next_end(tenant, now)
        links: dict[str, list[Link]] = {}
        for one in self._grants.links(tenant, now):
            links.setdefault(one.subject, []).append(one)
        emergencies = self._grants.emergencies(tenant, now)
        version = str(current.version.number)
        ready = self._ready[tenant] = _Ready(state, until, current.policy, version, links, emergencies)
        return ready

    def facts(self, resource: ResourceName) -> Facts:
        """What policies know of a resource."""
        if isinstance(resource, KeyName | KeyVersionName):
            key = self._keys.find(resource if isinstance(resource, KeyName) else resource.parent)
            return Facts(None if key is None else key.labels)
        if isinstance(resource, ProposalName):
            return Facts(proposed=self._proposed.facts(resource) or ("", "", ""))
        return Facts()

    def _ask(
        self,
        ready: _Ready,
        principal: Principal,
        action: Action,
        resource: ResourceName,
        address: str,
        now: datetime,
    ) -> Decision:
        question = Question(principal, action, resource, address, now, self.facts(resource))
        return ready.policy_of(principal.subject, action, resource).decide(question, ready.version, ready.emergencies)
