"""What is done when a proposal is approved: the parameters of each action, and how it is carried out.

Services make the parameters when something is proposed; approvers sign them; here they are read again and acted on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sealkeeper.server.authorization import Action
from sealkeeper.server.clock import rfc3339
from sealkeeper.server.gate_exceptions import GateExceptions
from sealkeeper.server.gate_exceptions import order_of as exception_order_of
from sealkeeper.server.gates import Gates
from sealkeeper.server.grant_service import order_of
from sealkeeper.server.grants import Grants
from sealkeeper.server.key import State
from sealkeeper.server.keys import Keys, StateChange
from sealkeeper.server.new_version import Audit
from sealkeeper.server.policies import Policies
from sealkeeper.server.proposal import Proposal
from sealkeeper.server.proposals import Executor, Parameters
from sealkeeper.server.quota_service import limits_of
from sealkeeper.server.quotas import Quotas
from sealkeeper.server.resources import parse_gate_name, parse_resource, parse_version_name
from sealkeeper.server.store.database import Alongside

STATES = {
    State.COMPROMISED: Action.COMPROMISE_KEY_VERSION,
    State.DESTROY_SCHEDULED: Action.DESTROY_KEY_VERSION,
}
"""States that take an action of their own to move to; the others take SET_KEY_VERSION_STATE."""


@dataclass(frozen=True, slots=True)
class ProposedChanges:
    """Everything that proposals change."""

    keys: Keys
    policies: Policies
    grants: Grants
    quotas: Quotas
    gates: Gates
    exceptions: GateExceptions

    def executors(self) -> Mapping[Action, Executor]:
        """By action. Imports are not among them: their proposers hand the wrapped key in again."""
        return {
            Action.COMPROMISE_KEY_VERSION: self._set_state,
            Action.DESTROY_KEY_VERSION: self._set_state,
            Action.UPDATE_POLICY: self._update_policy,
            Action.CREATE_GRANT: self._create_grant,
            Action.BREAK_GLASS: self._create_grant,
            Action.RAISE_QUOTA: self._raise_quota,
            Action.UPDATE_GATE: self._update_gate,
            Action.CREATE_GATE_EXCEPTION: self._create_exception,
        }

    async def _set_state(
        self, proposal: Proposal, parameters: Parameters, audit: Audit, also: Alongside[Any]
    ) -> object:
        name = parse_version_name(proposal.resource, "resource")
        return await self.keys.set_state(name, _state_change(proposal.action, parameters), audit, also)

    async def _update_policy(
        self, proposal: Proposal, parameters: Parameters, audit: Audit, also: Alongside[Any]
    ) -> object:
        text, base = parameters["text"], parameters["base"]
        return await self.policies.change(proposal.name.tenant, text, base, str(proposal.name), audit, also)

    async def _create_grant(
        self, proposal: Proposal, parameters: Parameters, audit: Audit, also: Alongside[Any]
    ) -> object:
        resource = parse_resource(proposal.resource)
        order = order_of(proposal.action, resource, parameters, proposal.proposer.subject, proposal.reason)
        return await self.grants.create(order, audit, also, str(proposal.name))

    async def _raise_quota(
        self, proposal: Proposal, parameters: Parameters, audit: Audit, also: Alongside[Any]
    ) -> object:
        return await self.quotas.change(proposal.name.tenant, limits_of(parameters), audit, also)

    async def _update_gate(
        self, proposal: Proposal, parameters: Parameters, audit: Audit, also: Alongside[Any]
    ) -> object:
        gate, text, base = parse_gate_name(proposal.resource, "resource"), parameters["text"], parameters["base"]
        return await self.gates.change(gate, text, base, str(proposal.name), audit, also)

    async def _create_exception(
        self, proposal: Proposal, parameters: Parameters, audit: Audit, also: Alongside[Any]
    ) -> object:
        gate = parse_gate_name(proposal.resource, "resource")
        order = exception_order_of(gate, parameters, proposal.proposer.subject, proposal.reason)
        return await self.exceptions.create(order, audit, also, str(proposal.name))


def state_parameters(change: StateChange) -> dict[str, Any]:
    """What is proposed where a version is to be moved into another state."""
    if change.state is State.COMPROMISED and change.compromise_time is not None:
        return {"compromiseTime": rfc3339(change.compromise_time), "etag": change.etag}
    delay = change.destroy_delay
    return {"destroyDelaySeconds": None if delay is None else int(delay.total_seconds()), "etag": change.etag}


def _state_change(action: Action, parameters: Parameters) -> StateChange:
    if action is Action.COMPROMISE_KEY_VERSION:
        moment = datetime.fromisoformat(parameters["compromiseTime"])
        return StateChange(State.COMPROMISED, compromise_time=moment, etag=parameters["etag"])
    delay = timedelta(seconds=parameters["destroyDelaySeconds"])
    return StateChange(State.DESTROY_SCHEDULED, destroy_delay=delay, etag=parameters["etag"])
