"""The GrantService: what is refused and why, what is proposed, what is done once, and what the audit log says of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from sealkeeper.server import calls
from sealkeeper.server.authorization import Action, Decision, crosses_tenants
from sealkeeper.server.calls import Call
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import (
    AlreadyExistsError,
    ApprovalRequiredError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    SealkeeperError,
)
from sealkeeper.server.grant import GrantOrder
from sealkeeper.server.grant_service import GrantService, order_of
from sealkeeper.server.grants import Grants
from sealkeeper.server.idempotency import RequestLedger
from sealkeeper.server.identity import Principal, Role
from sealkeeper.server.key import Key
from sealkeeper.server.key_changes import KeyChanges
from sealkeeper.server.keys import Keys
from sealkeeper.server.log import AUDIT, Sequencer, open_logs
from sealkeeper.server.policy_engine import Facts, Policy, Question, compile_policy, default_policy
from sealkeeper.server.resources import KeyName, ResourceName, TenantName
from sealkeeper.server.settings import KeySettings
from sealkeeper.server.store.database import Database, open_database
from sealkeeper.server.store.grant_table import GrantTable
from sealkeeper.server.store.key_table import KeyTable
from sealkeeper.v1 import grant_pb2
from tests.log.signer import signers

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = KeyName("acme", "release")
ADA = Principal("acme", "https://issuer.example#ada", Role.CUSTODIAN, person="ada")
BEN = Principal("acme", "https://issuer.example#ben", Role.ADMIN, person="ben")
CI = Principal("acme", "https://issuer.example#repo:acme/app", Role.CI)
FREE = """
@id("people") @approvals("0") permit (principal is Sealkeeper::Person, action, resource);
@id("workloads-break-glass") permit (principal, action == Sealkeeper::Action::"BreakGlass", resource);
"""


class Authorizer:
    """Decides by one policy."""

    def __init__(self, text: str) -> None:
        self.policy: Policy = compile_policy(text)

    def decide(
        self, principal: Principal, action: Action, resource: ResourceName, address: str, now: datetime
    ) -> Decision:
        if crosses_tenants(principal, resource):
            return Decision(False, "tenant-isolation", "1")
        return self.policy.decide(Question(principal, action, resource, address, now, Facts({})), "1")


class Proposals:
    """Takes down what is proposed."""

    def __init__(self) -> None:
        self.proposed: list[tuple[Action, str, Mapping[str, Any], str]] = []

    async def require(
        self, call: Call, action: Action, resource: ResourceName, parameters: Mapping[str, Any], reason: str, /
    ) -> None:
        assert call.decision is not None
        if call.decision.approvals:
            self.proposed.append((action, str(resource), parameters, reason))
            raise ApprovalRequiredError("proposed", metadata={"proposal": "tenants/acme/proposals/p1"})


class Quotas:
    """Without limits."""

    def admit_call(self, principal: Principal) -> None:
        pass

    def admit_signatures(self, principal: Principal, count: int) -> None:
        pass


class House:
    """The service over a real database and real logs."""

    def __init__(self, database: Database, logs: Sequencer) -> None:
        self.now = START
        self.logs = logs
        clock = SteadyClock(lambda: int(self.now.timestamp() * 1e9))
        keys = Keys(
            *(KeyTable(database), {}, None, KeySettings(default_provider="main"), clock),  # type: ignore[arg-type]
            [Key(KEY, "PKIX_ED25519", "main", {}, START, 1, ())],
        )
        self.grants = Grants(GrantTable(database), clock)
        self.ledger = RequestLedger(database, clock, lambda: logs.tree_sizes[AUDIT])
        self.proposals = Proposals()
        changes = KeyChanges(self.ledger, logs, clock)
        self.service = GrantService(self.grants, keys, changes, self.proposals, clock)
        self.authorizer = Authorizer(FREE)

    async def ask(self, method: str, request: Any, principal: Principal = ADA) -> Any:
        call = Call(f"GrantService/{method}", self.authorizer, Quotas(), lambda: self.now, principal)

        async def answer() -> Any:
            calls._current.set(call)
            return await getattr(self.service, method)(request, None)

        return await asyncio.create_task(answer())

    async def create(self, principal: Principal = ADA, **other: Any) -> grant_pb2.Grant:
        response = await self.ask("CreateGrant", create_request(**other), principal)
        made: grant_pb2.Grant = response.grant
        return made

    async def records(self) -> list[dict[str, Any]]:
        return [json.loads(body) async for _, bodies in self.logs.log(AUDIT).entries(0) for body in bodies]


def create_request(**other: Any) -> grant_pb2.CreateGrantRequest:
    members: dict[str, Any] = {
        "parent": "tenants/acme",
        "subject": CI.subject,
        "key": str(KEY),
        "lifetime": Duration(seconds=3600),
        "reason": "a release",
    }
    return grant_pb2.CreateGrantRequest(**{**members, **other})


def break_glass_request(**other: Any) -> grant_pb2.BreakGlassRequest:
    members: dict[str, Any] = {
        "resource": str(KEY),
        "actions": ["Sign"],
        "lifetime": Duration(seconds=3600),
        "reason": "the pipeline is down",
    }
    return grant_pb2.BreakGlassRequest(**{**members, **other})


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    database = await open_database(f"sqlite:///{tmp_path}/metadata.db")
    logs = await open_logs(tmp_path / "logs", signers())
    made = House(database, logs)
    yield made
    await made.ledger.close()
    await logs.close()
    await database.close()


async def test_a_grant_says_who_may_what_why_and_until_when(house: House) -> None:
    made = await house.create()
    assert made.name.startswith("tenants/acme/grants/g")
    assert (made.state, made.subject, made.resource) == (grant_pb2.GRANT_STATE_ACTIVE, CI.subject, str(KEY))
    assert (list(made.actions), made.reason, made.created_by) == (["Sign"], "a release", ADA.subject)
    assert not made.break_glass
    assert made.expire_time.ToDatetime(UTC) == START + timedelta(hours=1)
    assert not made.HasField("revoke_time")
    [record] = await house.records()
    assert (record["action"], record["resource"], record["policy"]) == ("CreateGrant", str(KEY), "people")
    assert record["details"]["grant"]["name"] == made.name
    assert record["details"]["grant"]["subject"] == CI.subject


async def test_a_grant_can_be_looked_up_listed_and_ended(house: House) -> None:
    made = [await house.create() for _ in range(3)]
    one = await house.ask("GetGrant", grant_pb2.GetGrantRequest(name=made[0].name))
    assert one.grant == made[0]
    first = await house.ask("ListGrants", grant_pb2.ListGrantsRequest(parent="tenants/acme", page_size=2))
    rest = await house.ask(
        "ListGrants", grant_pb2.ListGrantsRequest(parent="tenants/acme", page_token=first.next_page_token)
    )
    assert [*first.grants, *rest.grants] == sorted(made, key=lambda grant: grant.name)
    assert rest.next_page_token == ""
    ended = await house.ask("RevokeGrant", grant_pb2.RevokeGrantRequest(name=made[0].name), BEN)
    assert (ended.grant.state, ended.grant.revoked_by) == (grant_pb2.GRANT_STATE_REVOKED, BEN.subject)
    house.now += timedelta(hours=1)
    other = await house.ask("GetGrant", grant_pb2.GetGrantRequest(name=made[1].name))
    assert other.grant.state == grant_pb2.GRANT_STATE_EXPIRED
    assert [one["details"].get("from") for one in await house.records()] == [None, None, None, "ACTIVE"]


async def test_a_grant_is_made_once_for_a_request_id(house: House) -> None:
    made = [await house.create(request_id="r1") for _ in range(2)]
    assert made[0] == made[1]
    assert len(house.grants.page("acme", "", 10)) == 1
    with pytest.raises(AlreadyExistsError):
        await house.create(request_id="r1", reason="another")
    await house.create(request_id="r2")
    assert len(house.grants.page("acme", "", 10)) == 2


async def test_what_needs_approvals_is_proposed_and_not_done(house: House) -> None:
    house.authorizer = Authorizer(default_policy())
    with pytest.raises(ApprovalRequiredError):
        await house.create(actions=["Verify", "Sign", "Sign"], request_id="r1")
    with pytest.raises(ApprovalRequiredError):
        await house.ask("BreakGlass", break_glass_request(resource="tenants/acme", actions=["Sign", "ListKeys"]), BEN)
    assert house.grants.page("acme", "", 10) == []
    assert house.proposals.proposed == [
        (
            *(Action.CREATE_GRANT, str(KEY)),
            {"subject": CI.subject, "actions": ["Sign", "Verify"], "lifetimeSeconds": 3600},
            "a release",
        ),
        (
            *(Action.BREAK_GLASS, "tenants/acme"),
            {"subject": BEN.subject, "actions": ["ListKeys", "Sign"], "lifetimeSeconds": 3600},
            "the pipeline is down",
        ),
    ]


async def test_a_break_glass_needs_an_approval_whatever_the_policy_says(house: House) -> None:
    with pytest.raises(ApprovalRequiredError):
        await house.ask("BreakGlass", break_glass_request())
    assert len(house.proposals.proposed) == 1


async def test_a_break_glass_is_for_persons(house: House) -> None:
    with pytest.raises(PermissionDeniedError, match="persons"):
        await house.ask("BreakGlass", break_glass_request(), CI)
    assert house.proposals.proposed == []


async def test_what_was_approved_is_what_was_proposed(house: House) -> None:
    house.authorizer = Authorizer(default_policy())
    with pytest.raises(ApprovalRequiredError):
        await house.ask("BreakGlass", break_glass_request(actions=["Sign", "RotateKey"]))
    [(action, _, parameters, reason)] = house.proposals.proposed
    assert order_of(action, KEY, json.loads(json.dumps(parameters)), ADA.subject, reason) == GrantOrder(
        *(ADA.subject, KEY, (Action.ROTATE_KEY, Action.SIGN), timedelta(hours=1), reason, ADA.subject),
        break_glass=True,
    )


@pytest.mark.parametrize("method", ["CreateGrant", "BreakGlass"])
async def test_the_key_must_be_there_and_only_who_may_ask_learns_that_it_is_not(house: House, method: str) -> None:
    if method == "CreateGrant":
        request: Any = create_request(key="tenants/acme/keys/nothing")
    else:
        request = break_glass_request(resource="tenants/acme/keys/nothing")
    with pytest.raises(NotFoundError) as caught:
        await house.ask(method, request)
    assert caught.value.reason == "KEY_NOT_FOUND"
    house.authorizer = Authorizer(default_policy())
    with pytest.raises(PermissionDeniedError):
        await house.ask(method, request, CI)


async def test_a_break_glass_for_a_key_that_is_to_be_made_can_be_asked_for(house: House) -> None:
    request = break_glass_request(resource="tenants/acme/keys/nothing", actions=["CreateKey"])
    with pytest.raises(ApprovalRequiredError):
        await house.ask("BreakGlass", request)


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("CreateGrant", create_request(parent="tenants/other", key="tenants/other/keys/release")),
        ("BreakGlass", break_glass_request(resource="tenants/other")),
        ("GetGrant", grant_pb2.GetGrantRequest(name="tenants/other/grants/g1")),
        ("RevokeGrant", grant_pb2.RevokeGrantRequest(name="tenants/other/grants/g1")),
        ("ListGrants", grant_pb2.ListGrantsRequest(parent="tenants/other")),
    ],
)
async def test_another_tenants_grants_are_refused_before_anything_is_looked_up(
    house: House, method: str, request_: Any
) -> None:
    with pytest.raises(PermissionDeniedError):
        await house.ask(method, request_)


@pytest.mark.parametrize("method", ["GetGrant", "RevokeGrant"])
async def test_a_grant_that_there_is_not_is_not_found(house: House, method: str) -> None:
    request = getattr(grant_pb2, f"{method}Request")(name="tenants/acme/grants/g1")
    with pytest.raises(NotFoundError) as caught:
        await house.ask(method, request)
    assert caught.value.reason == "GRANT_NOT_FOUND"


BAD: list[tuple[str, Callable[[], Any], str]] = [
    ("CreateGrant", lambda: create_request(parent="acme"), "parent"),
    ("CreateGrant", lambda: create_request(key="release"), "key"),
    ("CreateGrant", lambda: create_request(key="tenants/other/keys/release"), "key"),
    ("CreateGrant", lambda: create_request(subject=""), "subject"),
    ("CreateGrant", lambda: create_request(subject="x" * 1025), "subject"),
    ("CreateGrant", lambda: create_request(subject="a\nb"), "subject"),
    ("CreateGrant", lambda: create_request(actions=["sign"]), "actions"),
    ("CreateGrant", lambda: create_request(actions=["RotateKey"]), "actions"),
    ("CreateGrant", lambda: create_request(lifetime=Duration(seconds=59)), "lifetime"),
    ("CreateGrant", lambda: create_request(lifetime=Duration(seconds=90 * 86400 + 1)), "lifetime"),
    ("CreateGrant", lambda: create_request(lifetime=Duration(seconds=60, nanos=1)), "lifetime"),
    ("CreateGrant", lambda: create_request(lifetime=Duration(seconds=-60)), "lifetime"),
    ("CreateGrant", lambda: create_request(lifetime=Duration(seconds=2**60)), "lifetime"),
    ("CreateGrant", lambda: create_request(reason=""), "reason"),
    ("CreateGrant", lambda: create_request(reason="x" * 1025), "reason"),
    ("CreateGrant", lambda: create_request(request_id="?"), "request_id"),
    ("BreakGlass", lambda: break_glass_request(resource="release"), "resource"),
    ("BreakGlass", lambda: break_glass_request(resource="tenants/acme/keys/release/versions/1"), "resource"),
    ("BreakGlass", lambda: break_glass_request(actions=[]), "actions"),
    ("BreakGlass", lambda: break_glass_request(actions=["DestroyKeyVersion"]), "actions"),
    ("BreakGlass", lambda: break_glass_request(actions=["UpdatePolicy"]), "actions"),
    ("BreakGlass", lambda: break_glass_request(actions=["Sign", "ReadAuditLog"]), "actions"),
    ("BreakGlass", lambda: break_glass_request(actions=["Sign", "ListKeys"]), "actions"),
    ("BreakGlass", lambda: break_glass_request(actions=["ImportKey"]), "actions"),
    ("BreakGlass", lambda: break_glass_request(lifetime=Duration(seconds=4 * 3600 + 1)), "lifetime"),
    ("BreakGlass", lambda: break_glass_request(reason="too short"), "reason"),
    ("BreakGlass", lambda: break_glass_request(reason=" " * 20), "reason"),
    ("GetGrant", lambda: grant_pb2.GetGrantRequest(name="g1"), "name"),
    ("RevokeGrant", lambda: grant_pb2.RevokeGrantRequest(name="tenants/acme/keys/g1"), "name"),
    ("ListGrants", lambda: grant_pb2.ListGrantsRequest(parent="tenants/acme", page_size=1001), "page_size"),
    ("ListGrants", lambda: grant_pb2.ListGrantsRequest(parent="tenants/acme", page_token="x"), "page_token"),
]


@pytest.mark.parametrize(("method", "make", "field"), BAD)
async def test_what_is_wrong_names_its_field_and_changes_nothing(
    house: House, method: str, make: Callable[[], Any], field: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await house.ask(method, make())
    assert [one.field for one in caught.value.violations] == [field]
    assert house.grants.page("acme", "", 10) == []
    assert house.proposals.proposed == []


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"subject": BEN.subject}, "subject"),
        ({"subject": None}, "subject"),
        ({"actions": None}, "actions"),
        ({"actions": [["Sign"]]}, "actions"),
        ({"lifetimeSeconds": 60.5}, "lifetime"),
        ({"lifetimeSeconds": None}, "lifetime"),
        ({"lifetimeSeconds": 10**30}, "lifetime"),
    ],
)
def test_what_was_approved_is_checked_as_what_is_asked_for(more: dict[str, Any], field: str) -> None:
    parameters = {"subject": ADA.subject, "actions": ["Sign"], "lifetimeSeconds": 60, **more}
    with pytest.raises(InvalidRequestError) as caught:
        order_of(Action.BREAK_GLASS, KEY, parameters, ADA.subject, "the pipeline is down")
    assert [one.field for one in caught.value.violations] == [field]


@pytest.mark.parametrize(
    ("action", "resource"), [(Action.CREATE_GRANT, TenantName("acme")), (Action.BREAK_GLASS, KEY.version(1))]
)
def test_a_grant_is_about_a_key_and_only_a_break_glass_about_a_tenant(action: Action, resource: ResourceName) -> None:
    parameters = {"subject": ADA.subject, "actions": ["Sign"], "lifetimeSeconds": 60}
    with pytest.raises(SealkeeperError):
        order_of(action, resource, parameters, ADA.subject, "the pipeline is down")
