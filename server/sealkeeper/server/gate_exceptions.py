"""Gate exceptions: what may run for a time although a gate's policy refuses it.

All exceptions are held in memory; a change is audited, then made durable, then seen, and goes to its end when its
caller hangs up. An exception ends at its second without anybody awake. What it lets through is counted, and the counts
are durable within a moment.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sealkeeper.server.clock import SteadyClock, rfc3339
from sealkeeper.server.errors import (
    FailedPreconditionError,
    InvalidRequestError,
    NotFoundError,
    SealkeeperError,
)
from sealkeeper.server.gate import ExceptionOrder, ExceptionState, GateException
from sealkeeper.server.new_version import Audit
from sealkeeper.server.resources import GateExceptionName, GateName
from sealkeeper.server.store.database import Alongside, writer
from sealkeeper.server.store.gate_tables import GateExceptionTable
from sealkeeper.server.under_way import UnderWay
from sealkeeper.verify.gate.exceptions import GateException as CoreException

MAX_ACTIVE = 1000
"""Exceptions of a gate that are in force at a time."""
MAX_KEPT = 5000
"""Exceptions of a gate that are known at a time."""
KEPT = timedelta(days=90)
"""How long an ended one is kept."""
MAX_PATTERN = 512
MAX_REASON = 1024
_LEAST, _MOST = timedelta(minutes=1), timedelta(days=90)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ENVIRONMENT = re.compile(r"[a-z0-9-]{1,63}")
_log = logging.getLogger("sealkeeper.gates")


class GateExceptions:
    """All exceptions; made by ``open_gate_exceptions``. Used on the event loop.

    Args:
        table: where they are durable.
        clock: the time.
        exceptions: as the table has them.
    """

    def __init__(self, table: GateExceptionTable, clock: SteadyClock, exceptions: Iterable[GateException] = ()) -> None:
        self._table = table
        self._clock = clock
        # By gate, then by id.
        self._exceptions: defaultdict[GateName, dict[str, GateException]] = defaultdict(dict)
        for one in exceptions:
            self._exceptions[one.name.parent][one.name.id] = one
        self._revisions: Counter[GateName] = Counter()
        self._coming: Counter[GateName] = Counter()
        # Since they were made durable last.
        self._uses: Counter[GateExceptionName] = Counter()
        # One for all: changes are few, and each takes a moment.
        self._lock = asyncio.Lock()
        self._changes = UnderWay()

    def get(self, name: GateExceptionName) -> GateException:
        """Look an exception up.

        Raises:
            NotFoundError: there is none.
        """
        found = self._of(name.parent).get(name.id)
        if found is None:
            raise NotFoundError(
                f"there is no exception {name}",
                reason="EXCEPTION_NOT_FOUND",
                next_step="list them: sealkeeper gate exceptions list",
            )
        return self._counted(found)

    def page(self, gate: GateName, after: str, limit: int) -> list[GateException]:
        """Up to ``limit`` exceptions of a gate by name, those after the id ``after``."""
        own = self._of(gate)
        ids = sorted(own)
        start = bisect_right(ids, after)
        return [self._counted(own[id_]) for id_ in ids[start : start + limit]]

    def in_force(self, gate: GateName, now: datetime) -> Sequence[CoreException]:
        """Those in force, as decisions take them."""
        return [one.core for one in self._of(gate).values() if one.state_at(now) is ExceptionState.ACTIVE]

    def known(self, gate: GateName) -> Sequence[CoreException]:
        """Those of before too, each until it ended: for decisions of then."""
        return [one.core for one in self._of(gate).values()]

    def revision(self, gate: GateName) -> int:
        """Changes with every change of a gate's exceptions. That one ends by itself is none."""
        return self._revisions[gate]

    def use(self, name: GateExceptionName) -> None:
        """Count a decision that an exception has let through."""
        if name.id in self._of(name.parent):
            self._uses[name] += 1

    def active(self) -> Mapping[tuple[str, str], tuple[int, float]]:
        """By tenant and gate, how many are in force now, and for how many seconds the oldest of them has been.

        Zero where there were some. From any thread.
        """
        now, found = self._clock.machine(), dict[tuple[str, str], tuple[int, float]]()
        for gate, own in list(self._exceptions.items()):
            starts = [one.create_time for one in list(own.values()) if one.state_at(now) is ExceptionState.ACTIVE]
            oldest = max(((now - one).total_seconds() for one in starts), default=0.0)
            found[gate.tenant, gate.gate] = len(starts), max(oldest, 0.0)
        return found

    def require_room(self, gate: GateName) -> None:
        """Refuse one exception too many.

        Raises:
            FailedPreconditionError: there are as many as are allowed.
        """
        now, own, coming = self._clock.at_least_latest(), self._of(gate), self._coming[gate]
        active = sum(one.state_at(now) is ExceptionState.ACTIVE for one in own.values()) + coming
        if active >= MAX_ACTIVE or len(own) + coming >= MAX_KEPT:
            raise FailedPreconditionError(
                f"{gate} has {active} exceptions in force, and {len(own)} with those that have ended within "
                f"{KEPT.days} days; {MAX_ACTIVE} and {MAX_KEPT} are allowed",
                reason="EXCEPTION_LIMIT",
                next_step="revoke what is not needed, or change the policy: sealkeeper gate exceptions list",
            )

    async def create(
        self, order: ExceptionOrder, audit: Audit, also: Alongside[GateException] | None = None, proposal: str = ""
    ) -> GateException:
        """Make an exception; it is in force when this returns.

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

    async def _create(
        self, order: ExceptionOrder, audit: Audit, also: Alongside[GateException] | None, proposal: str
    ) -> GateException:
        self.require_room(order.gate)
        self._coming[order.gate] += 1
        try:
            # Letters first, as names have them.
            name = GateExceptionName(order.gate.tenant, order.gate.gate, "e" + secrets.token_hex(8))
            made = _ordered(order, name, self._clock.now(), proposal)
            await audit({"exception": _document(made)})
            await self._table.write(made, writer(also, made))
        finally:
            self._coming[order.gate] -= 1
        self._see(made)
        fields = {"exception": str(name), "expireTime": rfc3339(made.expire_time)}
        _log.warning("an exception of a gate is in force", extra={"fields": fields})
        return made

    async def revoke(self, name: GateExceptionName, audit: Audit) -> GateException:
        """End an exception now. One that has ended already stays as it is.

        Raises:
            NotFoundError: there is none.
            SealkeeperError: the database did not take it.
        """

        async def change() -> GateException:
            async with self._lock:
                known = self.get(name)
                # It can be taken away whatever the clock says.
                now = self._clock.at_least_latest()
                state = known.state_at(now)
                await audit({"exception": str(name), "from": state})
                if state is not ExceptionState.ACTIVE:
                    return known
                revoked = replace(known, revoke_time=now, revoked_by=audit.principal.subject)
                await self._table.write(revoked, writer(None, revoked))
                self._uses[name] -= revoked.uses - self._of(name.parent)[name.id].uses
                self._see(revoked)
                return self._counted(revoked)

        return await self._changes.to_the_end(change())

    async def tidy(self, now: datetime) -> None:
        """Make the counts durable, and forget what ended 90 days ago.

        Raises:
            SealkeeperError: the database did not take it; it is tried again the next time.
        """
        await self.flush()
        for one in [one for own in self._exceptions.values() for one in own.values()]:
            if now - one.end_time > KEPT:
                async with self._lock:
                    await self._table.forget(one.name)
                    self._exceptions[one.name.parent].pop(one.name.id, None)
                    self._uses.pop(one.name, None)
                    self._revisions[one.name.parent] += 1

    async def flush(self) -> None:
        """Make it durable how often exceptions were used.

        Raises:
            SealkeeperError: the database did not take it; it is tried again the next time.
        """
        async with self._lock:
            used = {name: count for name, count in self._uses.items() if count and name.id in self._of(name.parent)}
            if not used:
                return
            totals = {name: self._of(name.parent)[name.id].uses + count for name, count in used.items()}
            await self._table.write_uses(totals)
            for name, count in used.items():
                own = self._exceptions[name.parent]
                own[name.id] = replace(own[name.id], uses=totals[name])
                self._uses[name] -= count

    async def close(self) -> None:
        """Wait for the changes under way, and make the counts durable."""
        await self._changes.close()
        try:
            await self.flush()
        except SealkeeperError as error:
            _log.error("how often exceptions of gates were used was not written: %s", error)

    def _counted(self, one: GateException) -> GateException:
        more = self._uses.get(one.name, 0)
        return replace(one, uses=one.uses + more) if more else one

    def _of(self, gate: GateName) -> Mapping[str, GateException]:
        # Of gates that there are not nothing is kept.
        return self._exceptions.get(gate, {})

    def _see(self, one: GateException) -> None:
        self._exceptions[one.name.parent][one.name.id] = one
        self._revisions[one.name.parent] += 1


async def open_gate_exceptions(table: GateExceptionTable, clock: SteadyClock) -> GateExceptions:
    """Read all exceptions.

    Raises:
        SealkeeperError: the database does not answer.
    """
    return GateExceptions(table, clock, await table.read())


def order_of(gate: GateName, parameters: Mapping[str, Any], proposer: str, reason: str) -> ExceptionOrder:
    """What an exception is to be: of a request, or of a proposal that was approved.

    Args:
        gate: whose.
        parameters: ``digest``, ``pattern``, ``environment`` and ``lifetimeSeconds``.
        proposer: subject of who asks for it.
        reason: why.

    Raises:
        InvalidRequestError: something of it is not allowed; it names the request's field.
    """
    digest, pattern = parameters.get("digest"), parameters.get("pattern")
    if not isinstance(digest, str) or not isinstance(pattern, str) or bool(digest) == bool(pattern):
        raise InvalidRequestError.of("what", "must be exactly one of digest and pattern")
    if digest and not _DIGEST.fullmatch(digest):
        raise InvalidRequestError.of("digest", "must be sha256: and 64 lower-case hexadecimal digits")
    if pattern and not _is_pattern(pattern):
        raise InvalidRequestError.of(
            "pattern", f"must be 1 to {MAX_PATTERN} printable characters, some of them letters or digits"
        )
    environment = environment_of(parameters.get("environment"), "environment")
    if not reason.strip() or len(reason) > MAX_REASON or not reason.isprintable():
        raise InvalidRequestError.of("reason", f"must be 1 to {MAX_REASON} printable characters")
    seconds = parameters.get("lifetimeSeconds")
    if not isinstance(seconds, int) or not _LEAST <= timedelta(seconds=min(max(seconds, 0), 10**9)) <= _MOST:
        raise InvalidRequestError.of("lifetime", "must be from 1 minute to 90 days, in whole seconds")
    return ExceptionOrder(gate, digest, pattern, environment, timedelta(seconds=seconds), reason, proposer)


def environment_of(name: object, field: str) -> str:
    """Check an environment; empty for none in particular.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if not isinstance(name, str) or (name and not _ENVIRONMENT.fullmatch(name)):
        raise InvalidRequestError.of(field, 'must be empty, or 1 to 63 of a-z, 0-9 and "-"')
    return name


def _is_pattern(text: str) -> bool:
    # What is of wildcards and separators only would be for everything.
    return len(text) <= MAX_PATTERN and text.isprintable() and any(one.isalnum() for one in text)


def _ordered(order: ExceptionOrder, name: GateExceptionName, now: datetime, proposal: str) -> GateException:
    return GateException(
        name,
        order.digest,
        order.pattern,
        order.environment,
        order.reason,
        order.created_by,
        proposal,
        now,
        now + order.lifetime,
    )


def _document(one: GateException) -> dict[str, object]:
    """For the audit record."""
    return {
        "name": str(one.name),
        "digest": one.digest,
        "pattern": one.pattern,
        "environment": one.environment,
        "reason": one.reason,
        "createdBy": one.created_by,
        "proposal": one.proposal,
        "createTime": rfc3339(one.create_time),
        "expireTime": rfc3339(one.expire_time),
    }
