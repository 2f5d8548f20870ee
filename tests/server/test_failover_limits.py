"""What a standby version must not do: stand in where its key's provider is not at fault, or for a key switched off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.client import ClientError
from sealkeeper.hsm import Algorithm, ProviderUnavailableError
from sealkeeper.server.gateway import Gateway
from sealkeeper.server.timestamping import TimestampAuthority
from tests.e2e.running import P256, PARENT
from tests.server.house import KEY, House
from tests.server.test_failover import Switch, records, stand_by


@pytest.fixture
async def house(tmp_path: Path) -> House:
    made = await House.make(tmp_path / "gateway")
    made.add_provider("first", "eu-central-1")
    made.add_provider("second", "eu-west-1")
    return made


@pytest.fixture
async def gateway(house: House) -> AsyncIterator[Gateway]:
    async with house.running() as running:
        await house.ask(
            running, "custodian", lambda client: client.create_key(PARENT, "release", P256, provider="first")
        )
        await stand_by(house, running)
        yield running


async def test_it_does_not_sign_where_it_is_the_gateways_own_keys_that_are_out_of_reach(
    house: House, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp, asked = TimestampAuthority.stamp, 0

    async def away_once(self: TimestampAuthority, signatures: Sequence[bytes]) -> list[bytes]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise ProviderUnavailableError("away")
        return await stamp(self, signatures)

    monkeypatch.setattr(TimestampAuthority, "stamp", away_once)
    with pytest.raises(ClientError) as caught:
        await house.sign(gateway)
    assert caught.value.reason == "PROVIDER_UNAVAILABLE"
    assert all("failover" not in one["details"] for one in await records(house, gateway))
    assert (await house.sign(gateway)).key_version.endswith("/1")


async def test_what_it_signed_does_not_leave_once_the_key_was_switched_off(house: House, gateway: Gateway) -> None:
    Switch(gateway._providers["first"]).off()
    store: Any = gateway._providers["second"]._provider
    sign, asked, go_on = store.sign, asyncio.Event(), asyncio.Event()

    async def slowly(handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> Any:
        asked.set()
        await go_on.wait()
        return await sign(handle, algorithm, payloads)

    store.sign = slowly
    signing = asyncio.create_task(house.sign(gateway))
    await asked.wait()
    await house.ask(gateway, "custodian", lambda client: client.set_key_version_state(f"{KEY}/versions/1", "DISABLED"))
    go_on.set()
    with pytest.raises(ClientError, match="no ACTIVE version"):
        await signing
    assert "WITHHELD" in [one["outcome"] for one in await records(house, gateway)]
