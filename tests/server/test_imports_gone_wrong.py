"""Imports after faults, and in numbers: what has become a key stays one, and nothing grows without bound."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sealkeeper.client import ClientError
from sealkeeper.hsm import ALGORITHMS, ProviderKey
from sealkeeper.server import key_imports
from sealkeeper.server.errors import UnavailableError
from sealkeeper.server.gateway import Gateway
from sealkeeper.server.key_import import KeyImport
from sealkeeper.server.key_imports import KeyImports
from sealkeeper.server.resources import KeyImportName
from sealkeeper.server.store.import_table import ImportTable
from tests.e2e.running import P256, PARENT
from tests.server.house import House
from tests.server.test_key_imports import METHOD, Custodian
from tests.wrapping import new_private_key, pkcs8, private_key, spki, wrap

NOW = timedelta(0)


@pytest.fixture
async def house(tmp_path: Path) -> House:
    made = await House.make(tmp_path / "gateway")
    made.add_provider("store", "eu-central-1")
    return made


@pytest.fixture
async def gateway(house: House) -> AsyncIterator[Gateway]:
    async with house.running() as running:
        yield running


@pytest.fixture
def custodian(house: House, gateway: Gateway) -> Custodian:
    return Custodian(house, gateway)


async def test_a_key_that_signs_is_not_destroyed_when_its_import_is_finished_again_with_another_public_key(
    house: House, gateway: Gateway, custodian: Custodian, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = await custodian.begin()
    key = new_private_key("secp256r1")
    wrapped = wrap(METHOD, begun.wrapping_key, pkcs8(key))

    async def full(*_: object) -> None:
        raise UnavailableError("the database does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(ImportTable, "write", full)
        await custodian.ask(
            lambda client: client.finish_key_import(begun.name, METHOD, wrapped, spki(key), publish_period=NOW)
        )
    assert await custodian.state(begun) == "OPEN"
    [file] = house.key_files("store")
    store: Any = gateway._providers["store"]._provider

    async def again(*_: object) -> ProviderKey:
        """Stores that know the wrapped key give the key that they made of it, as Google's does."""
        return ProviderKey(file.stem, ALGORITHMS[P256], spki(key))

    monkeypatch.setattr(store, "finish_import", again)
    with pytest.raises(ClientError) as caught:
        await custodian.ask(
            lambda client: client.finish_key_import(
                begun.name, METHOD, wrapped, spki(private_key("secp256r1")), publish_period=NOW
            )
        )
    assert caught.value.reason == "PUBLIC_KEY_MISMATCH"
    assert house.key_files("store") == [file]
    assert (await house.sign(gateway)).key_version.endswith("/1")


async def test_a_tenant_that_begins_and_cancels_for_ever_does_not_fill_the_gateway(
    custodian: Custodian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_imports, "MAX_KEPT", 5)
    names = []
    for _ in range(8):
        begun = await custodian.begin()
        names.append(begun.name)
        await custodian.ask(methodcaller("cancel_key_import", begun.name))
    found = await custodian.ask(lambda client: [one.name for one in client.list_key_imports(PARENT)])
    # The oldest are forgotten first; the audit log still knows them.
    assert sorted(found) == sorted(names[-5:])
    still_open = [(await custodian.begin()).name for _ in range(5)]
    with pytest.raises(ClientError) as caught:
        await custodian.begin()
    assert caught.value.reason == "IMPORT_LIMIT"
    found = await custodian.ask(lambda client: [one.name for one in client.list_key_imports(PARENT)])
    assert sorted(found) == sorted(still_open)


async def test_imports_that_there_are_not_leave_nothing_in_memory(
    custodian: Custodian, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[KeyImports] = []
    get = KeyImports.get

    def seen(self: KeyImports, name: KeyImportName) -> KeyImport:
        made.append(self)
        return get(self, name)

    monkeypatch.setattr(KeyImports, "get", seen)
    for number in range(3):
        for ask in (
            methodcaller("cancel_key_import", f"{PARENT}/keyImports/none-{number}"),
            methodcaller(
                "finish_key_import", f"{PARENT}/keyImports/no-{number}", METHOD, b"x", spki(private_key("secp256r1"))
            ),
        ):
            with pytest.raises(ClientError) as caught:
                await custodian.ask(ask)
            assert caught.value.reason == "IMPORT_NOT_FOUND"
    assert not made[0]._locks


async def test_an_import_for_a_key_that_was_made_meanwhile_for_another_algorithm_is_refused_and_said(
    house: House, custodian: Custodian
) -> None:
    begun = await custodian.begin()
    other = "PKIX_ECDSA_P384_SHA_384"
    await custodian.ask(lambda client: client.create_key(PARENT, "release", other, provider="store"))
    before = house.key_files("store")
    with pytest.raises(ClientError) as caught:
        await custodian.finish(begun, new_private_key("secp256r1"))
    assert caught.value.reason == "ALGORITHM_OF_KEY"
    assert house.key_files("store") == before


async def test_a_public_key_that_is_written_in_another_way_is_refused_before_anything_is_unwrapped(
    house: House, custodian: Custodian
) -> None:
    key = new_private_key("secp256r1")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    begun = await custodian.begin()
    before = house.key_files("store")
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    # RFC 5480: the same algorithm identifier, and a point of half the length.
    body = spki(key)[2:23] + b"\x03" + bytes([len(point) + 1]) + b"\0" + point
    compressed = b"\x30" + bytes([len(body)]) + body
    with pytest.raises(ClientError) as caught:
        await custodian.finish(begun, key, public_key=compressed)
    assert caught.value.reason == "INVALID_FIELD"
    assert house.key_files("store") == before
    await custodian.finish(begun, key)
