"""Keys that custodians bring: what is taken, what is refused and why, and what is left behind: nothing."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from hashlib import sha256
from operator import methodcaller
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sealkeeper.client import Client, ClientError
from sealkeeper.hsm import ALGORITHMS, ProviderUnavailableError
from sealkeeper.hsm.algorithms import load_public_key, signature_verifies
from sealkeeper.server.ceremony import fingerprint
from sealkeeper.server.gateway import Gateway
from sealkeeper.v1 import key_import_pb2, key_pb2, resources_pb2
from sealkeeper.verify import Artifact, Policy, verify
from sealkeeper.verify.dsse import pae
from sealkeeper.verify.merkle import leaf_hash, root_from_inclusion_proof
from sealkeeper.verify.note import parse_checkpoint, parse_signed_note
from tests.e2e.running import P256, PARENT, TENANT
from tests.server.house import KEY, House, audit_records
from tests.wrapping import new_private_key, pkcs8, private_key, spki, wrap

NOW = timedelta(0)
T = TypeVar("T")
METHOD = "RSA_OAEP_SHA256_AES_256_KWP"
RSA_2048 = "PKIX_RSA_PKCS1V15_2048_SHA256"


@pytest.fixture
async def house(tmp_path: Path) -> House:
    made = await House.make(tmp_path / "gateway")
    made.add_provider("store", "eu-central-1")
    made.add_provider("second")
    return made


@pytest.fixture
async def gateway(house: House) -> AsyncIterator[Gateway]:
    async with house.running() as running:
        yield running


class Custodian:
    """Brings keys into the provider ``store``."""

    def __init__(self, house: House, gateway: Gateway) -> None:
        self._house = house
        self._gateway = gateway

    async def ask(self, question: Callable[[Client], T]) -> T:
        return await self._house.ask(self._gateway, "custodian", question)

    async def begin(self, algorithm: str = P256, **more: Any) -> key_import_pb2.KeyImport:
        return await self.ask(
            lambda client: client.begin_key_import(
                PARENT, "release", algorithm=algorithm, **{"provider": "store", **more}
            )
        )

    async def finish(
        self, begun: key_import_pb2.KeyImport, key: Any, *, public_key: bytes | None = None, **more: Any
    ) -> key_import_pb2.FinishKeyImportResponse:
        wrapped = wrap(METHOD, begun.wrapping_key, pkcs8(key))
        return await self.ask(
            lambda client: client.finish_key_import(
                begun.name, METHOD, wrapped, public_key or spki(key), publish_period=NOW, **more
            )
        )

    async def state(self, begun: key_import_pb2.KeyImport) -> str:
        found = await self.ask(lambda client: client.get_key_import(begun.name))
        return key_import_pb2.KeyImportState.Name(found.state).removeprefix("KEY_IMPORT_STATE_")


@pytest.fixture
def custodian(house: House, gateway: Gateway) -> Custodian:
    return Custodian(house, gateway)


async def test_a_key_that_was_brought_signs_and_verifies_by_the_public_key_of_its_owner(
    house: House, gateway: Gateway, custodian: Custodian
) -> None:
    key = new_private_key("secp256r1")
    begun = await custodian.begin()
    assert begun.name.startswith(f"{PARENT}/keyImports/i")
    assert begun.region == "eu-central-1"
    made = await custodian.finish(begun, key)
    assert made.version.public_key == spki(key)
    assert made.version.origin == resources_pb2.KEY_ORIGIN_IMPORTED
    signed = await house.sign(gateway)
    trust, policy = await house.trust(gateway), Policy(key=KEY)
    verify(signed.signature.bundle, Artifact.from_bytes(b"x"), trust, policy).require()
    assert await custodian.state(begun) == "FINISHED"
    # The key's file alone: the wrapping key is gone.
    assert len(house.key_files("store")) == 1


async def test_a_key_can_be_brought_as_the_next_version_and_as_the_one_that_stands_by(
    house: House, gateway: Gateway, custodian: Custodian
) -> None:
    first, second, third = (new_private_key("secp256r1") for _ in range(3))
    await custodian.finish(await custodian.begin(), first)
    await custodian.finish(await custodian.begin(""), second)
    made = await custodian.finish(await custodian.begin("", provider="second", standby=True), third)
    assert made.version.standby
    assert made.version.provider == "second"
    key = await custodian.ask(lambda client: client.get_key(KEY))
    assert (key.active_version[-1], key.standby_version[-1], key.provider) == ("2", "3", "store")
    assert (await house.sign(gateway)).key_version.endswith("/2")


Refusal = tuple[str, Callable[[Custodian, key_import_pb2.KeyImport], Any]]


def _finish(custodian: Custodian, begun: key_import_pb2.KeyImport, method: str, wrapped: bytes, key: Any) -> Any:
    return custodian.ask(lambda client: client.finish_key_import(begun.name, method, wrapped, spki(key)))


def _of(method: str, secret: Callable[[], bytes], key: Any = None) -> Callable[[Custodian, Any], Any]:
    return lambda custodian, begun: _finish(
        custodian, begun, method, wrap(method, begun.wrapping_key, secret()), key or private_key("secp256r1")
    )


def _p256() -> bytes:
    return pkcs8(private_key("secp256r1"))


REFUSED: dict[str, Refusal] = {
    "a method that the store does not take": ("INVALID_FIELD", _of("RSA_OAEP_SHA1_AES_256_KWP", _p256)),
    "bytes that are no key": ("WRAPPED_KEY_REFUSED", _of(METHOD, lambda: b"no key at all, but long enough")),
    "a key of another curve": ("WRAPPED_KEY_REFUSED", _of(METHOD, lambda: pkcs8(private_key("secp384r1")))),
    "a key of another family": ("WRAPPED_KEY_REFUSED", _of(METHOD, lambda: pkcs8(private_key(2048)))),
    "what is not wrapped": (
        "WRAPPED_KEY_REFUSED",
        lambda custodian, begun: _finish(custodian, begun, METHOD, _p256(), private_key("secp256r1")),
    ),
    "what is wrapped for another": (
        "WRAPPED_KEY_REFUSED",
        lambda custodian, begun: _finish(
            custodian, begun, METHOD, wrap(METHOD, spki(private_key(3072)), _p256()), private_key("secp256r1")
        ),
    ),
    "a public key of another curve": (
        "ALGORITHM_NOT_SUPPORTED",
        _of(METHOD, _p256, private_key("secp384r1")),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_wrong_is_refused_by_its_reason_and_leaves_nothing_and_the_right_one_is_taken_afterwards(
    house: House, custodian: Custodian, name: str
) -> None:
    reason, ask = REFUSED[name]
    begun = await custodian.begin()
    before = house.key_files("store")
    with pytest.raises(ClientError) as caught:
        await ask(custodian, begun)
    assert caught.value.reason == reason
    assert house.key_files("store") == before
    assert await custodian.state(begun) == "OPEN"
    await custodian.finish(begun, new_private_key("secp256r1"))


async def test_a_private_key_that_is_not_the_one_of_the_public_key_is_destroyed(
    house: House, gateway: Gateway, custodian: Custodian
) -> None:
    begun = await custodian.begin()
    with pytest.raises(ClientError) as caught:
        await custodian.finish(begun, new_private_key("secp256r1"), public_key=spki(private_key("secp256r1")))
    assert caught.value.reason == "PUBLIC_KEY_MISMATCH"
    assert house.key_files("store") == []
    assert await custodian.state(begun) == "FAILED"
    with pytest.raises(ClientError) as caught:
        await custodian.finish(begun, private_key("secp256r1"))
    assert caught.value.reason == "IMPORT_CLOSED"
    with pytest.raises(ClientError, match="no key"):
        await custodian.ask(lambda client: client.get_key(KEY))
    # A public key that came with a wrong private key can come with the right one.
    await custodian.finish(await custodian.begin(), private_key("secp256r1"))


async def test_a_weak_key_is_refused_before_it_is_looked_at(house: House, custodian: Custodian) -> None:
    begun = await custodian.begin(RSA_2048)
    weak = rsa.generate_private_key(3, 2048)
    with pytest.raises(ClientError) as caught:
        await custodian.finish(begun, weak)
    assert caught.value.reason == "WEAK_KEY"
    small = rsa.generate_private_key(65537, 1024)
    with pytest.raises(ClientError) as caught:
        await custodian.finish(begun, small)
    assert caught.value.reason == "ALGORITHM_NOT_SUPPORTED"
    assert len(house.key_files("store")) == 1


async def test_a_point_off_its_curve_is_refused(custodian: Custodian) -> None:
    begun = await custodian.begin()
    good = spki(private_key("secp256r1"))
    off = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(ClientError) as caught:
        await custodian.finish(begun, private_key("secp256r1"), public_key=off)
    assert caught.value.reason == "ALGORITHM_NOT_SUPPORTED"


async def test_a_public_key_belongs_to_one_version_of_a_tenant(custodian: Custodian) -> None:
    key = new_private_key("secp256r1")
    await custodian.finish(await custodian.begin(), key)
    again = await custodian.ask(
        lambda client: client.begin_key_import(PARENT, "other", algorithm=P256, provider="second")
    )
    with pytest.raises(ClientError) as caught:
        await custodian.finish(again, key)
    assert caught.value.reason == "PUBLIC_KEY_EXISTS"


async def test_two_that_finish_at_the_same_time_make_one_version(custodian: Custodian) -> None:
    key = new_private_key("secp256r1")
    begun = [await custodian.begin() for _ in range(3)]
    outcomes = await asyncio.gather(*(custodian.finish(one, key) for one in begun), return_exceptions=True)
    made = [one for one in outcomes if isinstance(one, key_import_pb2.FinishKeyImportResponse)]
    assert len(made) == 1
    versions = await custodian.ask(lambda client: list(client.list_key_versions(KEY)))
    assert len(versions) == 1


async def test_an_import_runs_out_and_is_tidied_up(house: House, gateway: Gateway, custodian: Custodian) -> None:
    begun = await custodian.begin()
    house.ahead += int(timedelta(hours=25).total_seconds() * 1e9)
    with pytest.raises(ClientError) as caught:
        await custodian.finish(begun, new_private_key("secp256r1"))
    assert caught.value.reason == "IMPORT_EXPIRED"
    assert await custodian.state(begun) == "EXPIRED"
    await gateway._regular["imports"]()
    assert house.key_files("store") == []
    assert await custodian.state(begun) == "EXPIRED"
    [record] = [one for one in await house.ask(gateway, "admin", audit_records) if "Expire" in one["method"]]
    assert (record["method"], record["resource"]) == ("Gateway/ExpireKeyImport", begun.name)


async def test_an_import_that_is_given_up_leaves_nothing(house: House, custodian: Custodian) -> None:
    begun = await custodian.begin()
    assert len(house.key_files("store")) == 1
    await custodian.ask(lambda client: client.cancel_key_import(begun.name))
    assert house.key_files("store") == []
    assert await custodian.state(begun) == "CANCELLED"
    await custodian.ask(lambda client: client.cancel_key_import(begun.name))
    with pytest.raises(ClientError) as caught:
        await custodian.finish(begun, new_private_key("secp256r1"))
    assert caught.value.reason == "IMPORT_CLOSED"


async def test_an_import_outlives_a_restart(house: House) -> None:
    key = new_private_key("secp256r1")
    async with house.running() as gateway:
        begun = await Custodian(house, gateway).begin()
    async with house.running() as gateway:
        custodian = Custodian(house, gateway)
        made = await custodian.finish(begun, key)
        assert made.version.public_key == spki(key)
    async with house.running() as gateway:
        assert await Custodian(house, gateway).state(begun) == "FINISHED"
        assert (await house.sign(gateway)).key_version.endswith("/1")


async def test_both_steps_are_done_once_for_a_request_id(house: House, custodian: Custodian) -> None:
    begun = [await custodian.begin(request_id="begin-1") for _ in range(2)]
    assert begun[0].name == begun[1].name
    key = new_private_key("secp256r1")
    wrapped = wrap(METHOD, begun[0].wrapping_key, pkcs8(key))
    finish = lambda client: client.finish_key_import(  # noqa: E731
        begun[0].name, METHOD, wrapped, spki(key), publish_period=NOW, request_id="finish-1"
    )
    made = [await custodian.ask(finish) for _ in range(2)]
    assert made[0].version.name == made[1].version.name
    assert len(house.key_files("store")) == 1


async def test_what_cannot_be_begun_is_said(custodian: Custodian) -> None:
    for more, reason in (
        ({"algorithm": ""}, "INVALID_FIELD"),
        ({"provider": "nothing"}, "PROVIDER_UNKNOWN"),
        ({"standby": True}, "KEY_NOT_FOUND"),
    ):
        with pytest.raises(ClientError) as caught:
            await custodian.begin(**more)
        assert caught.value.reason == reason
    await custodian.finish(await custodian.begin(), new_private_key("secp256r1"))
    for more, reason in (
        ({"algorithm": RSA_2048}, "ALGORITHM_OF_KEY"),
        ({"standby": True}, "STANDBY_IN_SAME_PROVIDER"),
    ):
        with pytest.raises(ClientError) as caught:
            await custodian.begin(**more)
        assert caught.value.reason == reason


async def test_what_is_left_in_a_store_that_was_away_is_removed_later(
    house: House, gateway: Gateway, custodian: Custodian, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = await custodian.begin()
    store: Any = gateway._providers["store"]._provider

    async def away(_: bytes) -> None:
        raise ProviderUnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "end_import", away)
        await custodian.ask(lambda client: client.cancel_key_import(begun.name))
    assert len(house.key_files("store")) == 1
    await gateway._regular["imports"]()
    assert house.key_files("store") == []


def statement(record: dict[str, Any]) -> tuple[dict[str, Any], bytes, bytes]:
    """The ceremony's statement, what was signed, and the signature."""
    envelope = record["details"]["ceremony"]
    payload = base64.b64decode(envelope["payload"])
    signed = sha256(pae(envelope["payloadType"], payload)).digest()
    return json.loads(payload), signed, base64.b64decode(envelope["signatures"][0]["sig"])


async def test_the_ceremony_of_an_import_is_signed_by_the_key_itself_and_in_the_audit_log(
    house: House, gateway: Gateway, custodian: Custodian
) -> None:
    key = new_private_key("secp256r1")
    begun = await custodian.begin()
    await custodian.finish(begun, key)
    found: key_pb2.GetKeyCeremonyResponse = await custodian.ask(
        lambda client: client.get_key_ceremony(f"{KEY}/versions/1")
    )
    record = json.loads(found.record)
    assert record in await house.ask(gateway, "admin", audit_records)
    said, signed, signature = statement(record)
    algorithm = ALGORITHMS[P256]
    assert signature_verifies(algorithm, load_public_key(algorithm, spki(key)), signed, signature)
    assert (said["event"], said["keyVersion"]) == ("IMPORTED", f"{KEY}/versions/1")
    assert said["publicKeyFingerprint"] == fingerprint(spki(key))
    assert said["import"]["wrappingKeyFingerprint"] == fingerprint(begun.wrapping_key)
    assert said["import"]["wrapMethod"] == METHOD
    assert said["import"]["begunBy"] == said["principal"]["subject"]
    assert said["principal"]["tenant"] == TENANT
    assert said["provider"]["name"] == "store"
    assert said["provider"]["region"] == "eu-central-1"
    assert said["evidence"]["origin"] in ("IMPORTED", "UNKNOWN")
    checkpoint = parse_checkpoint(parse_signed_note(found.checkpoint).text)
    root = root_from_inclusion_proof(leaf_hash(found.record), found.log_index, found.tree_size, found.hashes)
    assert (checkpoint.size, checkpoint.root_hash) == (found.tree_size, root)


async def test_a_key_that_is_made_has_a_ceremony_as_well_and_so_has_every_version(
    house: House, gateway: Gateway, custodian: Custodian
) -> None:
    await custodian.ask(lambda client: client.create_key(PARENT, "release", P256, provider="store"))
    await custodian.ask(lambda client: client.rotate_key(KEY, publish_period=NOW))
    await custodian.ask(lambda client: client.add_standby_version(KEY, "second", publish_period=NOW))
    events = []
    for number in (1, 2, 3):
        name = f"{KEY}/versions/{number}"
        found = await custodian.ask(methodcaller("get_key_ceremony", name))
        said, _, _ = statement(json.loads(found.record))
        events.append((said["event"], said["keyVersion"], said["import"]))
    assert events == [
        ("CREATED", f"{KEY}/versions/1", None),
        ("ROTATED", f"{KEY}/versions/2", None),
        ("STANDBY_ADDED", f"{KEY}/versions/3", None),
    ]


async def test_no_wrapped_key_and_no_private_key_is_kept_anywhere(
    house: House, gateway: Gateway, custodian: Custodian
) -> None:
    key = new_private_key("secp256r1")
    begun = await custodian.begin()
    wrapped = wrap(METHOD, begun.wrapping_key, pkcs8(key))
    await custodian.ask(
        lambda client: client.finish_key_import(begun.name, METHOD, wrapped, spki(key), publish_period=NOW)
    )
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    secret = key.private_numbers().private_value.to_bytes(32, "big")
    parts = [wrapped, secret, base64.b64encode(wrapped)[4:-4], wrapped.hex().encode(), secrets.token_bytes(0) or secret]
    for path in (house.directory / "state").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(part in content for part in parts), path
