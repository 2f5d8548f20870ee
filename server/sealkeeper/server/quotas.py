"""Quotas: how much a tenant, and each of its callers, may ask for; an implementation of ``calls.Quotas``.

Buckets are in memory and full when the gateway starts. What a tenant has set is durable; a change of it is audited,
then made durable, then seen, and goes to its end when its caller hangs up. The ceilings are the operator's: limits that
were set beyond them, before they were lowered, hold as far as the ceilings let them.

Buckets of callers are bounded in number, and only one that is full, so like a new one, is ever forgotten: nobody gets a
new bucket, or takes anybody's away, by coming under many names. While none can be forgotten, further callers of that
tenant share one.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta

import msgspec

from sealkeeper.server.errors import ConfigurationError, ConflictError, FailedPreconditionError, QuotaExceededError
from sealkeeper.server.identity import Principal
from sealkeeper.server.limits import (
    Limits,
    LimitsUpdate,
    Rate,
    capped,
    decimal,
    limits_document,
    require_within,
)
from sealkeeper.server.new_version import Audit
from sealkeeper.server.quota_settings import QuotaSettings
from sealkeeper.server.store.database import Alongside, writer
from sealkeeper.server.store.quota_table import QuotaTable
from sealkeeper.server.token_bucket import TokenBucket
from sealkeeper.server.under_way import UnderWay

MAX_PRINCIPALS = 10_000
"""Callers with buckets of their own, of all tenants together; each tenant has an equal share."""
MIN_PRINCIPALS = 100
"""Callers with buckets of their own that every tenant can have."""
_LOOKED_AT = 8
_LONGEST = 86_400.0


class Usage(msgspec.Struct, frozen=True):
    """What is used of a tenant's limits.

    Attributes:
        calls_available: calls that would be taken at once now.
        signatures_available: signatures that would be made at once now.
        refused: calls and signatures, since the gateway was started.
    """

    calls_available: int
    signatures_available: int
    refused: int


class _Buckets:
    """A pair of buckets."""

    __slots__ = ("calls", "signatures")

    def __init__(self, calls: Rate, signatures: Rate, clock: Callable[[], float]) -> None:
        self.calls = TokenBucket(calls.per_second, calls.burst, clock)
        self.signatures = TokenBucket(signatures.per_second, signatures.burst, clock)

    @property
    def full(self) -> bool:
        return self.calls.full and self.signatures.full

    def limit(self, calls: Rate, signatures: Rate) -> None:
        self.calls.limit(calls.per_second, calls.burst)
        self.signatures.limit(signatures.per_second, signatures.burst)


class _Tenant:
    """A tenant's limits and buckets.

    Args:
        ceilings: the operator's.
        chosen: what the tenant has set.
        most: callers with buckets of their own.
        clock: seconds, monotonic.
    """

    def __init__(self, ceilings: Limits, chosen: LimitsUpdate, most: int, clock: Callable[[], float]) -> None:
        self.ceilings = ceilings
        self.chosen = chosen
        self.limits = limits = capped(chosen.on(ceilings), ceilings)
        self.lock = asyncio.Lock()
        self.refused = 0
        self.own = _Buckets(limits.tenant_calls, limits.tenant_signatures, clock)
        self._clock = clock
        self._most = most
        # The one that called longest ago stands first.
        self._principals: OrderedDict[str, _Buckets] = OrderedDict()
        self._others = self._buckets()

    def choose(self, chosen: LimitsUpdate) -> None:
        """Let other limits hold from now on."""
        before, self.chosen = self.limits, chosen
        self.limits = limits = capped(chosen.on(self.ceilings), self.ceilings)
        self.own.limit(limits.tenant_calls, limits.tenant_signatures)
        calls, signatures = limits.principal_calls, limits.principal_signatures
        # Of callers there are many.
        if (calls, signatures) != (before.principal_calls, before.principal_signatures):
            for one in (*self._principals.values(), self._others):
                one.limit(calls, signatures)

    def principal(self, subject: str) -> _Buckets:
        """The buckets of a caller."""
        found = self._principals.get(subject)
        if found is not None:
            self._principals.move_to_end(subject)
            return found
        if len(self._principals) >= self._most and not self._forgets_one():
            return self._others
        made = self._principals[subject] = self._buckets()
        return made

    def _buckets(self) -> _Buckets:
        return _Buckets(self.limits.principal_calls, self.limits.principal_signatures, self._clock)

    def _forgets_one(self) -> bool:
        for _ in range(_LOOKED_AT):
            subject, buckets = next(iter(self._principals.items()))
            if buckets.full:
                del self._principals[subject]
                return True
            # So that the next ones are looked at another time.
            self._principals.move_to_end(subject)
        return False


class Quotas:
    """The tenants' quotas; made by ``open_quotas``. Used on the event loop.

    Args:
        table: where limits are durable.
        ceilings: by tenant, the operator's.
        chosen: by tenant, as the table has it.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        table: QuotaTable,
        ceilings: Mapping[str, Limits],
        chosen: Mapping[str, LimitsUpdate],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        most = max(MIN_PRINCIPALS, MAX_PRINCIPALS // max(1, len(ceilings)))
        self._table = table
        self._tenants = {
            tenant: _Tenant(limits, chosen.get(tenant, LimitsUpdate()), most, clock)
            for tenant, limits in ceilings.items()
        }
        self._changes = UnderWay()

    def limits(self, tenant: str) -> Limits:
        """What holds now."""
        return self._tenants[tenant].limits

    def ceilings(self, tenant: str) -> Limits:
        """How far the operator lets the tenant go."""
        return self._tenants[tenant].ceilings

    def usage(self, tenant: str) -> Usage:
        """What is used now."""
        known = self._tenants[tenant]
        return Usage(known.own.calls.available, known.own.signatures.available, known.refused)

    def admit_call(self, principal: Principal) -> None:
        """As ``calls.Quotas`` has it."""
        tenant = self._tenants[principal.tenant]
        # The caller's own bucket first: who is refused there takes nothing from the others.
        own = tenant.principal(principal.subject).calls
        if wait := own.take():
            raise _exceeded(tenant, "principal_calls", 1, wait)
        if wait := tenant.own.calls.take():
            own.give_back(1)
            raise _exceeded(tenant, "tenant_calls", 1, wait)

    def admit_signatures(self, principal: Principal, count: int) -> None:
        """As ``calls.Quotas`` has it. For more than a burst at once waiting is no help: without ``retry_after``."""
        tenant = self._tenants[principal.tenant]
        own = tenant.principal(principal.subject).signatures
        if wait := own.take(count):
            raise _exceeded(tenant, "principal_signatures", count, wait)
        if wait := tenant.own.signatures.take(count):
            own.give_back(count)
            raise _exceeded(tenant, "tenant_signatures", count, wait)

    def require_key(self, tenant: str, count: int) -> None:
        """Refuse a further key where a tenant has as many as it may.

        Args:
            tenant: that is to get one.
            count: of the keys that it has.

        Raises:
            FailedPreconditionError: it is one too many.
        """
        most = self._tenants[tenant].limits.keys
        if count >= most:
            raise FailedPreconditionError(
                f"tenant {tenant} has {count} keys; its quota allows {most}",
                reason="QUOTA_KEYS",
                next_step="use a key that there is, or have the limit raised: sealkeeper quota set --keys",
                metadata={"quota": "keys"},
            )

    async def change(
        self,
        tenant: str,
        update: LimitsUpdate,
        audit: Audit,
        also: Alongside[Limits] | None = None,
        *,
        seen: Limits | None = None,
    ) -> Limits:
        """Set limits; the rest stays. What calls have used so far stays used.

        Args:
            tenant: whose.
            update: what is to hold.
            audit: records it before it takes effect.
            also: becomes durable with it.
            seen: the limits that must still hold, where the change was decided on by them.

        Raises:
            FailedPreconditionError: a limit is above its ceiling.
            ConflictError: other limits hold than were seen.
            SealkeeperError: the database did not take it.
        """
        return await self._changes.to_the_end(self._change(tenant, update, audit, also, seen))

    async def _change(
        self,
        tenant: str,
        update: LimitsUpdate,
        audit: Audit,
        also: Alongside[Limits] | None,
        seen: Limits | None,
    ) -> Limits:
        known = self._tenants[tenant]
        async with known.lock:
            before, limits = known.limits, update.on(known.limits)
            if seen is not None and seen != before:
                raise ConflictError("the limits have changed meanwhile", next_step="ask again")
            require_within(limits, known.ceilings)
            await audit({"from": limits_document(before), "to": limits_document(limits)})
            chosen = update.after(known.chosen)
            await self._table.write(tenant, chosen, writer(also, limits))
            known.choose(chosen)
            return limits

    async def close(self) -> None:
        """Wait for the changes under way."""
        await self._changes.close()


async def open_quotas(
    settings: QuotaSettings, tenants: Iterable[str], table: QuotaTable, clock: Callable[[], float] = time.monotonic
) -> Quotas:
    """Read what tenants have set.

    Args:
        settings: of quotas.
        tenants: that the gateway serves.
        table: where limits are durable.
        clock: seconds, monotonic.

    Raises:
        ConfigurationError: there are ceilings of a tenant that there is not.
        SealkeeperError: the database does not answer.
    """
    ceilings = {tenant: settings.ceilings(tenant) for tenant in tenants}
    for tenant in settings.tenants:
        if tenant not in ceilings:
            raise ConfigurationError(
                f"quotas.tenants.{tenant}: there is no such tenant in tenants", next_step="correct the settings named"
            )
    return Quotas(table, ceilings, await table.read(), clock)


def _exceeded(tenant: _Tenant, quota: str, count: int, wait: float) -> QuotaExceededError:
    tenant.refused += count
    rate: Rate = getattr(tenant.limits, quota)
    whose, _, what = quota.partition("_")
    if math.isinf(wait):
        return QuotaExceededError(
            f"{count} {what} at once are more than the {quota} quota ever allows: {rate.burst}",
            next_step=f"ask for at most {rate.burst} at a time, or have the burst raised: sealkeeper quota set",
            metadata={"quota": quota, "burst": str(rate.burst)},
        )
    return QuotaExceededError(
        f"too many {what} of this {'caller' if whose == 'principal' else whose}: {decimal(rate.per_second)} a second "
        f"are allowed, and {rate.burst} at once",
        next_step="retry after the time given, or have the limit raised: sealkeeper quota set",
        # A millisecond more: whoever comes back then is not told to wait for a moment again.
        retry_after=timedelta(milliseconds=math.floor(min(wait, _LONGEST) * 1000) + 1),
        metadata={"quota": quota},
    )
