"""Makes key versions: in a provider that fits, with a ceremony, and with nothing left behind where that fails."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from sealkeeper.hsm import ALGORITHMS, Algorithm, AlgorithmNotSupportedError, Origin, ProviderError, ProviderKey
from sealkeeper.server.ceremony import Ceremony, Event, hold
from sealkeeper.server.configured_provider import ConfiguredProvider
from sealkeeper.server.errors import NotFoundError, SealkeeperError
from sealkeeper.server.identity import Principal
from sealkeeper.server.key import Failover, KeyVersion, State
from sealkeeper.server.provider_access import ProviderAccess
from sealkeeper.server.residency import Residency
from sealkeeper.server.resources import KeyVersionName
from sealkeeper.server.store.key_table import KeyTable

_log = logging.getLogger("sealkeeper.keys")
_MAX_LABEL = 128


class Audit(Protocol):
    """The record of a change."""

    @property
    def principal(self) -> Principal:
        """Who asks for it."""
        ...

    async def __call__(self, details: dict[str, object]) -> int:
        """Make the record durable, with these details, before the change takes effect; its index in the audit log."""
        ...


class Source(Protocol):
    """Where the key pair of a version comes from."""

    @property
    def origin(self) -> Origin:
        """Made in the provider or brought into it."""
        ...

    @property
    def imported(self) -> Mapping[str, Any] | None:
        """Of an imported key, how it came."""
        ...

    async def make(self, provider: ConfiguredProvider, label: str, algorithm: Algorithm) -> ProviderKey:
        """Have the key pair in the provider.

        Raises:
            ProviderError: the provider did not make or take it.
        """
        ...


class Generated:
    """The provider makes the key pair."""

    origin = Origin.GENERATED
    imported = None

    async def make(self, provider: ConfiguredProvider, label: str, algorithm: Algorithm) -> ProviderKey:
        """Have it made."""
        return await provider.generate(label, algorithm)


@dataclass(frozen=True, slots=True)
class Making:
    """How a version is to be made.

    Attributes:
        provider: name; empty for the key's, or the default one for a new key.
        source: of its key pair.
        standby: it is to stand by.
        failover: when a standby version signs.
    """

    provider: str = ""
    source: Source = field(default_factory=Generated)
    standby: bool = False
    failover: Failover = Failover.AUTOMATIC

    def event(self, number: int) -> Event:
        """What it is, for the record."""
        if self.source.origin is Origin.IMPORTED:
            return Event.IMPORTED
        if self.standby:
            return Event.STANDBY_ADDED
        return Event.CREATED if number == 1 else Event.ROTATED


@dataclass(frozen=True, slots=True)
class MadeVersion:
    """A version whose key pair is in its provider, and which is not durable yet.

    Attributes:
        version: PUBLISHED, without times.
        ceremony: DSSE envelope, for the audit record.
    """

    version: KeyVersion
    ceremony: dict[str, Any]

    @property
    def details(self) -> dict[str, object]:
        """For the audit record."""
        version = self.version
        return {
            "keyVersion": str(version.name),
            "algorithm": version.algorithm,
            "provider": version.provider,
            "region": version.region,
            "ceremony": self.ceremony,
        }


class VersionMaker:
    """Makes versions.

    Args:
        providers: by name.
        table: says whether a version became durable after all.
        access: says whose a provider is.
        residency: of the tenants.
        gateway: its domain.
        now: the time.
    """

    def __init__(
        self,
        providers: Mapping[str, ConfiguredProvider],
        table: KeyTable,
        access: ProviderAccess,
        residency: Residency,
        gateway: str,
        now: Callable[[], datetime],
    ) -> None:
        self._providers = providers
        self._table = table
        self._access = access
        self._residency = residency
        self._gateway = gateway
        self._now = now

    def provider(self, tenant: str, name: str, algorithm: str, operation: str) -> ConfiguredProvider:
        """The provider of a name, where it may and can hold a tenant's key for an algorithm.

        Raises:
            NotFoundError: there is none of the name, or it is another tenant's.
            AlgorithmNotSupportedError: it cannot do the algorithm.
            RegionNotAllowedError: the tenant's keys may not be there.
            ProviderUnavailableError: it has not been reached yet.
        """
        provider = self._providers.get(name)
        if provider is None or not self._access.allows(tenant, name):
            raise self._unknown(tenant, f"there is no provider {name!r}")
        self._residency.require(tenant, provider.region, name, operation)
        if algorithm not in provider.info.algorithms:
            raise AlgorithmNotSupportedError(
                f"provider {name} cannot do {algorithm}",
                next_step=f"it can do {', '.join(sorted(provider.info.algorithms))}",
            )
        return provider

    def require_default(self, tenant: str, name: str) -> None:
        """Refuse a default provider that is another tenant's, where none was named: without its name.

        Raises:
            NotFoundError: it is.
        """
        if not self._access.allows(tenant, name):
            raise self._unknown(tenant, "no provider is named, and the tenant has none by default")

    def _unknown(self, tenant: str, text: str) -> NotFoundError:
        known = ", ".join(sorted(one for one in self._providers if self._visible(tenant, one)))
        return NotFoundError(f"{text}; known are {known or 'none'}", reason="PROVIDER_UNKNOWN")

    def _visible(self, tenant: str, name: str) -> bool:
        return self._access.allows(tenant, name) and self._residency.allows(tenant, self._providers[name].region)

    @asynccontextmanager
    async def made(
        self, name: KeyVersionName, algorithm: str, making: Making, principal: Principal
    ) -> AsyncIterator[MadeVersion]:
        """A version with a key pair, which is destroyed again where the block does not make the version durable.

        Raises:
            SealkeeperError, ProviderError: as ``provider``; and what the source, evidence and ceremony raise.
        """
        provider = self.provider(name.tenant, making.provider, algorithm, making.event(name.number).lower())
        now = self._now()
        pair = await making.source.make(provider, version_label(name), ALGORITHMS[algorithm])
        try:
            evidence = await provider.evidence(pair.handle)
            version = KeyVersion(
                name,
                State.PUBLISHED,
                algorithm,
                provider.name,
                evidence.protection_level,
                pair.handle,
                pair.public_key,
                now,
                region=provider.region,
                standby=making.standby,
                origin=making.source.origin,
            )
            ceremony = Ceremony(
                making.event(name.number), now, self._gateway, principal, version, evidence, making.source.imported
            )
            yield MadeVersion(version, await hold(ceremony, provider))
        except BaseException:
            await self._discard(provider, pair)
            raise

    async def _discard(self, provider: ConfiguredProvider, pair: ProviderKey) -> None:
        try:
            # A database that failed may have done it all the same; and a store that is asked for an import again gives
            # the key of the first time, which another version may sign with. Then the key is needed.
            if not await self._table.has_handle(provider.name, pair.handle):
                await provider.destroy(pair.handle)
        except (SealkeeperError, ProviderError) as error:
            _log.error("a key of provider %s is left over, its handle is %r: %s", provider.name, pair.handle, error)


def version_label(name: KeyVersionName) -> str:
    """How people who look into a store find a version."""
    return f"{name.tenant}.{name.key}.{name.number}"[:_MAX_LABEL]
