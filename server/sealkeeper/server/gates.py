"""The tenants' gates: which policy each decides by, and those before it.

A policy comes into force by an approved proposal. The one in force is in memory, read and checked; a change is
recorded, then made durable, then in force.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import (
    ConflictError,
    FailedPreconditionError,
    InvalidRequestError,
    NotFoundError,
)
from sealkeeper.server.gate import GateInForce, GateVersion
from sealkeeper.server.keys import Keys
from sealkeeper.server.new_version import Audit
from sealkeeper.server.resources import GateName, KeyName, KeyVersionName, parse_key_or_version_name
from sealkeeper.server.store.database import Alongside, writer
from sealkeeper.server.store.gate_tables import GateTable
from sealkeeper.server.under_way import UnderWay
from sealkeeper.verify.errors import VerifyError
from sealkeeper.verify.gate.policy import GatePolicy, parse_policy
from sealkeeper.verify.rego import RegoModule

MAX_GATES = 100
"""Of a tenant."""
_log = logging.getLogger("sealkeeper.gates")


class Gates:
    """All gates; made by ``open_gates``. Used on the event loop.

    Args:
        table: where they are durable.
        clock: the time.
        keys: of the tenants, among them those that sign verdicts.
        in_force: all.
    """

    def __init__(self, table: GateTable, clock: SteadyClock, keys: Keys, in_force: Iterable[GateInForce] = ()) -> None:
        self._table = table
        self._clock = clock
        self._keys = keys
        # By tenant, then by gate.
        self._gates: defaultdict[str, dict[str, GateInForce]] = defaultdict(dict)
        for one in in_force:
            self._gates[one.version.name.tenant][one.version.name.gate] = one
        # One for all: changes are few, and each takes a moment.
        self._lock = asyncio.Lock()
        self._changes = UnderWay()

    def in_force(self, name: GateName) -> GateInForce:
        """The policy by which a gate decides.

        Raises:
            NotFoundError: there is no such gate.
        """
        found = self._of(name.tenant).get(name.gate)
        if found is None:
            raise NotFoundError(
                f"there is no gate {name}", reason="GATE_NOT_FOUND", next_step="list them: sealkeeper gate policy list"
            )
        return found

    def page(self, tenant: str, after: str, limit: int) -> list[GateVersion]:
        """Up to ``limit`` versions in force of a tenant's gates by name, those after the gate ``after``."""
        own = self._of(tenant)
        names = sorted(own)
        start = bisect_right(names, after)
        return [own[one].version for one in names[start : start + limit]]

    def all(self) -> list[GateInForce]:
        """Those of all tenants. From any thread."""
        return [one for own in list(self._gates.values()) for one in list(own.values())]

    async def get(self, name: GateName, number: int) -> GateVersion:
        """A version, whether it is in force or was.

        Args:
            name: of the gate.
            number: of the version; 0 for the one in force.

        Raises:
            NotFoundError: there is none.
            SealkeeperError: the database does not answer.
        """
        current = self.in_force(name).version
        if number in (0, current.number):
            return current
        found = await self._table.read(name, number) if 1 <= number < current.number else None
        if found is None:
            raise NotFoundError(
                f"there is no version {number} of the policy of {name}",
                reason="GATE_VERSION_NOT_FOUND",
                next_step="list them: sealkeeper gate policy list GATE",
            )
        return found

    async def versions(self, name: GateName, before: int, limit: int) -> list[GateVersion]:
        """Up to ``limit`` versions newest first, those below the number ``before``.

        Raises:
            SealkeeperError: the database does not answer.
        """
        return await self._table.page(name, before, limit)

    async def read(self, name: GateName, text: str) -> GatePolicy:
        """Check a draft; not on the event loop, which it would hold up.

        Raises:
            InvalidRequestError: with the reason POLICY_INVALID; it names the place.
            NotFoundError: there is no such verdict_key in the tenant.
        """
        policy = await asyncio.to_thread(_read, text)
        if policy.verdict_key:
            self._require_key(name, policy.verdict_key)
        return policy

    def require_base(self, name: GateName, base: int) -> None:
        """Refuse a change that was made from another version than the one in force, and one gate too many.

        Raises:
            ConflictError: another has come meanwhile, or there is no such gate.
            FailedPreconditionError: the tenant has as many as are allowed.
        """
        own = self._of(name.tenant)
        current = own[name.gate].version.number if name.gate in own else 0
        if base != current:
            raise ConflictError(
                f"version {current} of the policy of {name} is in force, and the change was made from {base}",
                next_step="read the policy again, and make the change in that; a new gate is made from 0",
            )
        if not current and len(own) >= MAX_GATES:
            raise FailedPreconditionError(
                f"{name.tenant} has {len(own)} gates; {MAX_GATES} are allowed",
                reason="GATE_LIMIT",
                next_step="put another policy into a gate that is not needed any more",
            )

    async def change(
        self, name: GateName, text: str, base: int, proposal: str, audit: Audit, also: Alongside[GateVersion] | None
    ) -> GateVersion:
        """Put another policy in force.

        Raises:
            InvalidRequestError: the policy is not valid.
            NotFoundError: its verdict_key is not there.
            ConflictError: another one came into force since ``base``.
            FailedPreconditionError: the tenant has as many gates as are allowed.
            SealkeeperError: it could not be made durable.
        """

        async def change() -> GateVersion:
            async with self._lock:
                policy = await self.read(name, text)
                self.require_base(name, base)
                author = audit.principal.subject
                made = GateVersion(name.version(base + 1), text, self._clock.now(), proposal, author)
                digest = f"sha256:{made.digest.hex()}"
                await audit({"gateVersion": str(made.name), "policyDigest": digest, "before": base})
                await self._table.write(made, writer(also, made))
                self._gates[name.tenant][name.gate] = GateInForce(made, policy)
                return made

        return await self._changes.to_the_end(change())

    async def close(self) -> None:
        """Wait for the changes under way."""
        await self._changes.close()

    def _of(self, tenant: str) -> Mapping[str, GateInForce]:
        # Of tenants that there are not nothing is kept.
        return self._gates.get(tenant, {})

    def _require_key(self, gate: GateName, key: str) -> None:
        name = verdict_key(key)
        if name.tenant != gate.tenant:
            # Said the same whether it exists or not.
            raise NotFoundError(
                f"verdict_key: there is no key {key} in the tenant {gate.tenant}",
                reason="KEY_NOT_FOUND",
                next_step="name a key of the gate's own tenant",
            )
        if isinstance(name, KeyVersionName):
            self._keys.get_version(name)
        else:
            self._keys.get(name)


def verdict_key(text: str) -> KeyName | KeyVersionName:
    """The name of a policy's verdict_key.

    Raises:
        InvalidRequestError: it is none.
    """
    return parse_key_or_version_name(text, "text")


async def open_gates(table: GateTable, clock: SteadyClock, keys: Keys) -> Gates:
    """Read the policies in force.

    Raises:
        SealkeeperError: the database does not answer.
    """
    found = await table.newest()
    return Gates(table, clock, keys, [await asyncio.to_thread(_stored, one) for one in found])


def _read(text: str, check: Callable[[str], object] = RegoModule) -> GatePolicy:
    try:
        data = text.encode()
        policy = parse_policy(data)
        for module in {module for rules in (policy.defaults, *policy.environments.values()) for module in rules.rego}:
            check(module)
    except UnicodeEncodeError:
        raise InvalidRequestError.of("text", "is not UTF-8", reason="POLICY_INVALID") from None
    except VerifyError as error:
        raise InvalidRequestError.of(
            "text", str(error)[:1000], reason="POLICY_INVALID", next_step="sealkeeper gate test tells more"
        ) from None
    return policy


def _stored(version: GateVersion) -> GateInForce:
    """The policy in force. One that this version of the gateway does not take, as an earlier one did, refuses all."""
    try:
        # Modules have been checked, and are again when they are asked.
        return GateInForce(version, _read(version.text, str))
    except InvalidRequestError as error:
        _log.error(
            "%s is not one that this version of the gateway takes: the gate refuses everything until another policy is "
            "in its place: %s",
            version.name,
            error,
        )
        return GateInForce(version, None)
