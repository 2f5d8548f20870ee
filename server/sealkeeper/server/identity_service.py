"""IdentityService: tells callers who they are, and what they may do."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sealkeeper.server.authorization import Action, Authorizer, Decision, crosses_tenants
from sealkeeper.server.calls import Call, current_call
from sealkeeper.server.errors import PermissionDeniedError
from sealkeeper.server.identity import Method, Principal
from sealkeeper.server.keys import Keys
from sealkeeper.server.policy_engine import kinds_of
from sealkeeper.server.policy_trials import Answer, answer_of
from sealkeeper.server.resources import (
    GateName,
    GrantName,
    KeyName,
    LogName,
    ProposalName,
    ResourceName,
    TenantName,
    parse_key_name,
)
from sealkeeper.server.translation import timestamp
from sealkeeper.v1 import identity_pb2, identity_pb2_grpc

MAX_KEYS = 100
"""Keys that are looked at where none is named."""
_MAKES = (Action.CREATE_KEY, Action.IMPORT_KEY)
_AT_ONCE = 0.002
"""Seconds after which others have their turn."""
_METHODS = {
    Method.CERTIFICATE: identity_pb2.AUTHENTICATION_METHOD_CERTIFICATE,
    Method.TOKEN: identity_pb2.AUTHENTICATION_METHOD_TOKEN,
    Method.NONE: identity_pb2.AUTHENTICATION_METHOD_NONE,
}


class IdentityService(identity_pb2_grpc.IdentityServiceServicer):
    """Answers for the contract's IdentityService.

    Args:
        authorizer: decides, here as for every call.
        keys: all keys.
    """

    def __init__(self, authorizer: Authorizer, keys: Keys) -> None:
        self._authorizer = authorizer
        self._keys = keys
        # One answer of a tenant is made at a time: it can be a thousand decisions, and each takes milliseconds where
        # the tenant's policy is as large as may be.
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._until = 0.0

    async def WhoAmI(  # noqa: N802
        self, request: identity_pb2.WhoAmIRequest, context: Any
    ) -> identity_pb2.WhoAmIResponse:
        """Tell who the caller is, and what it may do."""
        call = current_call()
        principal = call.caller
        key = parse_key_name(request.key, "key") if request.key else None
        if key is not None:
            _require_own(call, principal, key)
        keys = [key] if key is not None else self._some_keys(principal.tenant)
        permissions, version = [], "0"
        async with self._turns[principal.tenant]:
            for action in Action:
                found, version = await self._best(call, action, self._resources(principal.tenant, action, keys, key))
                permissions.append(
                    identity_pb2.Permission(
                        action=action, allowed=found.allowed, policies=found.policies, approvals=found.approvals
                    )
                )
        return identity_pb2.WhoAmIResponse(
            principal=principal_message(principal), permissions=permissions, policy_version=int(version)
        )

    async def _best(self, call: Call, action: Action, resources: Sequence[ResourceName]) -> tuple[Answer, str]:
        """The answer that leaves most to the caller, and the version of the policy that gave it."""
        found: tuple[Answer, Decision] | None = None
        for resource in resources:
            decision = self._authorizer.decide(call.caller, action, resource, call.address, call.now())
            answer = answer_of(decision, action)
            if found is None or _rank(answer) > _rank(found[0]):
                found = answer, decision
            if answer.allowed and not answer.approvals:
                break
            if time.perf_counter() > self._until:
                # A hundred keys take long to ask about.
                await asyncio.sleep(0)
                self._until = time.perf_counter() + _AT_ONCE
        if found is None:
            raise LookupError(action)
        return found[0], found[1].version

    def _some_keys(self, tenant: str) -> list[KeyName]:
        return [one.name for one in self._keys.page(tenant, "", MAX_KEYS)] or [self._new_key(tenant)]

    def _new_key(self, tenant: str) -> KeyName:
        """Name of a key that is not there."""
        number = 1
        while self._keys.find(KeyName(tenant, f"new-{number}")) is not None:
            number += 1
        return KeyName(tenant, f"new-{number}")

    def _resources(
        self, tenant: str, action: Action, keys: Sequence[KeyName], asked: KeyName | None
    ) -> Sequence[ResourceName]:
        """What an action is asked about."""
        kinds = kinds_of(action)
        if "Key" in kinds:
            # What makes a key is about one that is not there yet, unless one is named.
            new = [self._new_key(tenant)] if action in _MAKES and asked is None else []
            return [*new, *keys]
        if "Log" in kinds:
            return [LogName("audit" if action is Action.READ_AUDIT_LOG else "transparency")]
        if "Tenant" in kinds:
            return [TenantName(tenant)]
        if "Gate" in kinds:
            return [GateName(tenant, "any")]
        # Of no proposal in particular, and so of none that the caller has made.
        return [ProposalName(tenant, "any")] if "Proposal" in kinds else [GrantName(tenant, "any")]


def principal_message(principal: Principal) -> identity_pb2.Principal:
    """A caller."""
    return identity_pb2.Principal(
        tenant=principal.tenant,
        subject=principal.subject,
        role=principal.role,
        method=_METHODS[principal.method],
        person=principal.person,
        issuer=principal.issuer,
        attributes=dict(principal.attributes),
        hardware=principal.hardware,
        acr=principal.acr,
        amr=principal.amr,
        expire_time=timestamp(principal.not_after),
    )


def _require_own(call: Call, principal: Principal, key: KeyName) -> None:
    call.resource = str(key)
    if crosses_tenants(principal, key):
        raise PermissionDeniedError(
            f"{principal.role} of tenant {principal.tenant} may not ask about {key}",
            next_step="ask within your own tenant",
        )


def _rank(answer: Answer) -> tuple[bool, int]:
    return answer.allowed, -answer.approvals
