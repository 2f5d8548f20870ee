"""The tenants' policies: which is in force, and those before it.

A policy comes into force by an approved proposal; the first one of a tenant comes with the gateway or from settings.
The one in force is in memory, made ready; a change is recorded, then made durable, then in force.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import ConfigurationError, ConflictError, InvalidRequestError, NotFoundError
from sealkeeper.server.new_version import Audit
from sealkeeper.server.policy_engine import Policy, compile_policy, recovery_policy
from sealkeeper.server.store.database import Alongside, writer
from sealkeeper.server.store.policy_table import PolicyTable
from sealkeeper.server.tenant_policy import TenantPolicy
from sealkeeper.server.under_way import UnderWay

_log = logging.getLogger("sealkeeper.access")


@dataclass(frozen=True, slots=True)
class InForce:
    """The policy that decides.

    Attributes:
        version: which it is.
        policy: ready to be asked.
    """

    version: TenantPolicy
    policy: Policy = field(repr=False)


class Policies:
    """All policies; made by ``open_policies``.

    Args:
        table: where they are durable.
        clock: the time.
        in_force: by tenant.
    """

    def __init__(self, table: PolicyTable, clock: SteadyClock, in_force: Mapping[str, InForce]) -> None:
        self._table = table
        self._clock = clock
        self._in_force = dict(in_force)
        self._revisions: Counter[str] = Counter()
        self._locks = {tenant: asyncio.Lock() for tenant in in_force}
        self._changes = UnderWay()

    def in_force(self, tenant: str) -> InForce:
        """The tenant's policy. There is one of every tenant that the gateway serves."""
        return self._in_force[tenant]

    def revision(self, tenant: str) -> int:
        """Changes with every change of the tenant's policy."""
        return self._revisions[tenant]

    async def get(self, tenant: str, number: int) -> TenantPolicy:
        """A version, whether it is in force or was.

        Args:
            tenant: whose.
            number: of the version; 0 for the one in force.

        Raises:
            NotFoundError: there is none.
            SealkeeperError: the database does not answer.
        """
        current = self._in_force[tenant].version
        if number in (0, current.number):
            return current
        found = await self._table.read(tenant, number) if 1 <= number < current.number else None
        if found is None:
            raise NotFoundError(
                f"there is no version {number} of the policy of {tenant}",
                reason="POLICY_VERSION_NOT_FOUND",
                next_step="list them: sealkeeper policy list",
            )
        return found

    async def page(self, tenant: str, before: int | None, limit: int) -> list[TenantPolicy]:
        """Up to ``limit`` versions newest first, those below the number ``before``.

        Raises:
            SealkeeperError: the database does not answer.
        """
        return await self._table.page(tenant, before, limit)

    async def compiled(self, text: str, field_name: str = "text") -> Policy:
        """Check a draft; not on the event loop, which it would hold up.

        Raises:
            InvalidRequestError: as ``compile_policy``.
        """
        return await asyncio.to_thread(compile_policy, text, field_name)

    def require_base(self, tenant: str, base: int) -> None:
        """Refuse a change that was made from another version than the one in force.

        Raises:
            ConflictError: another has come meanwhile.
        """
        current = self._in_force[tenant].version.number
        if base != current:
            raise ConflictError(
                f"version {current} of the policy is in force, and the change was made from {base}",
                next_step="read the policy again, and make the change in that",
            )

    async def change(
        self, tenant: str, text: str, base: int, proposal: str, audit: Audit, also: Alongside[TenantPolicy] | None
    ) -> TenantPolicy:
        """Put another policy in force.

        Raises:
            InvalidRequestError: the policy is not valid.
            ConflictError: another one came into force since ``base``.
            SealkeeperError: it could not be made durable.
        """

        async def change() -> TenantPolicy:
            async with self._locks[tenant]:
                policy = await self.compiled(text)
                self.require_base(tenant, base)
                author = audit.principal.subject
                made = TenantPolicy(tenant, base + 1, text, self._clock.now(), proposal, author)
                digest = f"sha256:{made.digest.hex()}"
                await audit({"policyVersion": made.number, "policyDigest": digest, "before": base})
                await self._table.write(made, writer(also, made))
                self._in_force[tenant] = InForce(made, policy)
                self._revisions[tenant] += 1
                return made

        return await self._changes.to_the_end(change())

    async def close(self) -> None:
        """Wait for the changes under way."""
        await self._changes.close()


async def open_policies(
    table: PolicyTable,
    clock: SteadyClock,
    first: Mapping[str, str],
    record: Callable[[TenantPolicy], Awaitable[None]],
) -> Policies:
    """Read and make ready the policies in force.

    Args:
        table: where they are.
        clock: the time.
        first: by tenant, the policy of one that has none yet.
        record: makes the record of a first policy, before it is in force.

    Raises:
        ConfigurationError: a first policy is not valid.
        SealkeeperError: the database does not answer.
    """
    found = {}
    for tenant, text in first.items():
        version = await table.newest(tenant)
        if version is None:
            version = TenantPolicy(tenant, 1, text, clock.at_least_latest(), "", "")
            policy = await _first(version)
            await record(version)
            await table.write(version, writer(None, version))
        else:
            policy = await _stored(version)
        found[tenant] = InForce(version, policy)
    return Policies(table, clock, found)


async def _first(version: TenantPolicy) -> Policy:
    try:
        return await asyncio.to_thread(compile_policy, version.text)
    except InvalidRequestError as error:
        raise ConfigurationError(
            f"the first policy of tenant {version.tenant} is not valid: {error}",
            next_step="correct the file that initial_policies names",
        ) from None


async def _stored(version: TenantPolicy) -> Policy:
    """The policy in force. One that an earlier version of the gateway took, and this one does not, permits nothing.

    It keeps nobody else from their work, and its tenant from nothing that puts it right.
    """
    try:
        return await asyncio.to_thread(compile_policy, version.text)
    except InvalidRequestError as error:
        _log.error(
            "version %d of the policy of tenant %s is not one that this version of the gateway takes: nothing is "
            "permitted there but to put another in its place: %s",
            version.number,
            version.tenant,
            error,
        )
        return await asyncio.to_thread(compile_policy, recovery_policy())
