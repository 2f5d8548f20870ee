"""What this gateway tells verifiers, and what it verifies with itself: one source for both."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.key import KeyVersion
from sealkeeper.server.keys import Keys
from sealkeeper.server.trusted_root import TenantKey, keys_json
from sealkeeper.verify import TrustRoot


@dataclass(frozen=True, slots=True)
class TrustDocuments:
    """The three JSON documents of a trust root."""

    trusted_root: bytes
    keys: bytes
    signing_config: bytes


class Trust:
    """Makes trust roots.

    Args:
        domain: the gateway's.
        trusted_root: of its logs and authorities.
        signing_config: for stock signers.
        keys: all keys.
        clock: the time.
    """

    def __init__(self, domain: str, trusted_root: bytes, signing_config: bytes, keys: Keys, clock: SteadyClock) -> None:
        self._domain = domain
        self._trusted_root = trusted_root
        self._signing_config = signing_config
        self._keys = keys
        self._clock = clock
        # By tenant: a key's revisions and the second in which its trust root was made.
        self._parsed: dict[str, tuple[tuple[int, ...], datetime, TrustRoot]] = {}

    def documents(self, tenant: str) -> TrustDocuments:
        """The trust root with one tenant's keys, as of now."""
        now = self._clock.at_least_latest()
        keys = [_tenant_key(version, now) for key in self._keys.of_tenant(tenant) for version in key.versions]
        return TrustDocuments(self._trusted_root, keys_json(self._domain, tenant, now, keys), self._signing_config)

    def root(self, tenant: str) -> TrustRoot:
        """The same, parsed."""
        now = self._clock.at_least_latest().replace(microsecond=0)
        revisions = tuple(key.revision for key in self._keys.of_tenant(tenant))
        known = self._parsed.get(tenant)
        # A state can change by itself at every full second.
        if known is not None and known[:2] == (revisions, now):
            return known[2]
        documents = self.documents(tenant)
        root = TrustRoot.from_json(documents.trusted_root, documents.keys)
        self._parsed[tenant] = revisions, now, root
        return root


def _tenant_key(version: KeyVersion, now: datetime) -> TenantKey:
    return TenantKey(
        str(version.name),
        version.public_key,
        version.algorithm,
        version.state_at(now),
        version.activate_time or version.create_time,
        version.retire_time,
        version.compromise_time,
    )
