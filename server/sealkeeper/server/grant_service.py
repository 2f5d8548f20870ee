"""GrantService: checks and translates requests, and leaves the rest to ``grants.py``.

What a grant is to be is checked in one place, ``order_of``: when it is asked for, and again when it was approved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from sealkeeper.server.authorization import Action
from sealkeeper.server.calls import current_call
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import InvalidRequestError, PermissionDeniedError
from sealkeeper.server.grant import Grant, GrantOrder, GrantState
from sealkeeper.server.grants import Grants
from sealkeeper.server.key_changes import KeyChanges
from sealkeeper.server.keys import Keys
from sealkeeper.server.new_version import Audit
from sealkeeper.server.policy_engine import OF_BREAK_GLASS, OF_GRANTS
from sealkeeper.server.proposer import Proposer
from sealkeeper.server.resources import (
    GrantName,
    KeyName,
    ResourceName,
    TenantName,
    parse_grant_name,
    parse_key_name,
    parse_tenant_name,
)
from sealkeeper.server.store.database import Alongside
from sealkeeper.server.translation import id_of_page_token, page_size_of, page_token, timestamp, whole_seconds_of
from sealkeeper.v1 import grant_pb2, grant_pb2_grpc

MAX_SUBJECT = 1024
MAX_REASON = 1024
# About tenants, and about imports, which are nobody's key yet: permission for one key would not be enough for them.
_OF_TENANTS = (Action.LIST_KEYS, Action.READ_AUDIT_LOG, Action.IMPORT_KEY)
_STATES = {
    GrantState.ACTIVE: grant_pb2.GRANT_STATE_ACTIVE,
    GrantState.EXPIRED: grant_pb2.GRANT_STATE_EXPIRED,
    GrantState.REVOKED: grant_pb2.GRANT_STATE_REVOKED,
}


class GrantService(grant_pb2_grpc.GrantServiceServicer):
    """Answers for the contract's GrantService.

    Args:
        grants: all grants.
        keys: that grants are for.
        changes: has what is asked for done once, and recorded.
        proposer: has grants approved.
        clock: the time.
    """

    def __init__(self, grants: Grants, keys: Keys, changes: KeyChanges, proposer: Proposer, clock: SteadyClock) -> None:
        self._grants = grants
        self._keys = keys
        self._changes = changes
        self._proposer = proposer
        self._clock = clock

    async def CreateGrant(  # noqa: N802
        self, request: grant_pb2.CreateGrantRequest, context: Any
    ) -> grant_pb2.CreateGrantResponse:
        """Give a workload permission to use one key for a time."""
        parent, key = parse_tenant_name(request.parent, "parent"), parse_key_name(request.key, "key")
        if key.tenant != parent.tenant:
            raise InvalidRequestError.of("key", "must be one of the tenant that parent names")
        call = current_call()
        call.authorize(Action.CREATE_GRANT, key, proposable=True)
        parameters = {
            "subject": request.subject,
            "actions": _names(request.actions or [Action.SIGN]),
            "lifetimeSeconds": whole_seconds_of(request.lifetime, "lifetime"),
        }
        order = order_of(Action.CREATE_GRANT, key, parameters, call.caller.subject, request.reason)
        self._keys.get(key)

        async def create(audit: Audit, also: Alongside[Grant] | None) -> Grant:
            self._grants.require_room(order)
            await self._proposer.require(call, Action.CREATE_GRANT, key, parameters, order.reason)
            return await self._grants.create(order, audit, also)

        grant = await self._changes.once_for(request, request.request_id, create, self._replay)
        return grant_pb2.CreateGrantResponse(grant=_message(grant, self._clock.at_least_latest()))

    async def BreakGlass(  # noqa: N802
        self, request: grant_pb2.BreakGlassRequest, context: Any
    ) -> grant_pb2.BreakGlassResponse:
        """Let the caller do in an emergency what its role may not."""
        resource = _key_or_tenant(request.resource, "resource")
        call = current_call()
        caller = call.authorize(Action.BREAK_GLASS, resource, proposable=True)
        if not caller.is_person:
            raise PermissionDeniedError(
                f"a break-glass is for persons, and {caller.role} is a role of workloads",
                next_step="have a person do what is needed, or give the workload a grant: sealkeeper grants create",
            )
        parameters = {
            "subject": caller.subject,
            "actions": _names(request.actions),
            "lifetimeSeconds": whole_seconds_of(request.lifetime, "lifetime"),
        }
        order = order_of(Action.BREAK_GLASS, resource, parameters, caller.subject, request.reason)
        if isinstance(resource, KeyName) and Action.CREATE_KEY not in order.actions:
            self._keys.get(resource)
        self._grants.require_room(order)
        await self._proposer.require(call, Action.BREAK_GLASS, resource, parameters, order.reason)
        grant = await self._grants.create(order, self._changes.audit())
        return grant_pb2.BreakGlassResponse(grant=_message(grant, self._clock.at_least_latest()))

    async def RevokeGrant(  # noqa: N802
        self, request: grant_pb2.RevokeGrantRequest, context: Any
    ) -> grant_pb2.RevokeGrantResponse:
        """End a grant at once."""
        name = parse_grant_name(request.name, "name")
        current_call().authorize(Action.REVOKE_GRANT, name)
        grant = await self._grants.revoke(name, self._changes.audit())
        return grant_pb2.RevokeGrantResponse(grant=_message(grant, self._clock.at_least_latest()))

    async def GetGrant(  # noqa: N802
        self, request: grant_pb2.GetGrantRequest, context: Any
    ) -> grant_pb2.GetGrantResponse:
        """Look a grant up."""
        name = parse_grant_name(request.name, "name")
        current_call().authorize(Action.GET_GRANT, name)
        return grant_pb2.GetGrantResponse(grant=_message(self._grants.get(name), self._clock.at_least_latest()))

    async def ListGrants(  # noqa: N802
        self, request: grant_pb2.ListGrantsRequest, context: Any
    ) -> grant_pb2.ListGrantsResponse:
        """List a tenant's grants by name."""
        parent = parse_tenant_name(request.parent, "parent")
        current_call().authorize(Action.GET_GRANT, parent)
        size, after = page_size_of(request.page_size), id_of_page_token(request.page_token)
        found, now = self._grants.page(parent.tenant, after, size + 1), self._clock.at_least_latest()
        return grant_pb2.ListGrantsResponse(
            grants=[_message(one, now) for one in found[:size]],
            next_page_token=page_token(found[size - 1].name.id) if len(found) > size else "",
        )

    async def _replay(self, answer: bytes) -> Grant:
        return self._grants.get(msgspec.msgpack.decode(answer, type=_Answer).name)


class _Answer(msgspec.Struct):
    """What is needed of an answer that was kept: the rest is looked up."""

    name: GrantName


def order_of(
    action: Action, resource: ResourceName, parameters: Mapping[str, Any], proposer: str, reason: str
) -> GrantOrder:
    """What a grant is to be: of a request, or of a proposal that was approved.

    Args:
        action: CREATE_GRANT or BREAK_GLASS.
        resource: the key, or of a break-glass the tenant.
        parameters: ``subject``, ``actions`` by name, and ``lifetimeSeconds``.
        proposer: subject of who asks for it; a break-glass is for nobody else.
        reason: why.

    Raises:
        InvalidRequestError: something of it is not allowed; it names the request's field.
    """
    break_glass = action is Action.BREAK_GLASS
    if not isinstance(resource, KeyName) and not (break_glass and isinstance(resource, TenantName)):
        raise InvalidRequestError.of("resource", f"{action} is not about {resource}")
    subject = parameters.get("subject")
    if not isinstance(subject, str) or not _is_text(subject, 1, MAX_SUBJECT):
        raise InvalidRequestError.of("subject", f"must be 1 to {MAX_SUBJECT} printable characters")
    if break_glass and subject != proposer:
        raise InvalidRequestError.of("subject", "must be the caller: a break-glass is for nobody else")
    least = 10 if break_glass else 1
    if not _is_text(reason, least, MAX_REASON):
        raise InvalidRequestError.of("reason", f"must be {least} to {MAX_REASON} printable characters")
    actions = _actions(parameters.get("actions"), OF_BREAK_GLASS if break_glass else OF_GRANTS, resource)
    most, longest = (4 * 3600, "4 hours") if break_glass else (90 * 86_400, "90 days")
    seconds = parameters.get("lifetimeSeconds")
    if not isinstance(seconds, int) or not 60 <= seconds <= most:
        raise InvalidRequestError.of("lifetime", f"must be from 1 minute to {longest}, in whole seconds")
    return GrantOrder(subject, resource, actions, timedelta(seconds=seconds), reason, proposer, break_glass)


def _is_text(text: str, least: int, most: int) -> bool:
    return len(text.strip()) >= least and len(text) <= most and text.isprintable()


def _actions(names: object, allowed: Iterable[Action], resource: ResourceName) -> tuple[Action, ...]:
    known = {str(one): one for one in allowed}
    if not isinstance(names, list) or not names:
        raise InvalidRequestError.of("actions", f"must be some of {', '.join(known)}")
    for one in names:
        if not isinstance(one, str) or one not in known:
            raise InvalidRequestError.of("actions", f"{str(one)[:64]!r} is not one of {', '.join(known)}")
    actions = tuple(known[one] for one in names)
    for action in _OF_TENANTS:
        if action in actions and isinstance(resource, KeyName):
            raise InvalidRequestError.of(
                "actions", f"{action} is not about one key alone: name tenants/{resource.tenant} for it"
            )
    return actions


def _names(actions: Iterable[str]) -> list[str]:
    """Actions in one order, so that what is the same is proposed once."""
    return sorted({str(one) for one in actions})


def _key_or_tenant(text: str, field: str) -> KeyName | TenantName:
    if "/keys/" in text:
        return parse_key_name(text, field)
    try:
        return parse_tenant_name(text, field)
    except InvalidRequestError:
        raise InvalidRequestError.of(field, "must be tenants/{tenant}/keys/{key} or tenants/{tenant}") from None


def _message(grant: Grant, now: datetime) -> grant_pb2.Grant:
    return grant_pb2.Grant(
        name=str(grant.name),
        state=_STATES[grant.state_at(now)],
        subject=grant.subject,
        resource=str(grant.resource),
        actions=[str(one) for one in grant.actions],
        reason=grant.reason,
        break_glass=grant.break_glass,
        created_by=grant.created_by,
        proposal=grant.proposal,
        create_time=timestamp(grant.create_time),
        expire_time=timestamp(grant.expire_time),
        revoke_time=timestamp(grant.revoke_time),
        revoked_by=grant.revoked_by,
    )
