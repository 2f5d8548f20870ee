"""What one tenant can make the gateway do, or learn, is bounded: the others do not feel it and are not told of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path

import pytest

from sealkeeper.server import policy_engine
from sealkeeper.server.authorization import Action, Decision
from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.server.identity import Principal
from sealkeeper.server.identity_service import IdentityService
from sealkeeper.server.policy_engine import GRANTABLE, MOST_ALIKE, Link, compile_policy, concerning, default_policy
from sealkeeper.server.resources import KeyName, KeyVersionName, LogName, ResourceName, TenantName
from sealkeeper.v1 import identity_pb2
from tests.server.policy_house import CI, KEY, START, PolicyHouse, policy_house, question

OTHER_KEY = KeyName("acme", "other")
ASKED: Sequence[ResourceName] = (KEY, KEY.version(1), OTHER_KEY, TenantName("acme"), LogName("audit"))


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[PolicyHouse]:
    async with policy_house(tmp_path) as made:
        yield made


def link(number: int, resource: KeyName | str, *actions: Action, break_glass: bool = False) -> Link:
    return Link(f"tenants/acme/grants/g{number:03}", CI.subject, False, actions, resource, break_glass)


def test_the_grants_that_concern_a_question_decide_as_all_of_them_do() -> None:
    policy = compile_policy(default_policy())
    links = [
        link(0, KEY, Action.SIGN, Action.GET_KEY),
        link(1, OTHER_KEY, Action.SIGN),
        link(2, "acme", Action.READ_AUDIT_LOG, Action.LIST_KEYS, break_glass=True),
        link(3, "acme", Action.ROTATE_KEY, break_glass=True),
        link(4, KEY, Action.COMPROMISE_KEY_VERSION),
    ]
    emergencies = frozenset(one.name for one in links if one.break_glass)
    everything, permitted = policy.granting(links), 0
    for action in GRANTABLE:
        for resource in ASKED:
            asked = question(CI, action, resource)
            some = policy.granting(concerning(links, action, resource))
            decision = everything.decide(asked, "1", emergencies)
            assert some.decide(asked, "1", emergencies) == decision
            permitted += decision.allowed and "grants" in decision.policy
    assert permitted > 5


def test_of_many_grants_that_do_the_same_a_few_are_asked_and_break_glasses_among_them() -> None:
    many = [link(number, KEY, Action.SIGN, break_glass=number >= 500) for number in range(1000)]
    found = concerning(many, Action.SIGN, KEY)
    assert [one.name for one in found] == [one.name for one in (*many[:MOST_ALIKE], *many[500 : 500 + MOST_ALIKE])]
    assert not concerning(many, Action.VERIFY, KEY)
    assert not concerning(many, Action.SIGN, OTHER_KEY)
    assert not concerning(many, Action.SIGN, KeyVersionName("acme", "other", 1))


async def test_a_change_of_a_key_makes_no_grants_ready_again(
    house: PolicyHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    granting = policy_engine.Policy.granting

    def counted(policy: policy_engine.Policy, links: Sequence[Link]) -> policy_engine.Policy:
        nonlocal made
        made += 1
        return granting(policy, links)

    monkeypatch.setattr(policy_engine.Policy, "granting", counted)
    await house.put_key({"step": "0"})
    await house.grant(CI, Action.ROTATE_KEY)
    for step in range(1, 4):
        assert house.authorizer.decide(CI, Action.ROTATE_KEY, KEY, "", START).allowed
        await house.put_key({"step": str(step)})
    assert made == 1


async def test_what_is_remembered_of_answers_is_shared_out_among_the_tenants(
    house: PolicyHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealkeeper.server.policy_authorizer._MAX_KNOWN", 10)
    monkeypatch.setattr("sealkeeper.server.policy_authorizer._MIN_KNOWN", 1)
    stranger = Principal("beta", "spiffe://x/ci", CI.role)
    house.authorizer.decide(stranger, Action.SIGN, KeyName("beta", "k"), "", START)
    for number in range(1, 30):
        house.authorizer.decide(CI, Action.SIGN, KeyName("acme", f"k{number}"), "", START)
        assert len(house.authorizer.ready("acme", START).known) <= 5
    assert len(house.authorizer.ready("beta", START).known) == 1


class Counting:
    """An authorizer that notes whose questions it was asked in turn, and permits nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def decide(
        self, principal: Principal, action: Action, resource: ResourceName, address: str, now: datetime
    ) -> Decision:
        self.asked.append(f"{principal.tenant} {principal.subject}")
        return Decision(False, "none", "1")


async def test_a_tenant_is_told_who_it_is_once_at_a_time_and_holds_up_no_other(
    house: PolicyHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealkeeper.server.identity_service._AT_ONCE", -1.0)
    for number in range(10):
        await house.put_key({}, KeyName("acme", f"k{number}"))
    counting = Counting()
    service = IdentityService(counting, house.keys)

    async def whoami(tenant: str, subject: str) -> None:
        house.call(Principal(tenant, subject, CI.role))
        await service.WhoAmI(identity_pb2.WhoAmIRequest(), None)

    callers = [asyncio.create_task(whoami("acme", str(number))) for number in range(3)]
    callers.append(asyncio.create_task(whoami("beta", "x")))
    await asyncio.gather(*callers)
    acmes = [one for one in counting.asked if one.startswith("acme")]
    assert acmes == sorted(acmes)
    # It had its answer while the first of the others' was being made.
    last = max(place for place, one in enumerate(counting.asked) if one.startswith("beta"))
    assert not {"acme 1", "acme 2"} & set(counting.asked[:last])


@pytest.mark.parametrize("call", ['datetime("2024-01-01") < datetime("2025-01-01")', 'ip("10.0.0.1").isIpv4()'])
def test_a_policy_with_very_many_times_and_addresses_in_it_is_refused(call: str) -> None:
    def text(count: int) -> str:
        condition = " || ".join([call] * 50)
        return "".join(
            f'@id("x{one}") permit (principal, action, resource) when {{ {condition} }};' for one in range(count)
        )

    assert compile_policy(text(8)).texts
    with pytest.raises(InvalidRequestError) as refused:
        compile_policy(text(30))
    assert refused.value.reason == "POLICY_INVALID"
    assert "1000 are allowed" in str(refused.value)
