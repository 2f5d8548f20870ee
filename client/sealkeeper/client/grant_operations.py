"""Calls about grants and break-glass, as values; see ``operations.py``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sealkeeper.client.errors import CorruptAnswerError
from sealkeeper.client.operations import Operation, duration_message, new_request_id
from sealkeeper.v1 import grant_pb2

SIGN = "Sign"


def create_grant(
    parent: str,
    subject: str,
    key: str,
    *,
    lifetime: timedelta,
    reason: str,
    actions: Sequence[str] = (),
    request_id: str | None = None,
) -> Operation[grant_pb2.Grant]:
    """Give a workload permission to use a key for a time; no ``actions`` means to sign."""
    request = grant_pb2.CreateGrantRequest(
        parent=parent,
        subject=subject,
        key=key,
        actions=actions,
        lifetime=duration_message(lifetime),
        reason=reason,
        request_id=request_id or new_request_id(),
    )

    def check(response: grant_pb2.CreateGrantResponse) -> grant_pb2.Grant:
        return _require_asked(response.grant, subject, key, actions or (SIGN,), break_glass=False)

    return Operation("GrantService", "CreateGrant", request, check)


def break_glass(
    resource: str, actions: Sequence[str], *, lifetime: timedelta, reason: str
) -> Operation[grant_pb2.Grant]:
    """Let the caller do in an emergency what its role may not; another person approves of it first."""
    request = grant_pb2.BreakGlassRequest(
        resource=resource, actions=actions, lifetime=duration_message(lifetime), reason=reason
    )

    def check(response: grant_pb2.BreakGlassResponse) -> grant_pb2.Grant:
        return _require_asked(response.grant, response.grant.subject, resource, actions, break_glass=True)

    return Operation("GrantService", "BreakGlass", request, check)


def revoke_grant(name: str) -> Operation[grant_pb2.Grant]:
    """End a grant at once."""

    def check(response: grant_pb2.RevokeGrantResponse) -> grant_pb2.Grant:
        grant = _require_named(response.grant, name)
        if grant.state == grant_pb2.GRANT_STATE_ACTIVE:
            raise CorruptAnswerError(
                f"{name} was to be ended and is still in force", next_step="have people look at the gateway"
            )
        return grant

    return Operation("GrantService", "RevokeGrant", grant_pb2.RevokeGrantRequest(name=name), check)


def get_grant(name: str) -> Operation[grant_pb2.Grant]:
    """Look a grant up."""

    def check(response: grant_pb2.GetGrantResponse) -> grant_pb2.Grant:
        return _require_named(response.grant, name)

    return Operation("GrantService", "GetGrant", grant_pb2.GetGrantRequest(name=name), check)


def list_grants(parent: str, page_token: str, page_size: int) -> Operation[grant_pb2.ListGrantsResponse]:
    """A page of grants."""
    request = grant_pb2.ListGrantsRequest(parent=parent, page_token=page_token, page_size=page_size)
    return Operation("GrantService", "ListGrants", request, lambda response: response)


def _require_named(grant: grant_pb2.Grant, name: str) -> grant_pb2.Grant:
    if grant.name != name:
        raise CorruptAnswerError(f"{name} was asked for, another grant came")
    return grant


def _require_asked(
    grant: grant_pb2.Grant, subject: str, resource: str, actions: Sequence[str], *, break_glass: bool
) -> grant_pb2.Grant:
    # A permission that is wider than what was asked for must not go unseen.
    came = (grant.subject, grant.resource, sorted(grant.actions), grant.break_glass)
    if came != (subject, resource, sorted(set(actions)), break_glass):
        raise CorruptAnswerError(
            f"the grant {grant.name} is another than was asked for",
            next_step="look at it, and revoke it: sealkeeper grants show",
        )
    return grant
