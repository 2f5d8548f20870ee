"""Who may do what: deny by default.

``Authorizer`` is what the rest of the gateway knows; ``policy_authorizer.py`` decides by the tenant's policy. A name of
another tenant is refused before anything is looked up, so that what exists there cannot be told from what does not.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Protocol

import msgspec

from sealkeeper.server.identity import Principal
from sealkeeper.server.resources import LogName, ResourceName


class Action(StrEnum):
    """What can be asked for; named so in policies (``cedar/schema.cedarschema``)."""

    CREATE_KEY = "CreateKey"
    GET_KEY = "GetKey"
    LIST_KEYS = "ListKeys"
    ROTATE_KEY = "RotateKey"
    IMPORT_KEY = "ImportKey"
    SET_KEY_VERSION_STATE = "SetKeyVersionState"
    COMPROMISE_KEY_VERSION = "CompromiseKeyVersion"
    DESTROY_KEY_VERSION = "DestroyKeyVersion"
    GET_PUBLIC_KEY = "GetPublicKey"
    SIGN = "Sign"
    ATTEST = "Attest"
    GET_ATTESTATION = "GetAttestation"
    VERIFY = "Verify"
    READ_LOG = "ReadLog"
    READ_AUDIT_LOG = "ReadAuditLog"
    GET_TRUST_ROOT = "GetTrustRoot"
    GET_POLICY = "GetPolicy"
    SIMULATE_POLICY = "SimulatePolicy"
    UPDATE_POLICY = "UpdatePolicy"
    GET_GRANT = "GetGrant"
    CREATE_GRANT = "CreateGrant"
    REVOKE_GRANT = "RevokeGrant"
    BREAK_GLASS = "BreakGlass"
    GET_PROPOSAL = "GetProposal"
    APPROVE = "Approve"
    GET_QUOTA = "GetQuota"
    UPDATE_QUOTA = "UpdateQuota"
    RAISE_QUOTA = "RaiseQuota"
    EVALUATE_GATE = "EvaluateGate"
    REPORT_GATE_DECISIONS = "ReportGateDecisions"
    GET_GATE = "GetGate"
    SIMULATE_GATE = "SimulateGate"
    UPDATE_GATE = "UpdateGate"
    CREATE_GATE_EXCEPTION = "CreateGateException"
    REVOKE_GATE_EXCEPTION = "RevokeGateException"


PROPOSABLE: dict[Action, int] = {
    Action.DESTROY_KEY_VERSION: 1,
    Action.COMPROMISE_KEY_VERSION: 1,
    Action.IMPORT_KEY: 1,
    Action.UPDATE_POLICY: 1,
    Action.RAISE_QUOTA: 1,
    Action.BREAK_GLASS: 1,
    Action.CREATE_GRANT: 0,
    Action.UPDATE_GATE: 1,
    Action.CREATE_GATE_EXCEPTION: 1,
}
"""Actions that can wait for approvals, and how many they need where the policy that permits them does not say."""

ALWAYS_APPROVED = frozenset({Action.UPDATE_POLICY, Action.BREAK_GLASS, Action.UPDATE_GATE})
"""Actions that need an approval of another person whatever the policy says."""


class Decision(msgspec.Struct, frozen=True):
    """An answer with its grounds.

    Attributes:
        allowed: whether.
        policy: which policy decided, by id; several are parted by commas.
        version: of the tenant's policy.
        approvals: how many others must approve first.
        break_glass: name of the break-glass that permits it; empty where it would be permitted anyway.
    """

    allowed: bool
    policy: str
    version: str
    approvals: int = 0
    break_glass: str = ""


class Authorizer(Protocol):
    """Decides."""

    def decide(
        self, principal: Principal, action: Action, resource: ResourceName, address: str, now: datetime
    ) -> Decision:
        """Decide; never raises for want of a rule: that is a refusal.

        Args:
            principal: who asks.
            action: for what.
            resource: about what.
            address: IP address that the call comes from.
            now: UTC.
        """
        ...


def crosses_tenants(principal: Principal, resource: ResourceName) -> bool:
    """Whether the resource is another tenant's, to which the answer is no whatever it is."""
    return not isinstance(resource, LogName) and resource.tenant != principal.tenant


class UnrestrictedAuthorizer:
    """For the insecure loopback port: its one principal may do everything within its tenant, without approvals."""

    VERSION = "0"

    def decide(
        self, principal: Principal, action: Action, resource: ResourceName, address: str, now: datetime
    ) -> Decision:
        """Allow within the tenant."""
        if crosses_tenants(principal, resource):
            return Decision(False, "tenant-isolation", self.VERSION)
        return Decision(True, "insecure-loopback", self.VERSION)
