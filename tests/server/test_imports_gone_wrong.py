"""Imports after faults, and in numbers: what has become a key stays one, and nothing grows without bound."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.client import ClientError
from sealkeeper.hsm import ALGORITHMS, ProviderKey
from sealkeeper.server.errors import UnavailableError
from sealkeeper.server.gateway import Gateway
from sealkeeper.server.store.import_table import ImportTable
from tests.e2e.running import P256
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
