"""Calls of QuotaService as values; see ``operations.py``.

>>> client.call(update_quota("tenants/acme", tenant_calls=RateLimit(100, 200)))  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass

from sealkeeper.client.errors import CorruptAnswerError
from sealkeeper.client.operations import Operation
from sealkeeper.v1 import quota_pb2

RATES = ("tenant_calls", "tenant_signatures", "principal_calls", "principal_signatures")
"""Names of the limits that are rates."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A rate.

    Attributes:
        per_second: how many a second, on average.
        burst: how many at once after a pause.
    """

    per_second: float
    burst: int


def get_quota(parent: str) -> Operation[quota_pb2.Quota]:
    """A tenant's limits and what is used of them."""
    request = quota_pb2.GetQuotaRequest(parent=parent)
    return Operation("QuotaService", "GetQuota", request, lambda response: _checked(response.quota, parent))


def update_quota(
    parent: str,
    *,
    tenant_calls: RateLimit | None = None,
    tenant_signatures: RateLimit | None = None,
    principal_calls: RateLimit | None = None,
    principal_signatures: RateLimit | None = None,
    keys: int | None = None,
    reason: str = "",
) -> Operation[quota_pb2.Quota]:
    """Other limits; those that are ``None`` stay. Where one is raised, others may have to approve first.

    Args:
        parent: ``tenants/{tenant}``.
        tenant_calls: of all callers together.
        tenant_signatures: for all callers together.
        principal_calls: of each caller.
        principal_signatures: for each caller.
        keys: that there may be.
        reason: for those who approve.
    """
    limits = quota_pb2.Limits(
        tenant_calls=_rate(tenant_calls),
        tenant_signatures=_rate(tenant_signatures),
        principal_calls=_rate(principal_calls),
        principal_signatures=_rate(principal_signatures),
        keys=keys,
    )
    request = quota_pb2.UpdateQuotaRequest(parent=parent, limits=limits, reason=reason)

    def check(response: quota_pb2.UpdateQuotaResponse) -> quota_pb2.Quota:
        found = _checked(response.quota, parent)
        merged = quota_pb2.Limits()
        merged.CopyFrom(found.limits)
        merged.MergeFrom(limits)
        if merged != found.limits:
            raise CorruptAnswerError("the limits that hold are not those that were asked for")
        return found

    return Operation("QuotaService", "UpdateQuota", request, check)


def _rate(limit: RateLimit | None) -> quota_pb2.Rate | None:
    return None if limit is None else quota_pb2.Rate(per_second=limit.per_second, burst=limit.burst)


def _checked(quota: quota_pb2.Quota, parent: str) -> quota_pb2.Quota:
    if quota.name != f"{parent}/quota":
        raise CorruptAnswerError(f"the quota of {parent} was asked for, another one came")
    for limits in (quota.limits, quota.ceilings):
        if not all(limits.HasField(name) for name in (*RATES, "keys")):  # type: ignore[arg-type]  # names of the message's own fields
            raise CorruptAnswerError("what came is no whole quota")
    return quota
