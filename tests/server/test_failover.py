"""A key that stands by in another provider: when it signs, what is said of it, and when it does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from sealkeeper.client import Client, ClientError
from sealkeeper.hsm import ProviderSealedError
from sealkeeper.server.configured_provider import ConfiguredProvider
from sealkeeper.server.gateway import Gateway
from sealkeeper.v1 import provider_pb2, resources_pb2
from sealkeeper.verify import Artifact, Policy, verify
from tests.e2e.running import P256, PARENT, TENANT
from tests.server.house import KEY, House, audit_records

NOW = timedelta(0)


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
        yield running


class Switch:
    """Takes a provider away and gives it back."""

    def __init__(self, provider: ConfiguredProvider) -> None:
        self._store: Any = provider._provider
        self._sign = self._store.sign
        self.asked = 0

    def off(self) -> None:
        async def refuse(*_: object) -> list[bytes]:
            self.asked += 1
            raise ProviderSealedError("the key store is sealed", next_step="unseal it")

        self._store.sign = refuse

    def on(self) -> None:
        self._store.sign = self._sign


def forget(provider: ConfiguredProvider) -> None:
    """As if the breaker's pause were over."""
    provider._breaker._not_before = 0.0


async def stand_by(house: House, gateway: Gateway, failover: str = "AUTOMATIC") -> None:
    await house.ask(
        gateway,
        "custodian",
        lambda client: client.add_standby_version(KEY, "second", failover=failover, publish_period=NOW),
    )


async def records(house: House, gateway: Gateway) -> list[dict[str, Any]]:
    found = await house.ask(gateway, "admin", audit_records)
    return [one for one in found if one["method"] == "SigningService/Sign"]


async def test_the_standby_signs_while_the_provider_is_away_and_the_first_signs_again_afterwards(
    house: House, gateway: Gateway
) -> None:
    await stand_by(house, gateway)
    assert (await house.sign(gateway)).key_version.endswith("/1")
    switch = Switch(gateway._providers["first"])
    switch.off()
    for _ in range(6):
        signed = await house.sign(gateway)
        assert signed.key_version.endswith("/2")
        policy = Policy(key=KEY)
        verify(signed.signature.bundle, Artifact.from_bytes(b"x"), await house.trust(gateway), policy).require()
    # Once it has failed three times it is left alone.
    assert switch.asked == 3
    switch.on()
    assert (await house.sign(gateway)).key_version.endswith("/2")
    forget(gateway._providers["first"])
    assert (await house.sign(gateway)).key_version.endswith("/1")
    assert (await house.sign(gateway)).key_version.endswith("/1")


async def test_the_audit_record_says_who_signed_in_whose_place_and_why(house: House, gateway: Gateway) -> None:
    await stand_by(house, gateway)
    Switch(gateway._providers["first"]).off()
    for _ in range(4):
        await house.sign(gateway)
    found = await records(house, gateway)
    assert [one["details"]["keyVersion"].rpartition("/")[2] for one in found] == ["2"] * 4
    reasons = [one["details"]["failover"] for one in found]
    assert reasons[0] == {"from": f"{KEY}/versions/1", "provider": "first", "reason": "PROVIDER_SEALED"}
    assert reasons[3]["reason"] == "CIRCUIT_OPEN"
    telemetry: Any = gateway._providers["first"]._telemetry
    assert telemetry._failovers == {(TENANT, "first", "second"): 4}


async def test_without_a_standby_the_caller_hears_why_and_when_to_come_back(house: House, gateway: Gateway) -> None:
    Switch(gateway._providers["first"]).off()
    with pytest.raises(ClientError) as caught:
        await house.sign(gateway)
    assert caught.value.reason == "PROVIDER_SEALED"
    assert caught.value.retry_after
    for _ in range(2):
        with pytest.raises(ClientError):
            await house.sign(gateway)
    with pytest.raises(ClientError) as caught:
        await house.sign(gateway)
    assert caught.value.reason == "CIRCUIT_OPEN"
    assert caught.value.retry_after
    assert [one["outcome"] for one in await records(house, gateway)] == ["PROVIDER_SEALED"] * 3 + ["CIRCUIT_OPEN"]


async def test_a_standby_that_waits_for_people_does_not_sign_by_itself(house: House, gateway: Gateway) -> None:
    await stand_by(house, gateway, "MANUAL")
    Switch(gateway._providers["first"]).off()
    with pytest.raises(ClientError, match="sealed"):
        await house.sign(gateway)
    assert (await house.sign(gateway, f"{KEY}/versions/2")).key_version.endswith("/2")


async def test_where_both_are_away_nothing_signs(house: House, gateway: Gateway) -> None:
    await stand_by(house, gateway)
    for name in ("first", "second"):
        Switch(gateway._providers[name]).off()
    for _ in range(8):
        with pytest.raises(ClientError) as caught:
            await house.sign(gateway)
        assert caught.value.reason in ("PROVIDER_SEALED", "CIRCUIT_OPEN")


async def test_a_version_that_is_named_is_not_replaced_by_another(house: House, gateway: Gateway) -> None:
    await stand_by(house, gateway)
    Switch(gateway._providers["first"]).off()
    with pytest.raises(ClientError, match="sealed"):
        await house.sign(gateway, f"{KEY}/versions/1")


async def test_a_standby_that_is_only_announced_does_not_sign(house: House, gateway: Gateway) -> None:
    await house.ask(
        gateway,
        "custodian",
        lambda client: client.add_standby_version(KEY, "second", publish_period=timedelta(hours=1)),
    )
    Switch(gateway._providers["first"]).off()
    with pytest.raises(ClientError, match="sealed"):
        await house.sign(gateway)


async def test_a_compromised_key_is_not_rescued_by_its_standby(house: House, gateway: Gateway) -> None:
    await stand_by(house, gateway)
    await house.ask(gateway, "custodian", lambda client: client.set_key_version_state(f"{KEY}/versions/1", "DISABLED"))
    with pytest.raises(ClientError, match="no ACTIVE version"):
        await house.sign(gateway)


async def test_a_standby_in_the_same_provider_is_refused(house: House, gateway: Gateway) -> None:
    with pytest.raises(ClientError) as caught:
        await house.ask(gateway, "custodian", lambda client: client.add_standby_version(KEY, "first"))
    assert caught.value.reason == "STANDBY_IN_SAME_PROVIDER"
    assert len(house.key_files("first")) == 1


async def test_a_key_is_not_brought_to_where_its_standby_is(house: House, gateway: Gateway) -> None:
    await house.ask(gateway, "custodian", lambda client: client.add_standby_version(KEY, "second"))
    with pytest.raises(ClientError) as caught:
        await house.ask(
            gateway, "custodian", lambda client: client.begin_key_import(PARENT, "release", provider="second")
        )
    assert caught.value.reason == "STANDBY_IN_SAME_PROVIDER"
    assert len(house.key_files("second")) == 1


async def test_rotation_of_the_one_leaves_the_other_alone(house: House, gateway: Gateway) -> None:
    await stand_by(house, gateway)

    def rotate(client: Client) -> resources_pb2.Key:
        client.rotate_key(KEY, publish_period=NOW)
        return client.get_key(KEY)

    key = await house.ask(gateway, "custodian", rotate)
    assert (key.active_version[-1], key.standby_version[-1]) == ("3", "2")
    await stand_by(house, gateway)
    key = await house.ask(gateway, "custodian", lambda client: client.get_key(KEY))
    assert (key.active_version[-1], key.standby_version[-1]) == ("3", "4")
    versions = await house.ask(gateway, "custodian", lambda client: list(client.list_key_versions(KEY)))
    state = resources_pb2.KeyVersionState.Name
    assert [state(one.state).removeprefix("KEY_VERSION_STATE_") for one in versions] == [
        "ACTIVE",
        "ACTIVE",
        "VERIFY_ONLY",
        "VERIFY_ONLY",
    ]
    assert [one.region for one in versions] == ["eu-west-1", "eu-central-1", "eu-west-1", "eu-central-1"]


async def test_it_is_all_there_after_a_restart(house: House, tmp_path: Path) -> None:
    async with house.running() as gateway:
        await house.ask(
            gateway, "custodian", lambda client: client.create_key(PARENT, "release", P256, provider="first")
        )
        await stand_by(house, gateway)
    async with house.running() as gateway:
        key = await house.ask(gateway, "custodian", lambda client: client.get_key(KEY))
        assert key.failover == resources_pb2.FAILOVER_AUTOMATIC
        Switch(gateway._providers["first"]).off()
        assert (await house.sign(gateway)).key_version.endswith("/2")


async def test_how_providers_are_is_told(house: House, gateway: Gateway) -> None:
    Switch(gateway._providers["first"]).off()
    for _ in range(3):
        with pytest.raises(ClientError):
            await house.sign(gateway)
    found = await house.ask(gateway, "custodian", lambda client: list(client.list_providers(PARENT)))
    told = {one.name.rpartition("/")[2]: one for one in found}
    assert sorted(told) == ["first", "main", "second"]
    first, main = told["first"], told["main"]
    assert first.region == "eu-central-1"
    assert first.health.circuit == provider_pb2.CIRCUIT_STATE_OPEN
    assert first.health.last_error == "PROVIDER_SEALED"
    assert first.health.error_rate > 0
    assert first.health.HasField("retry_time")
    assert main.health.circuit == provider_pb2.CIRCUIT_STATE_CLOSED
    assert main.health.HasField("last_success_time")
    assert main.scheme == "software"


async def served(gateway: Gateway, service: str) -> str:
    context: Any = None
    answer = await gateway._health.Check(health_pb2.HealthCheckRequest(service=service), context)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def test_a_provider_that_is_away_is_told_under_its_own_name_and_the_gateway_goes_on(
    house: House, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [await served(gateway, name) for name in ("", "providers/first")] == ["SERVING"] * 2

    async def away() -> None:
        raise ProviderSealedError("sealed")

    with monkeypatch.context() as patch:
        patch.setattr(gateway._providers["first"]._provider, "check", away)
        await gateway._regular["health"]()
        told = [await served(gateway, name) for name in ("", "providers/first", "providers/second")]
    assert told == ["SERVING", "NOT_SERVING", "SERVING"]
    await gateway._regular["health"]()
    assert await served(gateway, "providers/first") == "SERVING"
    with monkeypatch.context() as patch:
        # The gateway's own keys are in it.
        patch.setattr(gateway._providers["main"]._provider, "check", away)
        await gateway._regular["health"]()
        assert await served(gateway, "") == "NOT_SERVING"
