"""Which tenants a provider belongs to: ``[providers.X] tenants``.

Another tenant's provider is, to a tenant, one that there is not. Held where a version or a wrapping key is made, and
where providers are shown; that no key is already where it may not be is made sure of when the gateway starts, since
settings are read then only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.key import Key, State
from sealkeeper.server.settings import ProviderSettings


class ProviderAccess:
    """Says who may use a provider.

    Args:
        settings: of the providers, by name.
    """

    def __init__(self, settings: Mapping[str, ProviderSettings]) -> None:
        self._tenants = {name: frozenset(one.tenants) for name, one in settings.items()}

    def allows(self, tenant: str, provider: str) -> bool:
        """Whether a tenant may use a provider; one that is not in the settings, nobody may."""
        owners = self._tenants.get(provider)
        return owners is not None and (not owners or tenant in owners)

    def everybodys(self, provider: str) -> bool:
        """Whether every tenant may use a provider, so that all may know of it."""
        return self._tenants.get(provider) == frozenset()

    def require_held(self, keys: Iterable[Key]) -> None:
        """Refuse settings by which a tenant has key versions in another tenant's provider.

        Raises:
            ConfigurationError: naming the first of them.
        """
        strangers = sorted(
            (version.provider, key.name.tenant, str(version.name))
            for key in keys
            for version in key.versions
            if version.state is not State.DESTROYED
            # What is not in the settings at all is another mistake, with a message of its own.
            and version.provider in self._tenants
            and not self.allows(key.name.tenant, version.provider)
        )
        if strangers:
            provider, tenant, version = strangers[0]
            raise ConfigurationError(
                f"providers.{provider}.tenants: {tenant} is not among them, and has key versions there: {version}",
                next_step=f"add {tenant} to providers.{provider}.tenants, or destroy these versions first",
            )
