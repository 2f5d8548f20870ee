"""Grants: what single callers may do for a time, beyond what their tenant's policy lets everybody do.

All grants are held in memory; a change is audited, then made durable, then seen, and goes to its end when its caller
hangs up. A grant ends at its second without anybody awake. What ends by itself is recorded afterwards, where it was a
break-glass; what is revoked is recorded as that.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sealkeeper.server.clock import SteadyClock, rfc3339
from sealkeeper.server.errors import FailedPreconditionError, NotFoundError
from sealkeeper.server.grant import Grant, GrantOrder, GrantState
from sealkeeper.server.new_version import Audit
from sealkeeper.server.policy_engine import Link
from sealkeeper.server.resources import GrantName
from sealkeeper.server.store.database import Alongside, writer
from sealkeeper.server.store.grant_table import GrantTable
from sealkeeper.server.under_way import UnderWay

MAX_ACTIVE = 1000
"""Grants of a tenant that are in force at a time."""
MAX_KEPT = 5000
"""Grants of a tenant that are known at a time."""
KEPT = timedelta(days=30)
_log = logging.getLogger("sealkeeper.grants")


class Grants:
    """All grants; made by ``open_grants``. Used on the event loop.

    Args:
        table: where they are durable.
        clock: the time.
        grants: as the table has them.
        ended: break-glasses whose end is recorded.
    """

    def __init__(
        self, table: GrantTable, clock: SteadyClock, grants: Iterable[Grant] = (), ended: Iterable[GrantName] = ()
    ) -> None:
        self._table = table
        self._clock = clock
        # By tenant, then by id.
        self._grants: defaultdict[str, dict[str, Grant]] = defaultdict(dict)
        for one in grants:
            self._grants[one.name.tenant][one.name.id] = one
        # Whose end is recorded: durably so, and not durably yet.
        self._ended = set(ended)
        self._told: set[GrantName] = set()
        self._revisions: Counter[str] = Counter()
        # Those that are being made, by tenant and whether they are break-glass.
        self._coming: Counter[tuple[str, bool]] = Counter()
        # One for all: changes are few, and each takes a moment.
        self._lock = asyncio.Lock()
        self._changes = UnderWay()

    def get(self, name: GrantName) -> Grant:
        """Look a grant up.

        Raises:
            NotFoundError: there is none.
        """
        found = self._of(name.tenant).get(name.id)
        if found is None:
            raise NotFoundError(
                f"there is no grant {name}", reason="GRANT_NOT_FOUND", next_step="list them: sealkeeper grants list"
            )
        return found

    def page(self, tenant: str, after: str, limit: int) -> list[Grant]:
        """Up to ``limit`` grants of a tenant by name, those after the id ``after``."""
        own = self._of(tenant)
        ids = sorted(own)
        start = bisect_right(ids, after)
        return [own[id_] for id_ in ids[start : start + limit]]

    def links(self, tenant: str, now: datetime) -> Sequence[Link]:
        """What is in force, as the policy engine takes it."""
        return [one.link for one in self._of(tenant).values() if one.in_force_at(now)]

    def emergencies(self, tenant: str, now: datetime) -> frozenset[str]:
        """Names of the break-glasses that are in force, as they are in ``links``."""
        return frozenset(str(one.name) for one in self._of(tenant).values() if one.break_glass and one.in_force_at(now))

    def revision(self, tenant: str) -> int:
        """Changes with every change of a tenant's grants. That one begins or ends by itself is none: ``next_end``."""
        return self._revisions[tenant]

    def next_end(self, tenant: str, now: datetime) -> datetime | None:
        """Until when ``links`` stay as they are, unless something is changed; ``None`` for ever."""
        moments = (
            moment
            for one in self._of(tenant).values()
            if one.revoke_time is None
            for moment in (one.create_time, one.expire_time)
            if moment > now
        )
        return min(moments, default=None)

    def active_emergencies(self) -> Mapping[str, int]:
        """How many break-glasses are in force now, by tenant; zero where there were some. From any thread."""
        now, counts = self._clock.machine(), Counter[str]()
        for tenant, own in list(self._grants.items()):
            for one in list(own.values()):
                if one.break_glass:
                    counts[tenant] += one.in_force_at(now)
        return counts

    def require_room(self, order: GrantOrder) -> None:
        """Refuse one grant too many. Those for emergencies have room of their own: the others keep none of them out.

        Raises:
            FailedPreconditionError: there are as many as are allowed.
        """
        now, coming = self._clock.at_least_latest(), self._coming[order.tenant, order.break_glass]
        own = [one for one in self._of(order.tenant).values() if one.break_glass is order.break_glass]
        active = sum(one.state_at(now) is GrantState.ACTIVE for one in own) + coming
        if active >= MAX_ACTIVE or len(own) + coming >= MAX_KEPT:
            raise FailedPreconditionError(
                f"{order.tenant} has {active} grants in force, and {len(own)} with those that have ended within "
                f"{KEPT.days} days; {MAX_ACTIVE} and {MAX_KEPT} are allowed",
                reason="GRANT_LIMIT",
                next_step="revoke what is not needed, or permit it in the policy: sealkeeper grants list",
            )

    async def create(
        self, order: GrantOrder, audit: Audit, also: Alongside[Grant] | None = None, proposal: str = ""
    ) -> Grant:
        """Make a grant; it is in force when this returns.

        Args:
            order: what is asked for, checked.
            audit: records it before it takes effect.
            also: becomes durable with it.
            proposal: name of the one that brings it; empty where no approval was needed.

        Raises:
            FailedPreconditionError: there are as many as are allowed.
            ClockWentBackError: it cannot be told when it would end.
            SealkeeperError: the database did not take it.
        """
        return await self._changes.to_the_end(self._create(order, audit, also, proposal))

    async def _create(self, order: GrantOrder, audit: Audit, also: Alongside[Grant] | None, proposal: str) -> Grant:
        self.require_room(order)
        self._coming[order.tenant, order.break_glass] += 1
        try:
            # Letters first, as names have them.
            name = GrantName(order.tenant, "g" + secrets.token_hex(8))
            grant = _ordered(order, name, self._clock.now(), proposal)
            await audit({"grant": _document(grant)})
            await self._table.write(grant, writer(also, grant))
        finally:
            self._coming[order.tenant, order.break_glass] -= 1
        self._see(grant)
        if grant.break_glass:
            fields = {"grant": str(name), "expireTime": rfc3339(grant.expire_time)}
            _log.warning("break-glass is in force", extra={"fields": fields})
        return grant

    async def revoke(self, name: GrantName, audit: Audit) -> Grant:
        """End a grant now. One that has ended already stays as it is.

        Raises:
            NotFoundError: there is none.
            SealkeeperError: the database did not take it.
        """

        async def change() -> Grant:
            async with self._lock:
                grant = self.get(name)
                # A permission can be taken away whatever the clock says.
                now = self._clock.at_least_latest()
                state = grant.state_at(now)
                await audit({"grant": str(name), "from": state})
                if state is not GrantState.ACTIVE:
                    return grant
                revoked = replace(grant, revoke_time=now, revoked_by=audit.principal.subject)
                await self._table.write(revoked, writer(None, revoked))
                self._see(revoked)
                return revoked

        return await self._changes.to_the_end(change())

    async def tidy(self, now: datetime, audit: Callable[[Grant], Awaitable[None]]) -> None:
        """Record the ends of break-glasses, each once, and forget what ended 30 days ago.

        Args:
            now: the time.
            audit: makes the record that one has ended by itself durable: ``Gateway/EndBreakGlass``.

        Raises:
            SealkeeperError: the database did not take it; it is tried again the next time.
        """
        for grant in [one for own in self._grants.values() for one in own.values()]:
            if self._is_to_be_recorded(grant, now):
                if grant.name not in self._told:
                    await audit(grant)
                    # A database that is away does not make it be said again.
                    self._told.add(grant.name)
                await self._table.write_ended(grant.name, grant.expire_time)
                self._ended.add(grant.name)
                self._told.discard(grant.name)
            if now - grant.end_time > KEPT:
                await self._forget(grant.name)

    def _is_to_be_recorded(self, grant: Grant, now: datetime) -> bool:
        return grant.break_glass and grant.state_at(now) is GrantState.EXPIRED and grant.name not in self._ended

    async def _forget(self, name: GrantName) -> None:
        async with self._lock:
            await self._table.forget(name)
            self._grants[name.tenant].pop(name.id, None)
            self._ended.discard(name)
            self._revisions[name.tenant] += 1

    async def close(self) -> None:
        """Wait for the changes under way."""
        await self._changes.close()

    def _of(self, tenant: str) -> Mapping[str, Grant]:
        # Of tenants that there are not nothing is kept.
        return self._grants.get(tenant, {})

    def _see(self, grant: Grant) -> None:
        self._grants[grant.name.tenant][grant.name.id] = grant
        self._revisions[grant.name.tenant] += 1


async def open_grants(table: GrantTable, clock: SteadyClock) -> Grants:
    """Read all grants.

    Raises:
        SealkeeperError: the database does not answer.
    """
    return Grants(table, clock, *await table.read())


def _ordered(order: GrantOrder, name: GrantName, now: datetime, proposal: str) -> Grant:
    return Grant(
        name,
        order.subject,
        order.resource,
        tuple(order.actions),
        order.reason,
        order.break_glass,
        order.created_by,
        proposal,
        now,
        now + order.lifetime,
    )


def _document(grant: Grant) -> dict[str, object]:
    """For the audit record."""
    return {
        "name": str(grant.name),
        "subject": grant.subject,
        "resource": str(grant.resource),
        "actions": [str(one) for one in grant.actions],
        "reason": grant.reason,
        "breakGlass": grant.break_glass,
        "createdBy": grant.created_by,
        "proposal": grant.proposal,
        "createTime": rfc3339(grant.create_time),
        "expireTime": rfc3339(grant.expire_time),
    }
