"""Limits of a tenant: values, how they are changed in part, and how they are written down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from sealkeeper.server.errors import FailedPreconditionError

MAX_PER_SECOND = 1_000_000
MIN_CALLS_PER_SECOND = 1
"""Of calls, so that a tenant which has set its limit too low can still ask for more."""
MAX_BURST = 10_000_000
MAX_KEYS = 1_000_000


class Rate(msgspec.Struct, frozen=True):
    """A rate, as a token bucket has it.

    Attributes:
        per_second: how many a second, on average; above 0.
        burst: how many at once after a pause; at least 1.
    """

    per_second: float
    burst: int


class Limits(msgspec.Struct, frozen=True):
    """All limits of a tenant.

    Attributes:
        tenant_calls: of all of its callers together.
        tenant_signatures: for all of its callers together; each item of a batch is one.
        principal_calls: of each caller.
        principal_signatures: for each caller.
        keys: that there may be.
    """

    tenant_calls: Rate
    tenant_signatures: Rate
    principal_calls: Rate
    principal_signatures: Rate
    keys: int


class LimitsUpdate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Some limits; ``None`` for those that stay as they are. Attributes as of ``Limits``."""

    tenant_calls: Rate | None = None
    tenant_signatures: Rate | None = None
    principal_calls: Rate | None = None
    principal_signatures: Rate | None = None
    keys: int | None = None

    def on(self, limits: Limits) -> Limits:
        """The limits with these in place of those before."""
        return msgspec.structs.replace(limits, **self._set())

    def after(self, before: LimitsUpdate) -> LimitsUpdate:
        """What both together change, this one later."""
        return msgspec.structs.replace(before, **self._set())

    def _set(self) -> dict[str, Any]:
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


def raises(old: Limits, new: Limits) -> bool:
    """Whether anything is higher: a rate, a burst or the number of keys."""
    return any(after > before for (_, before), (_, after) in zip(_numbers(old), _numbers(new), strict=True))


def capped(limits: Limits, ceilings: Limits) -> Limits:
    """The limits, each number at most that of the ceilings."""
    return Limits(
        _lower(limits.tenant_calls, ceilings.tenant_calls),
        _lower(limits.tenant_signatures, ceilings.tenant_signatures),
        _lower(limits.principal_calls, ceilings.principal_calls),
        _lower(limits.principal_signatures, ceilings.principal_signatures),
        min(limits.keys, ceilings.keys),
    )


def require_within(limits: Limits, ceilings: Limits) -> None:
    """Refuse limits beyond what the gateway's operator allows.

    Raises:
        FailedPreconditionError: naming the field.
    """
    for (field, value), (_, most) in zip(_numbers(limits), _numbers(ceilings), strict=True):
        if value > most:
            raise FailedPreconditionError(
                f"limits.{field}: {decimal(value)} is above {decimal(most)}, the highest that the gateway's operator "
                "allows this tenant",
                reason="QUOTA_CEILING",
                next_step="ask for less, or have the operator raise the ceiling: [quotas.tenants] in the settings",
                metadata={"field": f"limits.{field}", "ceiling": decimal(most)},
            )


def limits_document(limits: Limits | LimitsUpdate) -> dict[str, Any]:
    """As JSON: whole numbers, and rates as decimal strings, since canonical JSON of proposals has no fractions."""
    return {
        name: {"per_second": decimal(value.per_second), "burst": value.burst} if isinstance(value, Rate) else value
        for name, value in msgspec.structs.asdict(limits).items()
        if value is not None
    }


def update_of_document(document: Mapping[str, Any]) -> LimitsUpdate:
    """What ``limits_document`` has written, exactly."""
    return msgspec.convert(document, LimitsUpdate, strict=False)


def decimal(number: float) -> str:
    """A number without an exponent, which reads as the same again."""
    return format(Decimal(repr(number)), "f").removesuffix(".0")


def _numbers(limits: Limits) -> Iterator[tuple[str, float]]:
    for name, value in msgspec.structs.asdict(limits).items():
        if isinstance(value, Rate):
            yield f"{name}.per_second", value.per_second
            yield f"{name}.burst", value.burst
        else:
            yield name, value


def _lower(one: Rate, other: Rate) -> Rate:
    return Rate(min(one.per_second, other.per_second), min(one.burst, other.burst))
