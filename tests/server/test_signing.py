"""Signing while keys change, and what is kept of it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.client import Client, ClientError, digest_content, message_content
from sealkeeper.client.errors import InvalidRequestError, RefusedError, UnavailableError
from sealkeeper.client.operations import Operation
from sealkeeper.hsm import Algorithm, ProviderUnavailableError
from sealkeeper.server.gateway import Gateway
from sealkeeper.server.signing import MAX_MESSAGE, WITHHELD
from sealkeeper.server.timestamping import TimestampAuthority
from sealkeeper.v1 import signing_pb2
from sealkeeper.verify import Artifact, Policy, verify
from tests.e2e.running import PARENT
from tests.server.house import KEY, House, audit_records

AT_ONCE = timedelta(0)


@pytest.fixture
async def house(tmp_path: Path) -> House:
    return await House.make(tmp_path / "gateway")


async def rotate(house: House, gateway: Gateway) -> None:
    await house.ask(gateway, "custodian", lambda client: client.rotate_key(KEY, publish_period=AT_ONCE))


async def test_what_is_signed_during_rotations_verifies(house: House) -> None:
    async with house.running() as gateway:
        await house.create_key(gateway)
        signed, done = [], asyncio.Event()

        async def go_on_signing() -> None:
            while not done.is_set():
                # A key that is changed again and again is refused for once, to be asked again.
                with suppress(UnavailableError):
                    signed.append((await house.sign(gateway)).signature.bundle)

        signers = [asyncio.create_task(go_on_signing()) for _ in range(4)]
        for _ in range(12):
            await rotate(house, gateway)
        done.set()
        await asyncio.gather(*signers)
        trust = await house.trust(gateway)
    for bundle in signed:
        verify(bundle, Artifact.from_bytes(b"x"), trust, Policy(key=KEY)).require()
    assert len({key for bundle in signed for key in [bundle.split(b'"hint"')[1][:50]]}) > 1


async def test_a_signature_whose_version_is_switched_off_meanwhile_does_not_leave_and_that_is_recorded(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp, begun, go_on = TimestampAuthority.stamp, asyncio.Event(), asyncio.Event()

    async def held(self: TimestampAuthority, messages: Sequence[bytes]) -> list[bytes]:
        begun.set()
        await go_on.wait()
        return await stamp(self, messages)

    async with house.running() as gateway:
        await house.create_key(gateway)
        monkeypatch.setattr(TimestampAuthority, "stamp", held)
        signing = asyncio.create_task(house.sign(gateway))
        await begun.wait()
        version = f"{KEY}/versions/1"
        await house.ask(gateway, "custodian", lambda client: client.set_key_version_state(version, "COMPROMISED"))
        go_on.set()
        with pytest.raises(RefusedError) as caught:
            await signing
        assert caught.value.reason == "KEY_VERSION_NOT_ACTIVE"
        records = await house.ask(gateway, "admin", audit_records)
    signs = [one for one in records if one["method"] == "SigningService/Sign"]
    assert [one["outcome"] for one in signs] == ["OK", WITHHELD, "KEY_VERSION_NOT_ACTIVE"]
    assert signs[0]["details"]["logIndex"] == signs[1]["details"]["logIndex"] == 0
    assert signs[0]["requestId"] == signs[1]["requestId"]


async def test_a_signature_without_a_timestamp_does_not_leave_and_that_is_recorded(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: TimestampAuthority, messages: Sequence[bytes]) -> list[bytes]:
        # After the logs have it.
        await asyncio.sleep(0.2)
        raise ProviderUnavailableError("not now")

    async with house.running() as gateway:
        await house.create_key(gateway)
        monkeypatch.setattr(TimestampAuthority, "stamp", fail)
        with pytest.raises(ClientError):
            await house.sign(gateway)
        records = await house.ask(gateway, "admin", audit_records)
    outcomes = [one["outcome"] for one in records if one["method"] == "SigningService/Sign"]
    assert outcomes == ["OK", WITHHELD, "PROVIDER_UNAVAILABLE"]


def forget_answers(house: House) -> None:
    """As a crash does before answers have reached the database."""
    [database] = (house.directory / "state").glob("*.db")
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM requests")
        connection.execute("DELETE FROM marks")
    connection.close()


def signing_again(request_id: str, *, certificate: bool = False) -> Any:
    content = message_content(b"x")
    return lambda client: client.sign(KEY, content, certificate=certificate, request_id=request_id).signature


async def test_after_a_crash_a_retry_gets_the_same_signature_while_it_is_valid_and_else_none(house: House) -> None:
    async with house.running() as gateway:
        await house.create_key(gateway)
        first = await house.ask(gateway, "ci", signing_again("one"))
        await house.ask(gateway, "ci", signing_again("two"))
        await house.ask(gateway, "ci", signing_again("three", certificate=True))
    forget_answers(house)
    async with house.running() as gateway:
        again = await house.ask(gateway, "ci", signing_again("one"))
        assert (again.signature, again.log_index) == (first.signature, first.log_index)
        trust = await house.trust(gateway)
        verify(again.bundle, Artifact.from_bytes(b"x"), trust, Policy(key=KEY)).require()
        house.ahead = 3600 * 10**9
        with pytest.raises(RefusedError) as caught:
            await house.ask(gateway, "ci", signing_again("three", certificate=True))
        assert caught.value.reason == "ANSWER_LOST"
        await rotate(house, gateway)
        with pytest.raises(RefusedError) as caught:
            await house.ask(gateway, "ci", signing_again("two"))
        assert caught.value.reason == "ANSWER_LOST"


async def test_a_batch_with_long_names_is_recorded_with_all_that_a_retry_needs(house: House) -> None:
    contents = [digest_content("SHA2_256", bytes([n % 256]) * 32, f"{n:03}" + "é" * 500) for n in range(300)]

    def sign(client: Client) -> Any:
        return client.sign_batch(KEY, contents, request_id="names").signatures

    async with house.running() as gateway:
        await house.create_key(gateway)
        first = await house.ask(gateway, "ci", sign)
        records = await house.ask(gateway, "admin", audit_records)
    [record] = [one for one in records if one["method"] == "SigningService/SignBatch"]
    assert record["details"]["count"] == 300
    assert record["details"]["artifacts"][0] == contents[0].artifact_name
    forget_answers(house)
    async with house.running() as gateway:
        again = await house.ask(gateway, "ci", sign)
    assert [one.signature for one in again] == [one.signature for one in first]


async def test_many_messages_of_the_largest_size_are_signed_at_the_same_time(house: House) -> None:
    message = bytes(MAX_MESSAGE)

    def sign(client: Client) -> Any:
        return client.sign(f"{PARENT}/keys/big", message_content(message)).signature

    async with house.running() as gateway:
        await house.ask(gateway, "custodian", lambda client: client.create_key(PARENT, "big", "PKIX_ED25519"))
        signatures = await asyncio.gather(*(house.ask(gateway, "ci", sign) for _ in range(10)))
    assert len({one.log_index for one in signatures}) == 10


async def test_a_message_that_is_too_long_for_its_store_is_refused_before_it_could_spoil_what_others_sign_with_the_key(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sign(*lengths: int) -> Callable[[Client], Any]:
        contents = [message_content(bytes(length)) for length in lengths]
        return lambda client: client.sign_batch(f"{PARENT}/keys/short", contents).signatures

    async with house.running() as gateway:
        await house.ask(gateway, "custodian", lambda client: client.create_key(PARENT, "short", "PKIX_ED25519"))
        store: Any = gateway._providers["main"]._provider
        monkeypatch.setattr(store, "_info", replace(store.info, max_message={"PKIX_ED25519": 100}))
        together: list[Sequence[bytes]] = []

        async def note(handle: str, algorithm: Algorithm, payloads: Sequence[bytes], sign: Any = store.sign) -> Any:
            together.append(payloads)
            return await sign(handle, algorithm, payloads)

        monkeypatch.setattr(store, "sign", note)
        asked = [house.ask(gateway, "ci", sign(*lengths)) for lengths in ((1,), (1, 101), (100, 1), (0,))]
        answers: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
    short, long, full, empty = answers
    assert (len(short), len(full)) == (1, 2)
    for refused in (long, empty):
        assert isinstance(refused, InvalidRequestError)
        assert (refused.reason, "of 1 to 100" in str(refused)) == ("PAYLOAD_INVALID", True)
    assert all(1 <= len(payload) <= 100 for payloads in together for payload in payloads)


async def test_a_refusal_is_recorded_with_what_was_asked_for(house: House) -> None:
    def sign(client: Client) -> Any:
        return client.sign(f"{PARENT}/keys/none", digest_content("SHA2_256", b"\x01" * 32, "release.tar"))

    def verify_nonsense(client: Client) -> Any:
        return client.verify(b"{}", KEY, digest=("SHA2_256", b"\x02" * 32))

    async with house.running() as gateway:
        await house.create_key(gateway)
        with pytest.raises(ClientError):
            await house.ask(gateway, "ci", sign)
        await house.ask(gateway, "ci", verify_nonsense)
        records = await house.ask(gateway, "admin", audit_records)
    found = {one["method"]: one["details"] for one in records}
    refused, verified = found["SigningService/Sign"], found["SigningService/Verify"]
    assert refused["asked"] == {"count": 1, "kinds": ["digest"], "digests": ["01" * 32], "artifacts": ["release.tar"]}
    assert (verified["digest"], verified["verified"]) == ("02" * 32, False)
    assert verified["bundle"] == sha256(b"{}").hexdigest()


@pytest.mark.parametrize("field", ["bundle_crc32c", "artifact_crc32c"])
async def test_what_is_damaged_on_its_way_is_not_verified(house: House, field: str) -> None:
    request = signing_pb2.VerifyRequest(bundle=b"{}", message=b"x", key=KEY)
    setattr(request, field, 1)
    operation = Operation("SigningService", "Verify", request, lambda answer: answer)
    async with house.running() as gateway:
        with pytest.raises(InvalidRequestError) as caught:
            await house.ask(gateway, "verifier", lambda client: client.call(operation))
    assert caught.value.reason == "CHECKSUM_MISMATCH"
    assert [one.field for one in caught.value.violations] == [field]
