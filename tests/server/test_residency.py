"""In which regions a tenant's keys may live and sign."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.client import Client, ClientError
from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.gateway import Gateway
from sealkeeper.server.settings import load_settings
from tests.e2e.running import P256, PARENT, TENANT
from tests.server.house import KEY, House
from tests.server.test_failover import Switch, stand_by

INSIDE, OUTSIDE = "eu-central-1", "us-east-1"


@pytest.fixture
async def house(tmp_path: Path) -> House:
    made = await House.make(tmp_path / "gateway")
    made.add_provider("inside", INSIDE)
    made.add_provider("first", INSIDE)
    made.add_provider("second", OUTSIDE)
    return made


def confine(house: House) -> None:
    house.settings(f'[residency]\n{TENANT} = ["{INSIDE}"]\n')


def create(provider: str) -> Callable[[Client], Any]:
    return lambda client: client.create_key(PARENT, "release", P256, provider=provider)


def begin(provider: str) -> Callable[[Client], Any]:
    return lambda client: client.begin_key_import(PARENT, "release", algorithm=P256, provider=provider)


async def refused(house: House, gateway: Gateway, question: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        await house.ask(gateway, "custodian", question)
    return caught.value


def counted(gateway: Gateway) -> dict[tuple[str, str, str], int]:
    telemetry: Any = gateway._providers["first"]._telemetry
    return dict(telemetry._residency)


async def test_a_key_is_made_where_it_may_be_and_nowhere_else(house: House) -> None:
    confine(house)
    async with house.running() as gateway:
        error = await refused(house, gateway, create("second"))
        assert error.reason == "REGION_NOT_ALLOWED"
        assert INSIDE in str(error)
        # Of the provider main nobody says where it is.
        assert (await refused(house, gateway, create("main"))).reason == "REGION_NOT_ALLOWED"
        made = await house.ask(gateway, "custodian", create("inside"))
        assert made.version.region == INSIDE
        assert counted(gateway) == {(TENANT, OUTSIDE, "created"): 1, (TENANT, "", "created"): 1}
        assert house.key_files("second") == []


async def test_a_key_is_imported_where_it_may_be_and_nowhere_else(house: House) -> None:
    confine(house)
    async with house.running() as gateway:
        assert (await refused(house, gateway, begin("second"))).reason == "REGION_NOT_ALLOWED"
        assert (await house.ask(gateway, "custodian", begin("inside"))).region == INSIDE
        assert counted(gateway) == {(TENANT, OUTSIDE, "import"): 1}


async def test_a_standby_is_refused_where_it_may_not_be(house: House) -> None:
    confine(house)
    async with house.running() as gateway:
        await house.ask(
            gateway, "custodian", lambda client: client.create_key(PARENT, "release", P256, provider="first")
        )
        error = await refused(house, gateway, lambda client: client.add_standby_version(KEY, "second"))
        assert error.reason == "REGION_NOT_ALLOWED"
        assert counted(gateway) == {(TENANT, OUTSIDE, "standby_added"): 1}


async def test_what_lives_outside_already_signs_no_more_and_does_not_take_over(house: House) -> None:
    async with house.running() as gateway:
        await house.ask(
            gateway, "custodian", lambda client: client.create_key(PARENT, "release", P256, provider="first")
        )
        await house.ask(
            gateway, "custodian", lambda client: client.create_key(PARENT, "other", P256, provider="second")
        )
        await stand_by(house, gateway)
    confine(house)
    async with house.running() as gateway:
        with pytest.raises(ClientError) as caught:
            await house.sign(gateway, f"{PARENT}/keys/other")
        assert caught.value.reason == "REGION_NOT_ALLOWED"
        assert (await house.sign(gateway)).key_version.endswith("/1")
        Switch(gateway._providers["first"]).off()
        with pytest.raises(ClientError) as caught:
            await house.sign(gateway)
        assert caught.value.reason == "PROVIDER_SEALED"
        assert counted(gateway) == {(TENANT, OUTSIDE, "sign"): 1, (TENANT, OUTSIDE, "failover"): 1}


async def test_providers_elsewhere_are_not_shown(house: House) -> None:
    confine(house)
    async with house.running() as gateway:
        found = await house.ask(gateway, "custodian", lambda client: list(client.list_providers(PARENT)))
        assert [one.name.rpartition("/")[2] for one in found] == ["first", "inside"]
        unknown = await refused(
            house, gateway, lambda client: client.create_key(PARENT, "release", P256, provider="nothing")
        )
        assert "known are first, inside" in str(unknown)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('stranger = ["eu-west-1"]', "residency.stranger: there is no such tenant"),
        (f"{TENANT} = []", f"residency.{TENANT}: "),
        (f'{TENANT} = [""]', f"residency.{TENANT}: a region must not be empty"),
        (f'{TENANT} = ["EU West"]', f"residency.{TENANT}.0: must be 1 to 63 of a-z"),
        (f'{TENANT} = "eu-west-1"', f"residency.{TENANT}: must be a list"),
    ],
)
async def test_a_bad_residency_is_refused_by_its_name(house: House, text: str, problem: str) -> None:
    house.settings(f"[residency]\n{text}\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(house.directory / "sealkeeper.toml")
    assert problem in str(caught.value)
