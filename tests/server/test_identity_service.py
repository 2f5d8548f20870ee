"""IdentityService in this process: who the caller is, and what would really be decided."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, timedelta
from pathlib import Path

import pytest

from sealkeeper.server import calls
from sealkeeper.server.authorization import Action, UnrestrictedAuthorizer
from sealkeeper.server.calls import Call
from sealkeeper.server.errors import InvalidRequestError, PermissionDeniedError, UnauthenticatedError
from sealkeeper.server.identity import Method, Principal, Role
from sealkeeper.server.identity_service import MAX_KEYS, IdentityService
from sealkeeper.server.resources import KeyName
from sealkeeper.v1 import identity_pb2
from tests.server.policy_house import (
    ADMIN,
    CI,
    CUSTODIAN,
    FORBID_ALL,
    KEY,
    PERMIT_ALL,
    START,
    VERIFIER,
    PolicyHouse,
    Unlimited,
    policy_house,
)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[PolicyHouse]:
    async with policy_house(tmp_path) as made:
        yield made


async def whoami(house: PolicyHouse, who: Principal, key: str = "") -> identity_pb2.WhoAmIResponse:
    house.call(who, "IdentityService/WhoAmI")
    service = IdentityService(house.authorizer, house.keys)
    return await service.WhoAmI(identity_pb2.WhoAmIRequest(key=key), None)


async def allowed(house: PolicyHouse, who: Principal, key: str = "") -> dict[str, int]:
    """How many approvals each action that is allowed needs."""
    found = (await whoami(house, who, key)).permissions
    assert [one.action for one in found] == [str(action) for action in Action]
    return {one.action: one.approvals for one in found if one.allowed}


async def test_all_that_is_known_of_the_caller_is_told(house: PolicyHouse) -> None:
    end = START + timedelta(hours=1)
    job = Principal(
        *("acme", "https://issuer.example#x", Role.CI, end, Method.TOKEN, "", "https://issuer.example"),
        attributes=(("ref", "refs/heads/main"), ("repository", "acme/app")),
        hardware=True,
        acr="gold",
        amr=("otp", "pwd"),
    )
    found = (await whoami(house, job)).principal
    assert (found.tenant, found.subject, found.role) == ("acme", job.subject, "ci")
    assert found.method == identity_pb2.AUTHENTICATION_METHOD_TOKEN
    assert dict(found.attributes) == dict(job.attributes)
    assert (found.hardware, found.acr, list(found.amr)) == (True, "gold", ["otp", "pwd"])
    assert (found.issuer, found.person) == ("https://issuer.example", "")
    assert found.expire_time.ToDatetime(UTC) == end
    assert not (await whoami(house, CI)).principal.HasField("expire_time")


async def test_everybody_may_ask_even_where_nothing_is_permitted(house: PolicyHouse) -> None:
    await house.put_policy(FORBID_ALL)
    for who in (ADMIN, CUSTODIAN, CI, VERIFIER):
        found = await whoami(house, who)
        assert {tuple(one.policies) for one in found.permissions} == {("none",)}
        assert not any(one.allowed for one in found.permissions)
        assert found.policy_version == 2


async def test_what_each_role_may_do_by_the_default_policy_is_told(house: PolicyHouse) -> None:
    await house.put_key({})
    reads = dict.fromkeys(("GetPublicKey", "Verify", "ReadLog", "GetTrustRoot", "GetAttestation"), 0)
    people = dict.fromkeys(
        (
            *("GetKey", "ListKeys", "GetPolicy", "GetGrant", "GetProposal", "GetQuota", "GetGate"),
            *("RevokeGrant", "UpdateQuota", "RevokeGateException", "Approve"),
        ),
        0,
    )
    gates = dict.fromkeys(("EvaluateGate", "GetGate", "ReportGateDecisions"), 0)
    assert await allowed(house, VERIFIER) == {**reads, **gates}
    assert await allowed(house, CI) == {**reads, "GetKey": 0, "Sign": 0, "Attest": 0, "EvaluateGate": 0}
    managed = dict.fromkeys(("CreateKey", "RotateKey", "SetKeyVersionState"), 0)
    proposed = (
        *("ImportKey", "CompromiseKeyVersion", "DestroyKeyVersion", "CreateGrant", "BreakGlass"),
        "CreateGateException",
    )
    assert await allowed(house, CUSTODIAN) == {**reads, **people, **managed, **dict.fromkeys(proposed, 1)}
    assert await allowed(house, ADMIN) == {
        **reads,
        **people,
        **dict.fromkeys(("ReadAuditLog", "SimulatePolicy", "SimulateGate"), 0),
        **dict.fromkeys(("UpdatePolicy", "RaiseQuota", "BreakGlass", "UpdateGate", "CreateGateException"), 1),
    }


async def test_without_a_key_an_action_is_allowed_where_it_is_with_one_of_the_tenants(house: PolicyHouse) -> None:
    await house.put_key({"repository": "acme/app"}, KeyName("acme", "first"))
    assert "Sign" not in await allowed(house, CI)
    await house.put_key({}, KeyName("acme", "second"))
    assert "Sign" in await allowed(house, CI)
    assert "Sign" not in await allowed(house, CI, "tenants/acme/keys/first")
    assert "Sign" in await allowed(house, CI, "tenants/acme/keys/second")


async def test_no_more_keys_are_looked_at_than_may_be(house: PolicyHouse) -> None:
    for number in range(MAX_KEYS):
        await house.put_key({"repository": "acme/app"}, KeyName("acme", f"k{number:03}"))
    await house.put_key({}, KeyName("acme", "z"))
    assert "Sign" not in await allowed(house, CI)


async def test_what_makes_keys_is_about_one_that_is_not_there(house: PolicyHouse) -> None:
    await house.put_key({}, KeyName("acme", "new-1"))
    await house.put_policy(
        '@id("new") permit (principal, action == Sealkeeper::Action::"CreateKey", resource is Sealkeeper::Key) '
        "when { !resource.exists };"
    )
    assert await allowed(house, CI) == {"CreateKey": 0}
    assert await allowed(house, CI, "tenants/acme/keys/new-1") == {}


async def test_a_grant_is_told_by_its_name(house: PolicyHouse) -> None:
    await house.put_key({"repository": "acme/app"})
    grant = await house.grant(CI, Action.SIGN)
    (sign,) = [one for one in (await whoami(house, CI, str(KEY))).permissions if one.action == "Sign"]
    assert (sign.allowed, list(sign.policies)) == (True, [str(grant.name)])


async def test_what_asks_for_approvals_that_it_cannot_wait_for_is_not_allowed(house: PolicyHouse) -> None:
    await house.put_policy(f'@approvals("1") {PERMIT_ALL}')
    found = await allowed(house, CUSTODIAN)
    assert "Sign" not in found
    assert found["ImportKey"] == 1


async def test_approving_is_told_of_a_proposal_of_somebody_else(house: PolicyHouse) -> None:
    await house.put_policy(
        '@id("others") permit (principal, action == Sealkeeper::Action::"Approve", resource) '
        "when { resource.proposer != principal.person };"
    )
    assert await allowed(house, CUSTODIAN) == {"Approve": 0}


async def test_a_key_of_another_tenant_is_refused_and_recorded_whether_it_is_there_or_not(house: PolicyHouse) -> None:
    call = house.call(CI)
    service = IdentityService(house.authorizer, house.keys)
    with pytest.raises(PermissionDeniedError):
        await service.WhoAmI(identity_pb2.WhoAmIRequest(key="tenants/beta/keys/release"), None)
    assert call.resource == "tenants/beta/keys/release"


@pytest.mark.parametrize("key", ["release", "tenants/acme", "tenants/acme/keys/release/versions/1"])
async def test_what_is_no_keys_name_is_refused_by_its_field(house: PolicyHouse, key: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        await whoami(house, CI, key)
    assert raised.value.violations[0].field == "key"


async def test_nobody_is_told_nothing(house: PolicyHouse) -> None:
    calls._current.set(Call("IdentityService/WhoAmI", house.authorizer, Unlimited(), lambda: START))
    with pytest.raises(UnauthenticatedError):
        await IdentityService(house.authorizer, house.keys).WhoAmI(identity_pb2.WhoAmIRequest(), None)


async def test_on_the_insecure_port_everything_is_allowed_and_no_policy_decides(house: PolicyHouse) -> None:
    who = Principal("acme", "anybody", Role.ADMIN, method=Method.NONE)
    house.call(who)
    service = IdentityService(UnrestrictedAuthorizer(), house.keys)
    found = await service.WhoAmI(identity_pb2.WhoAmIRequest(), None)
    assert all(one.allowed for one in found.permissions)
    assert found.policy_version == 0
    assert found.principal.method == identity_pb2.AUTHENTICATION_METHOD_NONE
