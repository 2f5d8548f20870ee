"""Ways by which one person could do what takes two, keep others from it, or fill the gateway's memory."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from sealkeeper.client import Client
from sealkeeper.client.approval_operations import (
    content_of,
    get_proposal,
    list_proposals,
    watch_proposals,
    withdraw_proposal,
)
from sealkeeper.client.errors import ClientError
from sealkeeper.client.grant_operations import create_grant
from sealkeeper.client.policy_operations import update_policy
from sealkeeper.server import proposals as limits
from sealkeeper.server.gateway import Gateway
from sealkeeper.server.identity import Role
from sealkeeper.server.keys import Keys
from sealkeeper.server.policy_engine import default_policy
from sealkeeper.server.proposal_watching import Watching
from sealkeeper.server.resources import ProposalName
from sealkeeper.v1 import approval_pb2
from tests.e2e.running import P256, PARENT
from tests.server.house import KEY, House, audit_records
from tests.server.people import APPROVED, EXECUTED, FAILED, PENDING, add_person, decide, proposed
from tests.wrapping import new_private_key, pkcs8, spki, wrap

METHOD = "RSA_OAEP_SHA256_AES_256_KWP"
V1 = f"{KEY}/versions/1"
CUSTODIAN = "spiffe://sealkeeper.example/tenants/acme/roles/custodian/custodian"
TWO = default_policy().replace('@approvals("1")', '@approvals("2")')


@pytest.fixture
async def house(tmp_path: Path) -> House:
    return await House.make(tmp_path / "gateway", default_policy())


async def refused(house: House, gateway: Gateway, who: str, question: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        await house.ask(gateway, who, question)
    return caught.value


def key_of(house: House, who: str) -> Path:
    return house.directory / "clients" / who / "key.pem"


async def approve(house: House, gateway: Gateway, who: str, proposal: str) -> approval_pb2.Proposal:
    key = key_of(house, who)
    found: approval_pb2.Proposal = await house.ask(gateway, who, lambda client: decide(client, proposal, key))
    return found


async def shown(house: House, gateway: Gateway, proposal: str) -> approval_pb2.Proposal:
    found = await house.ask(gateway, "admin", lambda client: client.call(get_proposal(proposal)))
    message: approval_pb2.Proposal = found.proposal
    return message


def compromise(client: Client) -> Any:
    return client.set_key_version_state(V1, "COMPROMISED")


def grant(client: Client, number: int = 0) -> Any:
    return client.call(create_grant(PARENT, f"x{number}", KEY, lifetime=timedelta(hours=1), reason="it is needed"))


async def test_an_import_that_has_come_to_need_more_approvals_is_not_finished_with_those_that_it_has(
    house: House,
) -> None:
    key = new_private_key("secp256r1")
    second = add_person(house.directory, Role.ADMIN, "second")
    async with house.running() as gateway:
        begun = await house.ask(
            gateway, "custodian", lambda client: client.begin_key_import(PARENT, "brought", algorithm=P256)
        )
        wrapped = wrap(METHOD, begun.wrapping_key, pkcs8(key))

        def finish(client: Client) -> Any:
            return client.finish_key_import(begun.name, METHOD, wrapped, spki(key))

        proposal = proposed(await refused(house, gateway, "custodian", finish))
        assert (await approve(house, gateway, "admin", proposal)).state == APPROVED
        stricter = await refused(house, gateway, "admin", lambda client: client.call(update_policy(PARENT, TWO, 1)))
        assert (await approve(house, gateway, second, proposed(stricter))).state == EXECUTED
        assert (await refused(house, gateway, "custodian", finish)).reason == "APPROVALS_MISSING"
        assert not [one async for one in keys(house, gateway)]
        failed = await shown(house, gateway, proposal)
        assert (failed.state, failed.outcome) == (FAILED, "APPROVALS_MISSING")
        # Proposed again, it needs as many as the policy says now.
        again = proposed(await refused(house, gateway, "custodian", finish))
        assert again != proposal
        assert (await approve(house, gateway, "admin", again)).state == PENDING
        assert (await approve(house, gateway, second, again)).state == APPROVED
        await house.ask(gateway, "custodian", finish)
        assert (await shown(house, gateway, again)).state == EXECUTED


async def keys(house: House, gateway: Gateway) -> Any:
    for one in await house.ask(gateway, "custodian", lambda client: list(client.list_keys(PARENT))):
        yield one


async def test_approvers_of_an_import_sign_what_a_new_key_will_be(house: House) -> None:
    key, labels = new_private_key("secp256r1"), {"repository": "acme/app"}
    async with house.running() as gateway:
        begun = await house.ask(
            gateway,
            "custodian",
            lambda client: client.begin_key_import(PARENT, "brought", algorithm=P256, labels=labels),
        )
        wrapped = wrap(METHOD, begun.wrapping_key, pkcs8(key))
        error = await refused(
            house,
            gateway,
            "custodian",
            lambda client: client.finish_key_import(begun.name, METHOD, wrapped, spki(key)),
        )
        parameters = content_of(await shown(house, gateway, proposed(error))).parameters
    assert parameters["labels"] == labels
    assert (parameters["algorithm"], parameters["provider"], parameters["standby"]) == (P256, begun.provider, False)


async def test_a_key_that_the_settings_name_as_somebodys_signs_no_approvals_of_others(house: House) -> None:
    spare, path = new_private_key("secp256r1"), house.directory / "spare.pem"
    path.write_bytes(
        spare.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    house.settings(f'[people.first]\nidentities = ["{CUSTODIAN}"]\napproval_keys = ["spare.pem"]\n')
    folder = house.directory / "clients" / "spare"
    folder.mkdir()
    (folder / "key.pem").write_bytes(
        spare.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    another = add_person(house.directory, Role.ADMIN, "another", key_of="spare")
    async with house.running() as gateway:
        await house.create_key(gateway)
        proposal = proposed(await refused(house, gateway, "custodian", compromise))
        question = partial(decide, proposal=proposal, key=folder / "key.pem")
        error = await refused(house, gateway, another, question)
        assert error.reason == "PERMISSION_DENIED"
        assert "another person" in str(error)
        assert (await shown(house, gateway, proposal)).state == PENDING


async def test_names_that_differ_in_capitals_alone_are_one_person(house: House) -> None:
    (house.directory / "acme.cedar").write_text(TWO)
    capital = add_person(house.directory, Role.ADMIN, "Custodian")
    again = add_person(house.directory, Role.CUSTODIAN, "ADMIN")
    async with house.running() as gateway:
        await house.create_key(gateway)
        proposal = proposed(await refused(house, gateway, "custodian", compromise))
        error = await refused(house, gateway, capital, partial(decide, proposal=proposal, key=key_of(house, capital)))
        assert error.reason == "SELF_APPROVAL"
        assert (await approve(house, gateway, "admin", proposal)).state == PENDING
        error = await refused(house, gateway, again, partial(decide, proposal=proposal, key=key_of(house, again)))
        assert error.reason == "APPROVAL_EXISTS"


async def test_who_is_found_to_be_the_proposer_when_the_settings_are_mended_does_not_approve(house: House) -> None:
    alias = add_person(house.directory, Role.ADMIN, "alias")
    async with house.running() as gateway:
        await house.create_key(gateway)
        proposal = proposed(await refused(house, gateway, "custodian", compromise))
    subject = "spiffe://sealkeeper.example/tenants/acme/roles/admin/alias"
    house.settings(f'[people.first]\nidentities = ["{CUSTODIAN}", "{subject}"]\n')
    async with house.running() as gateway:
        error = await refused(house, gateway, alias, partial(decide, proposal=proposal, key=key_of(house, alias)))
        assert error.reason == "SELF_APPROVAL"


async def test_an_approval_of_who_is_denied_meanwhile_does_nothing(house: House) -> None:
    (house.directory / "acme.cedar").write_text(TWO)
    denied = house.directory / "denied"
    denied.write_text("")
    house.settings('[identity]\ndeny_list = "denied"\n')
    second = add_person(house.directory, Role.ADMIN, "second")
    async with house.running() as gateway:
        await house.create_key(gateway)
        proposal = proposed(await refused(house, gateway, "custodian", compromise))
        assert (await approve(house, gateway, "admin", proposal)).state == PENDING
        denied.write_text("spiffe://sealkeeper.example/tenants/acme/roles/admin/admin\n")
        await gateway._regular["identities"]()
        failed = await approve(house, gateway, second, proposal)
        assert (failed.state, failed.outcome) == (FAILED, "APPROVALS_MISSING")
        [record] = [
            one for one in await house.ask(gateway, second, audit_records) if one["method"] == "Gateway/FailProposal"
        ]
        assert record["details"]["refusal"] == "admin has approved of it, and is denied by now"


async def test_a_change_of_mind_without_end_is_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_STATEMENTS", 3)
    (house.directory / "acme.cedar").write_text(TWO)
    async with house.running() as gateway:
        await house.create_key(gateway)
        proposal = proposed(await refused(house, gateway, "custodian", compromise))
        for _ in range(3):
            await approve(house, gateway, "admin", proposal)
            await house.ask(gateway, "admin", lambda client: client.call(withdraw_proposal(proposal)))
        error = await refused(house, gateway, "admin", partial(decide, proposal=proposal, key=key_of(house, "admin")))
        assert error.reason == "PROPOSAL_LIMIT"


async def test_one_proposer_does_not_take_all_the_room(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_OPEN_OF_ONE", 3)
    second = add_person(house.directory, Role.CUSTODIAN, "second")
    async with house.running() as gateway:
        await house.create_key(gateway)
        for number in range(3):
            proposed(await refused(house, gateway, "custodian", partial(grant, number=number)))
        assert (await refused(house, gateway, "custodian", grant_of(3))).reason == "PROPOSAL_LIMIT"
        # What was proposed before can be asked for again, and others propose.
        proposed(await refused(house, gateway, "custodian", grant_of(0)))
        proposed(await refused(house, gateway, second, compromise))


def grant_of(number: int) -> Any:
    return partial(grant, number=number)


async def test_long_proposals_push_out_closed_ones_and_not_the_memory(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_BYTES", 100_000)
    async with house.running() as gateway:
        await house.create_key(gateway)
        opened = proposed(await refused(house, gateway, "custodian", compromise))
        for number in range(6):
            text = f"{default_policy()}\n// {number}{'x' * 40_000}"
            last = proposed(await refused(house, gateway, "admin", partial(propose_policy, text=text)))
            await house.ask(gateway, "admin", partial(take_back, name=last))
        found = await house.ask(gateway, "admin", lambda client: client.call(list_proposals(PARENT)))
        names = [one.name for one in found.proposals]
        assert opened in names
        assert last in names
        # As many as there were room for when the last one came, and that one.
        assert len(names) == 4


async def test_one_proposal_that_fails_does_not_keep_others_from_being_done(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house.running() as gateway:
        await house.create_key(gateway)
        await house.ask(gateway, "custodian", lambda client: client.create_key(PARENT, "other", P256))
        first = proposed(await refused(house, gateway, "custodian", compromise))
        second = proposed(
            await refused(
                house,
                gateway,
                "custodian",
                lambda client: client.set_key_version_state(f"{PARENT}/keys/other/versions/1", "COMPROMISED"),
            )
        )

        async def broken(*_: object, **__: object) -> Any:
            raise RuntimeError("nobody foresaw this")

        with monkeypatch.context() as patch:
            patch.setattr(Keys, "set_state", broken)
            for name in (first, second):
                with pytest.raises(ClientError):
                    await approve(house, gateway, "admin", name)
        set_state = Keys.set_state

        async def broken_for_one(self: Keys, name: Any, *more: Any) -> Any:
            if str(name) == V1:
                raise RuntimeError("nobody foresaw this")
            return await set_state(self, name, *more)

        monkeypatch.setattr(Keys, "set_state", broken_for_one)
        await gateway._regular["access"]()
        assert (await shown(house, gateway, first)).state == APPROVED
        assert (await shown(house, gateway, second)).state == EXECUTED


async def test_who_begins_to_watch_when_watching_has_ended_is_let_go() -> None:
    watching = Watching()
    watching.end()
    with watching.one_more("acme") as changed:
        assert await asyncio.wait_for(changed.get(), 10) is None


async def test_who_watches_and_does_not_read_is_told_of_each_once() -> None:
    watching, name = Watching(), ProposalName("acme", "p1")
    with watching.one_more("acme") as changed:
        for _ in range(1000):
            watching.tell(name)
        watching.end()
        assert await changed.get() == name
        assert await changed.get() is None


def propose_policy(client: Client, text: str) -> Any:
    return client.call(update_policy(PARENT, text, 1))


def take_back(client: Client, name: str) -> Any:
    return client.call(withdraw_proposal(name))


async def test_who_watches_and_is_denied_meanwhile_is_told_nothing_more(house: House) -> None:
    denied = house.directory / "denied"
    denied.write_text("")
    house.settings('[identity]\ndeny_list = "denied"\n')
    seen, loop, first = list[str](), asyncio.get_running_loop(), asyncio.Event()

    def watch(client: Client) -> None:
        for one in client.stream(watch_proposals(PARENT), within=30):
            seen.append(one.name)
            loop.call_soon_threadsafe(first.set)

    async with house.running() as gateway:
        await house.create_key(gateway)
        proposal = proposed(await refused(house, gateway, "custodian", compromise))
        watching = asyncio.create_task(refused(house, gateway, "admin", watch))
        await asyncio.wait_for(first.wait(), 30)
        denied.write_text("spiffe://sealkeeper.example/tenants/acme/roles/admin/admin\n")
        await gateway._regular["identities"]()
        proposed(await refused(house, gateway, "custodian", grant))
        assert (await watching).reason == "IDENTITY_DENIED"
    assert seen == [proposal]


async def test_fewer_approvals_by_a_later_policy_are_not_enough_for_what_was_proposed_before(house: House) -> None:
    (house.directory / "acme.cedar").write_text(TWO)
    second, third = (add_person(house.directory, Role.ADMIN, name) for name in ("second", "third"))
    async with house.running() as gateway:
        await house.create_key(gateway)
        proposal = proposed(await refused(house, gateway, "custodian", compromise))
        milder = proposed(await refused(house, gateway, "admin", partial(propose_policy, text=default_policy())))
        for who, state in ((second, PENDING), (third, EXECUTED)):
            assert (await approve(house, gateway, who, milder)).state == state
        assert (await approve(house, gateway, "admin", proposal)).state == PENDING
        assert (await approve(house, gateway, second, proposal)).state == EXECUTED


async def test_a_gateway_that_ends_lets_those_who_watch_go(house: House) -> None:
    loop, first = asyncio.get_running_loop(), asyncio.Event()

    def watch(client: Client) -> str:
        for _ in client.stream(watch_proposals(PARENT), within=60):
            loop.call_soon_threadsafe(first.set)
        return "ended"

    async with house.running() as gateway:
        await house.create_key(gateway)
        proposed(await refused(house, gateway, "custodian", compromise))
        watching = asyncio.create_task(house.ask(gateway, "admin", watch))
        await asyncio.wait_for(first.wait(), 30)
    assert await watching == "ended"
