"""Settings of quotas: how far tenants can go. Within that, each sets its own limits.

::

    [quotas]
    tenant_calls = { per_second = 5000, burst = 10000 }

    [quotas.tenants.acme]
    keys = 50
"""

from __future__ import annotations

from pydantic import Field, model_validator

from sealkeeper.server.limits import (
    MAX_BURST,
    MAX_KEYS,
    MAX_PER_SECOND,
    MIN_CALLS_PER_SECOND,
    Limits,
    LimitsUpdate,
    Rate,
)
from sealkeeper.server.setting_types import Identifier, Section

_CALLS = ("tenant_calls", "principal_calls")


class RateSettings(Section):
    """A rate.

    Attributes:
        per_second: how many a second, on average; of calls at least 1.
        burst: how many at once after a pause.
    """

    per_second: float = Field(gt=0, le=MAX_PER_SECOND, allow_inf_nan=False)
    burst: int = Field(ge=1, le=MAX_BURST)


class TenantQuotaSettings(Section):
    """Ceilings of one tenant; those that are not set are as for all.

    Attributes:
        tenant_calls: of all of its callers together.
        tenant_signatures: for all of its callers together.
        principal_calls: of each caller.
        principal_signatures: for each caller.
        keys: that it may have.
    """

    tenant_calls: RateSettings | None = None
    tenant_signatures: RateSettings | None = None
    principal_calls: RateSettings | None = None
    principal_signatures: RateSettings | None = None
    keys: int | None = Field(default=None, ge=0, le=MAX_KEYS)

    @model_validator(mode="after")
    def _calls_are_possible(self) -> TenantQuotaSettings:
        _require_some_calls(self.tenant_calls, self.principal_calls)
        return self

    def update(self) -> LimitsUpdate:
        """What is set."""
        return LimitsUpdate(
            _rate(self.tenant_calls) if self.tenant_calls else None,
            _rate(self.tenant_signatures) if self.tenant_signatures else None,
            _rate(self.principal_calls) if self.principal_calls else None,
            _rate(self.principal_signatures) if self.principal_signatures else None,
            self.keys,
        )


class QuotaSettings(Section):
    """Ceilings of every tenant, which its limits start at.

    Attributes:
        tenant_calls: of all callers of a tenant together.
        tenant_signatures: for all callers of a tenant together.
        principal_calls: of each caller.
        principal_signatures: for each caller.
        keys: that a tenant may have.
        tenants: other ceilings, by tenant.
    """

    tenant_calls: RateSettings = RateSettings(per_second=20_000, burst=40_000)
    tenant_signatures: RateSettings = RateSettings(per_second=100_000, burst=200_000)
    principal_calls: RateSettings = RateSettings(per_second=10_000, burst=20_000)
    principal_signatures: RateSettings = RateSettings(per_second=50_000, burst=100_000)
    keys: int = Field(default=1000, ge=0, le=MAX_KEYS)
    tenants: dict[Identifier, TenantQuotaSettings] = Field(default={})

    @model_validator(mode="after")
    def _calls_are_possible(self) -> QuotaSettings:
        _require_some_calls(self.tenant_calls, self.principal_calls)
        return self

    def ceilings(self, tenant: str) -> Limits:
        """How far a tenant can go."""
        everybodys = Limits(
            _rate(self.tenant_calls),
            _rate(self.tenant_signatures),
            _rate(self.principal_calls),
            _rate(self.principal_signatures),
            self.keys,
        )
        own = self.tenants.get(tenant)
        return everybodys if own is None else own.update().on(everybodys)


def _rate(settings: RateSettings) -> Rate:
    return Rate(settings.per_second, settings.burst)


def _require_some_calls(*rates: RateSettings | None) -> None:
    for name, rate in zip(_CALLS, rates, strict=True):
        if rate is not None and rate.per_second < MIN_CALLS_PER_SECOND:
            raise ValueError(f"{name}.per_second: must be at least {MIN_CALLS_PER_SECOND}")
