"""Policies, grants and keys of a tenant over a real database, for tests of what decides by them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from sealkeeper.hsm import ProtectionLevel
from sealkeeper.server import calls
from sealkeeper.server.authorization import Action
from sealkeeper.server.calls import Call
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.grant import Grant, GrantOrder
from sealkeeper.server.grants import Grants
from sealkeeper.server.identity import Principal, Role
from sealkeeper.server.key import Key, KeyVersion, State
from sealkeeper.server.keys import Keys
from sealkeeper.server.policies import Policies, open_policies
from sealkeeper.server.policy_authorizer import PolicyAuthorizer
from sealkeeper.server.policy_engine import Facts, Question, default_policy
from sealkeeper.server.resources import KeyName, ProposalName, ResourceName, TenantName
from sealkeeper.server.settings import KeySettings
from sealkeeper.server.store.database import Database, open_database
from sealkeeper.server.store.grant_table import GrantTable
from sealkeeper.server.store.key_table import KeyTable
from sealkeeper.server.store.policy_table import PolicyTable
from sealkeeper.server.tenant_policy import TenantPolicy

TENANT = "acme"
PARENT = "tenants/acme"
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ALGORITHM = "PKIX_ECDSA_P256_SHA_256"
KEY = KeyName(TENANT, "release")
ADMIN = Principal(TENANT, "https://issuer.example#grace", Role.ADMIN, person="grace")
CUSTODIAN = Principal(TENANT, "https://issuer.example#ada", Role.CUSTODIAN, person="ada")
CI = Principal(TENANT, "spiffe://acme.example/tenants/acme/roles/ci/build", Role.CI, issuer="acme.example")
VERIFIER = Principal(TENANT, "spiffe://acme.example/tenants/acme/roles/verifier/gate", Role.VERIFIER)
PERMIT_ALL = '@id("all") permit (principal, action, resource);'
FORBID_ALL = '@id("none") forbid (principal, action, resource);'


def question(
    principal: Principal,
    action: Action,
    resource: ResourceName = KEY,
    labels: Mapping[str, str] | None = None,
    address: str = "127.0.0.1",
    now: datetime = START,
) -> Question:
    return Question(principal, action, resource, address, now, Facts(labels))


class Record:
    """An audit log that takes everything."""

    principal = CUSTODIAN

    async def __call__(self, details: dict[str, object]) -> int:
        return 0


class Unlimited:
    """``Quotas`` without any."""

    def admit_call(self, principal: Principal) -> None:
        pass

    def admit_signatures(self, principal: Principal, count: int) -> None:
        pass


class PolicyHouse:
    """What an authorizer decides by, with a clock that tests set."""

    def __init__(self, database: Database, clock: SteadyClock, policies: Policies) -> None:
        self.now = START
        self.clock = clock
        self.policies = policies
        self.grants = Grants(GrantTable(database), clock)
        settings = KeySettings(default_provider="software")
        self.keys = Keys(KeyTable(database), {}, cast(Any, None), settings, clock, ())
        self.proposals: dict[ProposalName, tuple[str, str, str]] = {}
        self.authorizer = PolicyAuthorizer(policies, self.grants, self.keys, self)

    def facts(self, name: ProposalName) -> tuple[str, str, str] | None:
        """As ``Proposed`` has it."""
        return self.proposals.get(name)

    async def put_policy(self, text: str) -> None:
        current = self.policies.in_force(TENANT).version.number
        await self.policies.change(TENANT, text, current, "", Record(), None)

    async def put_key(self, labels: Mapping[str, str], name: KeyName = KEY) -> None:
        before = self.keys.find(name)
        revision = before.revision + 1 if before else 1
        public = str(name).encode()
        level = ProtectionLevel.SOFTWARE
        version = KeyVersion(name.version(1), State.ACTIVE, ALGORITHM, "software", level, "h", public, START, START)
        await self.keys._write(Key(name, ALGORITHM, "software", labels, START, revision, (version,)), None)

    async def grant(
        self, who: Principal, *actions: Action, resource: KeyName | TenantName = KEY, break_glass: bool = False
    ) -> Grant:
        order = GrantOrder(who.subject, resource, actions, HOUR, "a test", CUSTODIAN.subject, break_glass=break_glass)
        return await self.grants.create(order, Record())

    def call(self, principal: Principal, method: str = "PolicyService/Test") -> Call:
        """What the interceptor does."""
        call = Call(method, self.authorizer, Unlimited(), lambda: self.now, principal, "127.0.0.1")
        calls._current.set(call)
        return call


@asynccontextmanager
async def policy_house(folder: Path, text: str = "") -> AsyncIterator[PolicyHouse]:
    database = await open_database(f"sqlite:///{folder / 'metadata.db'}")
    house: list[PolicyHouse] = []
    clock = SteadyClock(lambda: int((house[0].now if house else START).timestamp() * 1e9))

    async def record(_: TenantPolicy) -> None:
        pass

    first = {TENANT: text or default_policy(), "beta": default_policy()}
    policies = await open_policies(PolicyTable(database), clock, first, record)
    house.append(PolicyHouse(database, clock, policies))
    try:
        yield house[0]
    finally:
        await policies.close()
        await database.close()
