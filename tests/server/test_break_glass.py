"""An emergency from its beginning to its end, with a whole gateway; and what its keys were used for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from sealkeeper.client import Client, ClientError, message_content
from sealkeeper.client.approval_operations import get_proposal
from sealkeeper.client.grant_operations import break_glass, create_grant, get_grant, revoke_grant
from sealkeeper.server.gateway import Gateway
from sealkeeper.server.policy_engine import default_policy
from sealkeeper.v1 import grant_pb2
from tests.e2e.running import DOMAIN, PARENT, TENANT
from tests.server.house import KEY, House, audit_records
from tests.server.people import EXECUTED, decide, proposed

HOUR = timedelta(hours=1)
WHY = "the pipeline is down"


@pytest.fixture
async def house(tmp_path: Path) -> House:
    return await House.make(tmp_path / "gateway", default_policy())


@pytest.fixture
async def gateway(house: House) -> AsyncIterator[Gateway]:
    async with house.running() as running:
        await house.create_key(running)
        yield running


def sign(client: Client) -> Any:
    return client.sign(KEY, message_content(b"x"))


def break_it(client: Client) -> Any:
    return client.call(break_glass(KEY, ["Sign"], lifetime=HOUR, reason=WHY))


async def refused(house: House, gateway: Gateway, who: str, question: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        await house.ask(gateway, who, question)
    return caught.value


async def approve(house: House, gateway: Gateway, proposal: str) -> str:
    """Have the other person approve; the name of the grant that came of it."""
    key = house.directory / "clients" / "admin" / "key.pem"
    done = await house.ask(gateway, "admin", lambda client: decide(client, proposal, key))
    assert done.state == EXECUTED
    outcome: str = done.outcome
    return outcome


async def records(house: House, gateway: Gateway, method: str) -> list[dict[str, Any]]:
    return [one for one in await house.ask(gateway, "admin", audit_records) if one["method"] == method]


async def measured(gateway: Gateway) -> str:
    def read() -> str:
        with urlopen(f"http://{gateway.metrics_address}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    return await asyncio.to_thread(read)


async def test_an_emergency_is_approved_used_and_over_and_all_of_that_is_recorded(
    house: House, gateway: Gateway
) -> None:
    assert (await refused(house, gateway, "custodian", sign)).reason == "PERMISSION_DENIED"
    proposal = proposed(await refused(house, gateway, "custodian", break_it))
    # Until another person has approved, nothing has changed.
    assert (await refused(house, gateway, "custodian", sign)).reason == "PERMISSION_DENIED"
    name = await approve(house, gateway, proposal)
    grant = await house.ask(gateway, "custodian", lambda client: client.call(get_grant(name)))
    assert (grant.break_glass, grant.proposal, grant.reason) == (True, proposal, WHY)
    await house.ask(gateway, "custodian", sign)
    # Whoever approved got nothing by it.
    assert (await refused(house, gateway, "admin", sign)).reason == "PERMISSION_DENIED"
    # What the role may anyway is no use of it.
    await house.ask(gateway, "custodian", lambda client: client.get_key(KEY))
    house.ahead += int(HOUR.total_seconds() * 1e9)
    assert (await refused(house, gateway, "custodian", sign)).reason == "PERMISSION_DENIED"
    await gateway._regular["access"]()
    await gateway._regular["access"]()
    used = [one["details"].get("breakGlass") for one in await records(house, gateway, "SigningService/Sign")]
    assert used == [None, None, name, None, None]
    assert [one["details"].get("breakGlass") for one in await records(house, gateway, "KeyService/GetKey")] == [None]
    [executed] = await records(house, gateway, "Gateway/ExecuteProposal")
    assert executed["details"]["grant"]["name"] == name
    assert [one["details"]["grant"] for one in await records(house, gateway, "Gateway/EndBreakGlass")] == [name]
    [uses] = [
        line
        for line in (await measured(gateway)).splitlines()
        if line.startswith("sealkeeper_break_glass_uses_total") and 'action="Sign"' in line
    ]
    assert uses.endswith(" 1.0")


async def test_an_emergency_can_be_ended_at_once_by_any_person_and_stays_so(house: House, gateway: Gateway) -> None:
    name = await approve(house, gateway, proposed(await refused(house, gateway, "custodian", break_it)))
    await house.ask(gateway, "custodian", sign)
    ended = await house.ask(gateway, "admin", lambda client: client.call(revoke_grant(name)))
    assert ended.state == grant_pb2.GRANT_STATE_REVOKED
    assert (await refused(house, gateway, "custodian", sign)).reason == "PERMISSION_DENIED"
    house.ahead += int(HOUR.total_seconds() * 1e9)
    await gateway._regular["access"]()
    assert await records(house, gateway, "Gateway/EndBreakGlass") == []


async def test_a_grant_lets_one_workload_sign_over_restarts_until_its_time_is_up(house: House) -> None:
    verifier = f"spiffe://{DOMAIN}/tenants/{TENANT}/roles/verifier/verifier"
    asked = create_grant(PARENT, verifier, KEY, lifetime=HOUR, reason="a release", request_id="r1")
    async with house.running() as gateway:
        await house.create_key(gateway)
        proposal = proposed(await refused(house, gateway, "custodian", lambda client: client.call(asked)))
        assert (await refused(house, gateway, "verifier", sign)).reason == "PERMISSION_DENIED"
        name = await approve(house, gateway, proposal)
        await house.ask(gateway, "verifier", sign)
    async with house.running() as gateway:
        await house.ask(gateway, "verifier", sign)
        [first, *_, last] = await records(house, gateway, "SigningService/Sign")
        assert (first["outcome"], last["outcome"], last["policy"]) == ("PERMISSION_DENIED", "OK", name)
        house.ahead += int(HOUR.total_seconds() * 1e9)
        assert (await refused(house, gateway, "verifier", sign)).reason == "PERMISSION_DENIED"


async def test_approvers_see_what_a_version_was_used_for_even_after_a_restart(house: House) -> None:
    contents = [message_content(bytes([number]), f"app-{number}") for number in range(12)]

    def compromise(client: Client) -> Any:
        return client.set_key_version_state(f"{KEY}/versions/1", "COMPROMISED")

    async with house.running() as gateway:
        await house.create_key(gateway)
        await house.ask(gateway, "ci", lambda client: client.sign_batch(KEY, contents))
        await house.ask(gateway, "ci", lambda client: client.sign(KEY, message_content(b"last", "app-last")))
        proposal = proposed(await refused(house, gateway, "custodian", compromise))
        before = (await house.ask(gateway, "admin", lambda client: client.call(get_proposal(proposal)))).proposal.impact
        assert (before.signatures, before.production_signatures) == (13, 0)
        names = [one.name for one in before.recent_artifacts]
        assert names == ["app-last", *(f"app-{number}" for number in range(11, 2, -1))]
    async with house.running() as gateway:
        after = (await house.ask(gateway, "admin", lambda client: client.call(get_proposal(proposal)))).proposal.impact
        assert after == before
