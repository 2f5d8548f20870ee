"""Residency: in which regions a tenant's keys may live and sign.

Held wherever a key or a signature could come to be in another place: when a key is made or imported, when a version
signs, when its standby would, and when a wrapping key is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sealkeeper.server.errors import RegionNotAllowedError


class Residency:
    """The tenants' regions.

    Args:
        regions: by tenant; one that is not in it may use every region.
        on_refusal: told of each violation: tenant, region, what was to be done.
    """

    def __init__(
        self,
        regions: Mapping[str, Sequence[str]],
        on_refusal: Callable[[str, str, str], None] = lambda tenant, region, operation: None,
    ) -> None:
        self._regions = {tenant: frozenset(allowed) for tenant, allowed in regions.items()}
        self._on_refusal = on_refusal

    def allows(self, tenant: str, region: str) -> bool:
        """Whether a tenant's keys may be in a region. Where it is not known, a tenant with residency may not be."""
        allowed = self._regions.get(tenant)
        return allowed is None or region in allowed

    def require(self, tenant: str, region: str, provider: str, operation: str) -> None:
        """Refuse what would be done in a region that the tenant does not allow, and count it.

        Raises:
            RegionNotAllowedError: naming the regions that are allowed.
        """
        if self.allows(tenant, region):
            return
        self._on_refusal(tenant, region, operation)
        allowed = ", ".join(sorted(self._regions[tenant]))
        where = f"is in {region}" if region else "does not say where it is"
        raise RegionNotAllowedError(
            f"provider {provider} {where}; keys of tenant {tenant} may be in {allowed} only",
            next_step="use a provider in one of these regions: sealkeeper providers list",
        )
