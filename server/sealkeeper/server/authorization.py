"""Who may do what: deny by default.

Here the role decides, by one table. The seam is ``Authorizer``: a policy engine takes this place without the services
noticing. A name of another tenant is refused before anything is looked up, so that what exists there cannot be told
from what does not.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import msgspec

from sealkeeper.server.identity import Principal, Role
from sealkeeper.server.resources import LogName, ResourceName


class Action(StrEnum):
    """What can be asked for."""

    CREATE_KEY = "CreateKey"
    GET_KEY = "GetKey"
    LIST_KEYS = "ListKeys"
    ROTATE_KEY = "RotateKey"
    IMPORT_KEY = "ImportKey"
    SET_KEY_VERSION_STATE = "SetKeyVersionState"
    GET_PUBLIC_KEY = "GetPublicKey"
    SIGN = "Sign"
    VERIFY = "Verify"
    READ_LOG = "ReadLog"
    READ_AUDIT_LOG = "ReadAuditLog"
    GET_TRUST_ROOT = "GetTrustRoot"


class Decision(msgspec.Struct, frozen=True):
    """An answer with its grounds.

    Attributes:
        allowed: whether.
        policy: which policy decided.
        version: of that policy.
    """

    allowed: bool
    policy: str
    version: str


class Authorizer(Protocol):
    """Decides."""

    def decide(self, principal: Principal, action: Action, resource: ResourceName) -> Decision:
        """Decide; never raises for want of a rule: that is a refusal."""
        ...


_READ = frozenset({Action.GET_PUBLIC_KEY, Action.VERIFY, Action.READ_LOG, Action.GET_TRUST_ROOT})
_READ_KEYS = _READ | {Action.GET_KEY, Action.LIST_KEYS}

# Nobody may do everything: who looks after keys does not sign, who signs does not change keys.
ROLES: dict[Role, frozenset[Action]] = {
    Role.ADMIN: _READ_KEYS | {Action.READ_AUDIT_LOG},
    Role.CUSTODIAN: _READ_KEYS
    | {Action.CREATE_KEY, Action.ROTATE_KEY, Action.IMPORT_KEY, Action.SET_KEY_VERSION_STATE},
    Role.CI: _READ | {Action.SIGN, Action.GET_KEY},
    Role.VERIFIER: _READ,
}


class RoleAuthorizer:
    """Decides by tenant and role."""

    VERSION = "1"

    def decide(self, principal: Principal, action: Action, resource: ResourceName) -> Decision:
        """Allow what the role's row in ``ROLES`` names, within the principal's tenant."""
        if not isinstance(resource, LogName) and resource.tenant != principal.tenant:
            return Decision(False, "tenant-isolation", self.VERSION)
        return Decision(action in ROLES[principal.role], f"role-{principal.role}", self.VERSION)


class UnrestrictedAuthorizer:
    """For the insecure loopback port: its one principal may do everything within its tenant."""

    VERSION = "1"

    def decide(self, principal: Principal, action: Action, resource: ResourceName) -> Decision:
        """Allow within the tenant."""
        if not isinstance(resource, LogName) and resource.tenant != principal.tenant:
            return Decision(False, "tenant-isolation", self.VERSION)
        return Decision(True, "insecure-loopback", self.VERSION)
