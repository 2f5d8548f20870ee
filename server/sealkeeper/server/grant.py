"""What a grant is: a permission of one caller that ends by itself; break-glass among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sealkeeper.server.authorization import Action
from sealkeeper.server.policy_engine import Link
from sealkeeper.server.resources import GrantName, KeyName, TenantName


class GrantState(StrEnum):
    """What a grant is now."""

    ACTIVE = "ACTIVE"
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"


@dataclass(frozen=True, slots=True)
class GrantOrder:
    """What is asked for.

    Attributes:
        subject: who is to have it.
        resource: a key, or of a break-glass the tenant, for all of its keys.
        actions: what.
        lifetime: for how long.
        reason: why.
        created_by: who asks for it, by subject.
        break_glass: it is for an emergency; then ``subject`` is a person, else a workload.
    """

    subject: str
    resource: KeyName | TenantName
    actions: Sequence[Action]
    lifetime: timedelta
    reason: str
    created_by: str
    break_glass: bool

    @property
    def tenant(self) -> str:
        """Whose."""
        return self.resource.tenant


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant.

    Attributes:
        name: of it.
        subject: who may.
        resource: a key or a tenant.
        actions: what.
        reason: why.
        break_glass: it is for an emergency; then ``subject`` is a person, else a workload.
        created_by: who asked for it.
        proposal: name of the proposal that brought it; empty where no approval was needed.
        create_time: from when on.
        expire_time: until when; at this moment it is not in force any more.
        revoke_time: when it was ended before that.
        revoked_by: who ended it.
    """

    name: GrantName
    subject: str
    resource: KeyName | TenantName
    actions: tuple[Action, ...]
    reason: str
    break_glass: bool
    created_by: str
    proposal: str
    create_time: datetime
    expire_time: datetime
    revoke_time: datetime | None = None
    revoked_by: str = ""

    def state_at(self, now: datetime) -> GrantState:
        """What it is at a time."""
        if self.revoke_time is not None:
            return GrantState.REVOKED
        return GrantState.ACTIVE if now < self.expire_time else GrantState.EXPIRED

    def in_force_at(self, now: datetime) -> bool:
        """Whether it permits anything at a time."""
        return self.create_time <= now and self.state_at(now) is GrantState.ACTIVE

    @property
    def end_time(self) -> datetime:
        """When it ends, or has ended."""
        return self.revoke_time or self.expire_time

    @property
    def link(self) -> Link:
        """As the policy engine knows it."""
        resource = self.resource.tenant if isinstance(self.resource, TenantName) else self.resource
        return Link(str(self.name), self.subject, self.break_glass, self.actions, resource, self.break_glass)
