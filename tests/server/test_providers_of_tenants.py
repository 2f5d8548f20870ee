"""Providers that belong to tenants: to another tenant they are not there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sealkeeper.hsm import open_provider
from sealkeeper.server import calls
from sealkeeper.server.authorization import UnrestrictedAuthorizer
from sealkeeper.server.calls import Call
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.configured_provider import ConfiguredProvider
from sealkeeper.server.errors import ConfigurationError, NotFoundError, RegionNotAllowedError
from sealkeeper.server.identity import Principal, Role
from sealkeeper.server.key import Key, State
from sealkeeper.server.key_imports import ImportOrder, KeyImports
from sealkeeper.server.keys import Keys
from sealkeeper.server.new_version import Making, VersionMaker
from sealkeeper.server.provider_access import ProviderAccess
from sealkeeper.server.provider_service import ProviderService
from sealkeeper.server.residency import Residency
from sealkeeper.server.resources import KeyName
from sealkeeper.server.settings import KeySettings, ProviderSettings, TelemetrySettings
from sealkeeper.server.store.database import open_database
from sealkeeper.server.store.import_table import ImportTable
from sealkeeper.server.store.key_table import KeyTable
from sealkeeper.server.telemetry import Telemetry
from sealkeeper.v1 import provider_pb2
from tests.server.test_keys import P256, Recording
from tests.stores.software import software

TENANTS = {"all": [], "acmes": ["acme"], "betas": ["beta"], "both": ["acme", "beta"]}
EU = "eu-central-1"


def settings(tenants: dict[str, list[str]], uri: str = "software:///x") -> dict[str, ProviderSettings]:
    return {name: ProviderSettings(uri=uri, tenants=owners) for name, owners in tenants.items()}


@dataclass
class House:
    """Keys, imports and the service over one real store that goes by four names."""

    keys: Keys
    imports: KeyImports
    service: ProviderService

    async def create(self, tenant: str, provider: str) -> Key:
        name = KeyName(tenant, f"in-{provider or 'default'}")
        return await self.keys.create(name, P256, {}, Recording(), None, Making(provider))

    async def refusal(self, tenant: str, provider: str) -> NotFoundError:
        with pytest.raises(NotFoundError) as caught:
            await self.create(tenant, provider)
        return caught.value

    def call(self, tenant: str) -> None:
        """What the interceptor does."""
        principal = Principal(tenant, "spiffe://x/ci", Role.CI)
        call = Call("ProviderService/Test", UnrestrictedAuthorizer(), None, lambda: datetime.now(UTC), principal)  # type: ignore[arg-type]  # quotas are not asked here
        calls._current.set(call)

    async def listed(self, tenant: str) -> list[str]:
        self.call(tenant)
        request = provider_pb2.ListProvidersRequest(parent=f"tenants/{tenant}")
        found = await self.service.ListProviders(request, None)
        return [one.name.rpartition("/")[2] for one in found.providers]

    async def got(self, tenant: str, provider: str) -> provider_pb2.Provider:
        self.call(tenant)
        request = provider_pb2.GetProviderRequest(name=f"tenants/{tenant}/providers/{provider}")
        return (await self.service.GetProvider(request, None)).provider


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    with software(tmp_path) as uri:
        provider = await open_provider(uri)
    database = await open_database(f"sqlite:///{tmp_path}/metadata.db")
    telemetry, clock = Telemetry(TelemetrySettings(metrics_listen=None), "tests"), SteadyClock()
    providers = {
        name: ConfiguredProvider(provider, name, telemetry, region=EU if name == "acmes" else "us-east-1")
        for name in TENANTS
    }
    access, residency = ProviderAccess(settings(TENANTS, uri)), Residency({"gamma": [EU]})
    maker = VersionMaker(providers, KeyTable(database), access, residency, "tests", clock.now)
    keys = Keys(KeyTable(database), providers, maker, KeySettings(default_provider="all"), clock, [])
    imports = KeyImports(ImportTable(database), keys, maker, providers, clock, [])
    yield House(keys, imports, ProviderService(providers, access, residency, clock))
    await imports.close()
    await keys.close()
    await database.close()
    await provider.close()


@pytest.mark.parametrize(
    ("tenant", "allowed"),
    [("acme", {"all", "acmes", "both"}), ("beta", {"all", "betas", "both"}), ("gamma", {"all"}), ("", {"all"})],
)
def test_a_provider_is_for_its_tenants_or_for_all_where_it_names_none(tenant: str, allowed: set[str]) -> None:
    access = ProviderAccess(settings(TENANTS))
    assert {name for name in (*TENANTS, "none") if access.allows(tenant, name)} == allowed
    assert {name for name in (*TENANTS, "none") if access.everybodys(name)} == {"all"}


async def test_a_key_is_made_in_providers_of_its_tenant_only(house: House) -> None:
    for tenant, provider in (("acme", "acmes"), ("acme", "both"), ("beta", "both"), ("gamma2", "all")):
        made = await house.create(tenant, provider)
        assert made.versions[0].provider == provider
    for tenant, provider in (("acme", "betas"), ("beta", "acmes"), ("gamma2", "both")):
        assert (await house.refusal(tenant, provider)).reason == "PROVIDER_UNKNOWN"


async def test_another_tenants_provider_cannot_be_told_from_one_that_there_is_not(house: House) -> None:
    theirs, none = await house.refusal("acme", "betas"), await house.refusal("acme", "nones")
    assert str(theirs).replace("betas", "nones") == str(none)
    assert str(none) == "there is no provider 'nones'; known are acmes, all, both"
    assert (theirs.next_step, theirs.metadata) == (none.next_step, none.metadata)


async def test_another_tenants_provider_is_not_there_even_where_the_region_would_be_refused(house: House) -> None:
    with pytest.raises(RegionNotAllowedError):
        await house.create("gamma", "all")
    error = await house.refusal("gamma", "acmes")
    assert str(error) == "there is no provider 'acmes'; known are none"


async def test_the_default_provider_is_not_named_to_a_tenant_that_may_not_use_it(house: House) -> None:
    house.keys._settings = KeySettings(default_provider="betas")
    texts = []
    for make in (
        lambda: house.create("acme", ""),
        lambda: house.imports.begin(ImportOrder(KeyName("acme", "new"), P256, "", False, {}), Recording()),
    ):
        with pytest.raises(NotFoundError) as caught:
            await make()
        assert caught.value.reason == "PROVIDER_UNKNOWN"
        texts.append(str(caught.value))
    assert texts == ["no provider is named, and the tenant has none by default; known are acmes, all, both"] * 2
    assert (await house.create("beta", "")).versions[0].provider == "betas"


async def test_a_standby_version_and_an_import_are_held_to_it_too(house: House) -> None:
    made = await house.create("acme", "acmes")
    with pytest.raises(NotFoundError) as caught:
        await house.keys.rotate(made.name, None, Recording(), None, Making("betas", standby=True))
    assert caught.value.reason == "PROVIDER_UNKNOWN"
    with pytest.raises(NotFoundError) as caught:
        await house.imports.begin(ImportOrder(KeyName("acme", "new"), P256, "betas", False, {}), Recording())
    assert caught.value.reason == "PROVIDER_UNKNOWN"
    begun = await house.imports.begin(ImportOrder(KeyName("beta", "new"), P256, "betas", False, {}), Recording())
    assert begun.provider == "betas"


async def test_tenants_are_shown_their_own_providers_only(house: House) -> None:
    assert await house.listed("acme") == ["acmes", "all", "both"]
    assert await house.listed("beta") == ["all", "betas", "both"]
    assert await house.listed("gamma") == []
    assert (await house.got("acme", "acmes")).region == EU
    texts = []
    for name in ("betas", "nones"):
        with pytest.raises(NotFoundError) as caught:
            await house.got("acme", name)
        texts.append(str(caught.value).replace(name, ""))
    assert texts[0] == texts[1]


async def test_settings_that_take_a_provider_away_from_a_tenant_with_keys_there_are_refused(house: House) -> None:
    key = await house.create("acme", "both")
    ProviderAccess(settings(TENANTS)).require_held([key])
    taken = ProviderAccess(settings({**TENANTS, "both": ["beta"]}))
    with pytest.raises(ConfigurationError) as caught:
        taken.require_held([key])
    assert str(caught.value) == (
        "providers.both.tenants: acme is not among them, and has key versions there: "
        "tenants/acme/keys/in-both/versions/1"
    )
    assert "add acme to providers.both.tenants" in caught.value.next_step
    # Another check says more of a provider that the settings do not have.
    ProviderAccess(settings({})).require_held([key])
    # What is destroyed is nowhere.
    taken.require_held([replace(key, versions=(replace(key.versions[0], state=State.DESTROYED),))])
