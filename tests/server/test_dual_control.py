"""Dual control: nothing that takes two people is done by one, and what two have agreed on is done once."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sealkeeper.client import Client, ClientError, Connection, message_content
from sealkeeper.client.approval_operations import (
    content_of,
    decide_proposal,
    get_proposal,
    list_proposals,
    read_approval_key,
    sign_decision,
    withdraw_proposal,
)
from sealkeeper.client.policy_operations import get_policy, update_policy
from sealkeeper.server.errors import UnavailableError
from sealkeeper.server.gateway import Gateway
from sealkeeper.server.identity import Role
from sealkeeper.server.keys import Keys
from sealkeeper.server.policy_engine import default_policy
from sealkeeper.v1 import approval_pb2, resources_pb2
from tests.e2e.running import P256, PARENT
from tests.server.house import KEY, House, audit_records
from tests.server.people import (
    APPROVED,
    EXECUTED,
    EXPIRED,
    FAILED,
    PENDING,
    REJECTED,
    WITHDRAWN,
    add_person,
    decide,
    proposed,
)
from tests.wrapping import new_private_key, pkcs8, spki, wrap

T = TypeVar("T")
V1 = f"{KEY}/versions/1"
COMPROMISED = resources_pb2.KEY_VERSION_STATE_COMPROMISED
DAY = 86_400_000_000_000


class People:
    """A gateway with the policy that tenants begin with, and those who use it."""

    def __init__(self, house: House, gateway: Gateway) -> None:
        self.house = house
        self.gateway = gateway

    async def ask(self, who: str, question: Callable[[Client], T]) -> T:
        return await self.house.ask(self.gateway, who, question)

    async def refused(self, who: str, question: Callable[[Client], Any]) -> ClientError:
        with pytest.raises(ClientError) as caught:
            await self.ask(who, question)
        return caught.value

    def key(self, who: str) -> Path:
        return self.house.directory / "clients" / who / "key.pem"

    async def propose(self, who: str = "custodian") -> str:
        """That version 1 be marked as compromised."""
        return proposed(await self.refused(who, compromise))

    async def decide(self, who: str, proposal: str, decision: str = "APPROVE") -> approval_pb2.Proposal:
        key = self.key(who)
        made: approval_pb2.Proposal = await self.ask(who, lambda client: decide(client, proposal, key, decision))
        return made

    async def state(self) -> int:
        return (await self.ask("custodian", lambda client: client.get_key_version(V1))).state

    async def records(self, method: str) -> list[dict[str, Any]]:
        return [one for one in await self.ask("admin", audit_records) if one["method"] == method]


def sign(client: Client) -> Any:
    return client.sign(KEY, message_content(b"x"))


def compromise(client: Client) -> Any:
    return client.set_key_version_state(V1, "COMPROMISED")


@pytest.fixture
async def house(tmp_path: Path) -> House:
    return await House.make(tmp_path / "gateway", default_policy())


@pytest.fixture
async def people(house: House) -> AsyncIterator[People]:
    async with house.running() as gateway:
        await house.create_key(gateway)
        yield People(house, gateway)


async def test_what_takes_two_people_is_done_when_the_second_one_has_approved_and_not_before(people: People) -> None:
    proposal = await people.propose()
    assert await people.state() != COMPROMISED
    done = await people.decide("admin", proposal)
    assert done.state == EXECUTED
    assert await people.state() == COMPROMISED
    [record] = await people.records("Gateway/ExecuteProposal")
    assert record["details"]["proposal"] == proposal
    assert [one["person"] for one in record["details"]["approvals"]] == ["admin"]
    assert done.outcome


async def test_asked_for_again_it_is_the_same_proposal_and_with_other_content_another(people: People) -> None:
    first = await people.propose()
    assert await people.propose() == first
    other = await people.refused("custodian", lambda client: client.set_key_version_state(V1, "COMPROMISED", etag="r1"))
    assert proposed(other) != first


async def test_nobody_is_asked_to_approve_of_what_cannot_be_done(people: People) -> None:
    error = await people.refused("custodian", lambda client: client.set_key_version_state(V1, "DESTROY_SCHEDULED"))
    assert error.reason == "STATE_TRANSITION_REFUSED"
    assert not (await people.ask("admin", lambda client: client.call(list_proposals(PARENT)))).proposals


async def test_a_person_does_not_approve_of_their_own_proposal_by_whatever_certificate(people: People) -> None:
    directory = people.house.directory
    proposal = await people.propose()
    same_person = add_person(directory, Role.ADMIN, "custodian")
    same_key = add_person(directory, Role.ADMIN, "somebody-else", key_of="custodian")
    for who in ("custodian", same_person, same_key):
        error = await people.refused(who, partial(decide, proposal=proposal, key=people.key(who)))
        assert error.reason == "SELF_APPROVAL", who
    assert await people.state() != COMPROMISED
    refusals = [one["outcome"] for one in await people.records("ApprovalService/DecideProposal")]
    assert refusals == ["SELF_APPROVAL"] * 3


async def test_one_person_counts_once_by_whatever_certificate(house: House) -> None:
    text = default_policy().replace('@approvals("1")', '@approvals("2")')
    (house.directory / "acme.cedar").write_text(text)
    async with house.running() as gateway:
        await house.create_key(gateway)
        people = People(house, gateway)
        proposal = await people.propose()
        assert (await people.decide("admin", proposal)).state == PENDING
        again = add_person(house.directory, Role.CUSTODIAN, "admin")
        same_key = add_person(house.directory, Role.CUSTODIAN, "third", key_of="admin")
        for who in ("admin", again, same_key):
            error = await people.refused(who, partial(decide, proposal=proposal, key=people.key(who)))
            assert error.reason == "APPROVAL_EXISTS", who
        second = add_person(house.directory, Role.CUSTODIAN, "second")
        assert (await people.decide(second, proposal)).state == EXECUTED


async def test_a_statement_about_other_content_counts_for_nothing(people: People) -> None:
    first = await people.propose()
    other = proposed(
        await people.refused("custodian", lambda client: client.set_key_version_state(V1, "COMPROMISED", etag="r1"))
    )
    key = read_approval_key(people.key("admin"))

    def cross(client: Client) -> Any:
        content = content_of(client.call(get_proposal(other)).proposal)
        return client.call(decide_proposal(first, sign_decision(content, "APPROVE", "", key)))

    assert (await people.refused("admin", cross)).reason == "APPROVAL_CONTENT_MISMATCH"
    assert await people.state() != COMPROMISED


async def test_a_statement_that_somebody_else_signed_counts_for_nothing(people: People) -> None:
    proposal = await people.propose()
    foreign = people.key("verifier")
    error = await people.refused("admin", lambda client: decide(client, proposal, foreign))
    assert error.reason == "APPROVAL_SIGNATURE_INVALID"
    junk = await people.refused("admin", lambda client: client.call(decide_proposal(proposal, b"{}")))
    assert junk.reason == "APPROVAL_SIGNATURE_INVALID"


async def test_workloads_do_not_approve(people: People) -> None:
    proposal, key = await people.propose(), people.key("ci")
    error = await people.refused("ci", lambda client: decide(client, proposal, key))
    assert error.reason == "PERMISSION_DENIED"


async def test_a_rejection_closes_a_proposal_for_good(people: People) -> None:
    proposal = await people.propose()
    assert (await people.decide("admin", proposal, "REJECT")).state == REJECTED
    second = add_person(people.house.directory, Role.CUSTODIAN, "second")
    key = people.key(second)
    error = await people.refused(second, lambda client: decide(client, proposal, key))
    assert error.reason == "PROPOSAL_CLOSED"
    assert await people.propose() != proposal


async def test_an_approval_that_is_taken_back_does_not_count(house: House) -> None:
    (house.directory / "acme.cedar").write_text(default_policy().replace('@approvals("1")', '@approvals("2")'))
    async with house.running() as gateway:
        await house.create_key(gateway)
        people = People(house, gateway)
        proposal = await people.propose()
        await people.decide("admin", proposal)
        await people.ask("admin", lambda client: client.call(withdraw_proposal(proposal)))
        second = add_person(house.directory, Role.CUSTODIAN, "second")
        assert (await people.decide(second, proposal)).state == PENDING
        assert await people.state() != COMPROMISED
        assert (await people.decide("admin", proposal)).state == EXECUTED


async def test_a_proposer_takes_back_and_nobody_else_does(people: People) -> None:
    proposal = await people.propose()
    second = add_person(people.house.directory, Role.CUSTODIAN, "second")
    error = await people.refused(second, lambda client: client.call(withdraw_proposal(proposal)))
    assert error.reason == "NOTHING_TO_WITHDRAW"
    taken = await people.ask("custodian", lambda client: client.call(withdraw_proposal(proposal)))
    assert taken.state == WITHDRAWN
    key = people.key("admin")
    assert (await people.refused("admin", lambda client: decide(client, proposal, key))).reason == "PROPOSAL_CLOSED"


async def test_a_proposal_expires(people: People) -> None:
    proposal, key = await people.propose(), people.key("admin")
    people.house.ahead += DAY
    error = await people.refused("admin", lambda client: decide(client, proposal, key))
    assert error.reason == "PROPOSAL_CLOSED"
    await people.gateway._regular["access"]()
    found = await people.ask("admin", lambda client: client.call(get_proposal(proposal)))
    assert found.proposal.state == EXPIRED
    assert len(await people.records("Gateway/ExpireProposal")) == 1


async def test_what_is_approved_and_cannot_be_done_for_good_says_why(people: People) -> None:
    proposal = proposed(
        await people.refused("custodian", lambda client: client.set_key_version_state(V1, "COMPROMISED", etag="r1"))
    )
    await people.ask("custodian", lambda client: client.rotate_key(KEY, publish_period=timedelta(0)))
    failed = await people.decide("admin", proposal)
    assert (failed.state, failed.outcome) == (FAILED, "ETAG_MISMATCH")
    assert await people.state() != COMPROMISED


async def test_what_was_approved_when_the_gateway_ended_is_done_when_it_starts_again_and_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> Any:
        raise UnavailableError("the database does not answer", reason="DATABASE_UNAVAILABLE")

    async with house.running() as gateway:
        await house.create_key(gateway)
        people = People(house, gateway)
        proposal = await people.propose()
        with monkeypatch.context() as patch:
            patch.setattr(Keys, "set_state", away)
            assert (await people.decide("admin", proposal)).state == APPROVED
    async with house.running() as gateway:
        people = People(house, gateway)
        for _ in range(2):
            await gateway._regular["access"]()
        assert (
            await people.ask("admin", lambda client: client.call(get_proposal(proposal)))
        ).proposal.state == EXECUTED
        assert await people.state() == COMPROMISED
        assert len(await people.records("Gateway/ExecuteProposal")) == 1


async def test_what_a_proposer_has_proposed_who_is_denied_meanwhile_is_not_done(house: House) -> None:
    denied = house.directory / "denied"
    denied.write_text("")
    house.settings('[identity]\ndeny_list = "denied"\n')
    async with house.running() as gateway:
        await house.create_key(gateway)
        people = People(house, gateway)
        proposal = await people.propose()
        denied.write_text("spiffe://sealkeeper.example/tenants/acme/roles/custodian/custodian\n")
        await gateway._regular["identities"]()
        failed = await people.decide("admin", proposal)
        assert (failed.state, failed.outcome) == (FAILED, "IDENTITY_DENIED")


async def test_policies_change_only_through_an_approval_and_decide_at_once(people: People) -> None:
    text = (
        default_policy()
        + '\n@id("nobody-signs")\nforbid (principal, action == Sealkeeper::Action::"Sign", resource);\n'
    )
    await people.house.sign(people.gateway)
    error = await people.refused("admin", lambda client: client.call(update_policy(PARENT, text, 1, "an emergency")))
    await people.house.sign(people.gateway)
    second = add_person(people.house.directory, Role.CUSTODIAN, "second")
    assert (await people.decide(second, proposed(error))).outcome == f"{PARENT}/policyVersions/2"
    refused = await people.refused("ci", sign)
    assert refused.reason == "PERMISSION_DENIED"
    found = await people.ask("admin", lambda client: client.call(get_policy(PARENT)))
    assert (found.version.number, found.version.text) == (2, text)
    stale = await people.refused("admin", lambda client: client.call(update_policy(PARENT, text, 1, "")))
    assert stale.reason == "ETAG_MISMATCH"


async def test_what_may_be_proposed_from_an_address_is_done_as_from_there(house: House) -> None:
    inside = """
@id("compromise-from-here")
forbid (principal, action == Sealkeeper::Action::"CompromiseKeyVersion", resource)
unless { context has address && context.address.isLoopback() };
"""
    (house.directory / "acme.cedar").write_text(default_policy() + inside)
    async with house.running() as gateway:
        await house.create_key(gateway)
        people = People(house, gateway)
        assert (await people.decide("admin", await people.propose())).state == EXECUTED


async def test_the_policy_that_a_tenant_begins_with_is_on_record(people: People) -> None:
    [record] = await people.records("Gateway/FirstPolicy")
    assert record["resource"] == f"{PARENT}/policyVersions/1"
    assert record["details"]["policyDigest"] == f"sha256:{sha256(default_policy().encode()).hexdigest()}"


async def test_a_policy_that_cannot_be_used_permits_nothing_but_to_put_another_in_its_place(house: House) -> None:
    async with house.running() as gateway:
        await house.create_key(gateway)
    with sqlite3.connect(house.directory / "state" / "metadata.db") as database:
        database.execute("UPDATE policies SET text = ?", (b'@id("x") permit (principal, action, nothing);',))
    async with house.running() as gateway:
        people = People(house, gateway)
        for who, ask in (("custodian", lambda client: client.rotate_key(KEY)), ("ci", sign)):
            assert (await people.refused(who, ask)).reason == "PERMISSION_DENIED"
        error = await people.refused(
            "admin", lambda client: client.call(update_policy(PARENT, default_policy(), 1, "it was not one"))
        )
        assert (await people.decide("custodian", proposed(error))).state == EXECUTED
        await house.sign(gateway)


async def test_on_the_insecure_port_where_nobody_else_is_there_to_approve_a_policy_changes_at_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEALKEEPER_GATEWAY__INSECURE", "true")
    async with house.running() as gateway:

        def change() -> tuple[int, int]:
            with Client(Connection(gateway.address, "acme", insecure=True)) as client:
                made = client.call(update_policy(PARENT, default_policy(), 1, "to try it"))
                return made.number, client.call(get_policy(PARENT)).version.number

        assert await asyncio.to_thread(change) == (2, 2)


async def test_the_key_that_needs_an_approval_to_come_in_is_the_one_that_comes_in(people: People) -> None:
    method, key = "RSA_OAEP_SHA256_AES_256_KWP", new_private_key("secp256r1")
    begun = await people.ask(
        "custodian", lambda client: client.begin_key_import(PARENT, "brought", algorithm=P256, provider="main")
    )
    wrapped, other = wrap(method, begun.wrapping_key, pkcs8(key)), wrap(method, begun.wrapping_key, pkcs8(key))

    def finish(client: Client, wrapped: bytes) -> Any:
        return client.finish_key_import(begun.name, method, wrapped, spki(key))

    proposal = proposed(await people.refused("custodian", lambda client: finish(client, wrapped)))
    assert (await people.decide("admin", proposal)).state == APPROVED
    assert proposed(await people.refused("custodian", lambda client: finish(client, other))) != proposal
    made = await people.ask("custodian", lambda client: finish(client, wrapped))
    assert made.version.name.endswith("/keys/brought/versions/1")
    assert (await people.ask("admin", lambda client: client.call(get_proposal(proposal)))).proposal.state == EXECUTED
    again = await people.refused("custodian", lambda client: finish(client, wrapped))
    assert again.reason == "IMPORT_CLOSED"
