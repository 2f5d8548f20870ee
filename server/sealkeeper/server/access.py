"""Everything by which the gateway decides who may do what, put together: policies, grants, proposals."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from sealkeeper.server.audit import AuditRecord
from sealkeeper.server.authorization import Authorizer, UnrestrictedAuthorizer
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.gate_exceptions import GateExceptions
from sealkeeper.server.gates import Gates
from sealkeeper.server.grant import Grant
from sealkeeper.server.grants import Grants, open_grants
from sealkeeper.server.identities import Identities
from sealkeeper.server.keys import Keys
from sealkeeper.server.log import Sequencer, Submission
from sealkeeper.server.policies import Policies, open_policies
from sealkeeper.server.policy_authorizer import PolicyAuthorizer
from sealkeeper.server.policy_engine import GRANTABLE, default_policy
from sealkeeper.server.proposals import Proposals, Rules
from sealkeeper.server.proposed_changes import ProposedChanges
from sealkeeper.server.quotas import Quotas
from sealkeeper.server.settings import Settings
from sealkeeper.server.store.database import Database
from sealkeeper.server.store.grant_table import GrantTable
from sealkeeper.server.store.policy_table import PolicyTable
from sealkeeper.server.store.proposal_table import ProposalTable
from sealkeeper.server.telemetry import Telemetry
from sealkeeper.server.tenant_policy import TenantPolicy

_log = logging.getLogger("sealkeeper.access")


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what.

    Attributes:
        policies: of the tenants.
        grants: of the tenants.
        proposals: of the tenants.
        policy_authorizer: decides by these.
        authorizer: that decides about calls; another one on the insecure loopback port.
        logs: where what happens by itself is recorded.
        clock: the time.
    """

    policies: Policies
    grants: Grants
    proposals: Proposals
    policy_authorizer: PolicyAuthorizer
    authorizer: Authorizer
    logs: Sequencer
    clock: SteadyClock

    async def tidy(self) -> None:
        """Do what is approved, and close what has come to its end."""
        await self.proposals.tidy()
        await self.grants.tidy(self.clock.at_least_latest(), self._record_end)

    async def close(self) -> None:
        """Wait for the changes under way."""
        await self.proposals.close()
        await self.policies.close()
        await self.grants.close()

    async def _record_end(self, grant: Grant) -> None:
        now = self.clock.at_least_latest()
        details = {"grant": str(grant.name), "subject": grant.subject, "expireTime": grant.expire_time}
        record = AuditRecord(
            now, "Gateway/EndBreakGlass", grant.name.tenant, resource=str(grant.resource), details=details
        )
        await self.logs.submit(Submission(audit=[record.encode()]))
        _log.warning("a break-glass has ended", extra={"fields": {"grant": str(grant.name)}})


async def open_access(
    settings: Settings,
    database: Database,
    keys: Keys,
    quotas: Quotas,
    identities: Identities,
    gates: Gates,
    exceptions: GateExceptions,
    logs: Sequencer,
    clock: SteadyClock,
    telemetry: Telemetry,
) -> Access:
    """Read everything, and do what was approved before the gateway ended.

    Raises:
        ConfigurationError: a policy is not valid, or cannot be read.
        SealkeeperError: the database does not answer.
    """
    first = {
        tenant: await asyncio.to_thread(_initial_policy, settings.initial_policies.get(tenant))
        for tenant in settings.tenants
    }

    async def record(one: TenantPolicy) -> None:
        details = {"policyVersion": one.number, "policyDigest": f"sha256:{one.digest.hex()}"}
        made = AuditRecord(one.create_time, "Gateway/FirstPolicy", one.tenant, resource=one.name, details=details)
        await logs.submit(Submission(audit=[made.encode()]))

    policies = await open_policies(PolicyTable(database), clock, first, record)
    grants = await open_grants(GrantTable(database), clock)
    telemetry.watch_grants(grants, settings.tenants, GRANTABLE)
    table = ProposalTable(database)
    proposals = Proposals(table, logs, clock, await table.read())
    by_policy = PolicyAuthorizer(policies, grants, keys, proposals)
    authorizer: Authorizer = UnrestrictedAuthorizer() if settings.gateway.insecure else by_policy
    rules = Rules(
        settings.gateway.domain,
        settings.approvals.lifetime,
        authorizer,
        identities.require_allowed,
        telemetry.proposal,
        identities.people.name_of,
    )
    proposals.begin(rules, ProposedChanges(keys, policies, grants, quotas, gates, exceptions).executors())
    return Access(policies, grants, proposals, by_policy, authorizer, logs, clock)


def _initial_policy(path: Path | None) -> str:
    if path is None:
        return default_policy()
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"initial_policies: cannot read {path}: {getattr(error, 'strerror', '') or 'it is not UTF-8'}",
            next_step="correct the path, or leave the tenant out for the policy that comes with the gateway",
        ) from None
