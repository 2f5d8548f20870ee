"""What this gateway tells verifiers, and what it verifies with itself: one source for both."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.key import KeyVersion
from sealkeeper.server.keys import Keys
from sealkeeper.server.trusted_root import TenantKey, keys_json
from sealkeeper.verify import TrustRoot, VerifyError

_NONE: Mapping[str, TrustRoot] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TrustDocuments:
    """The three JSON documents of a trust root."""

    trusted_root: bytes
    keys: bytes
    signing_config: bytes


@dataclass(frozen=True, slots=True)
class _Made:
    """A tenant's trust root, and for how long it says what is the case.

    Attributes:
        revision: of the tenant's keys.
        until: when a version's state changes by itself.
        root: the trust root.
    """

    revision: int
    until: datetime | None
    root: TrustRoot


class Trust:
    """Makes trust roots.

    Args:
        domain: the gateway's.
        trusted_root: of its logs and authorities.
        signing_config: for stock signers.
        keys: all keys.
        clock: the time.
        others: trust roots of other instances, by name, for gates.
    """

    def __init__(
        self,
        domain: str,
        trusted_root: bytes,
        signing_config: bytes,
        keys: Keys,
        clock: SteadyClock,
        others: Mapping[str, TrustRoot] = _NONE,
    ) -> None:
        self._others = others
        self._domain = domain
        self._trusted_root = trusted_root
        self._signing_config = signing_config
        self._keys = keys
        self._clock = clock
        self._made: dict[str, _Made] = {}

    async def documents(self, tenant: str) -> TrustDocuments:
        """The trust root with one tenant's keys, as of now."""
        now = self._clock.at_least_latest()
        return await asyncio.to_thread(self._documents, tenant, self._versions(tenant), now)

    async def root(self, tenant: str) -> TrustRoot:
        """The same, parsed; kept until something changes."""
        now, revision = self._clock.at_least_latest(), self._keys.revision(tenant)
        known = self._made.get(tenant)
        if known is not None and known.revision == revision and (known.until is None or now < known.until):
            return known.root
        versions = self._versions(tenant)
        root = await asyncio.to_thread(self._root, tenant, versions, now)
        other = self._made.get(tenant)
        if other is not None and other is not known and other.revision == revision:
            # Somebody else was faster: what is remembered by the one root must count for both.
            return other.root
        changes = [one for version in versions for one in (version.activate_time, version.retire_time) if one]
        self._made[tenant] = _Made(revision, min((one for one in changes if one > now), default=None), root)
        return root

    def _versions(self, tenant: str) -> list[KeyVersion]:
        return [version for key in self._keys.of_tenant(tenant) for version in key.versions]

    def _documents(self, tenant: str, versions: list[KeyVersion], now: datetime) -> TrustDocuments:
        keys = keys_json(self._domain, tenant, now, [_tenant_key(version, now) for version in versions])
        return TrustDocuments(self._trusted_root, keys, self._signing_config)

    def _root(self, tenant: str, versions: list[KeyVersion], now: datetime) -> TrustRoot:
        documents = self._documents(tenant, versions, now)
        return replace(TrustRoot.from_json(documents.trusted_root, documents.keys), others=self._others)


def read_trust_roots(places: Mapping[str, str]) -> dict[str, TrustRoot]:
    """Trust roots of other instances, by name.

    Args:
        places: of each, a ``trusted_root.json``, or ``public-good`` for the root in the ``sigstore`` package.

    Raises:
        ConfigurationError: one cannot be read.
    """
    found = {}
    for name, place in places.items():
        try:
            found[name] = TrustRoot.of_place(Path(place))
        except VerifyError as error:
            raise ConfigurationError(
                f"gates.trust_roots.{name}: {error}", next_step="name a trusted_root.json, or public-good"
            ) from None
    return found


def _tenant_key(version: KeyVersion, now: datetime) -> TenantKey:
    return TenantKey(
        str(version.name),
        version.public_key,
        version.algorithm,
        version.state_at(now),
        version.activate_time or version.create_time,
        version.retire_time,
        version.compromise_time,
        version.disabled,
    )
