"""QuotaService: checks and translates requests, and leaves the rest to ``quotas.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sealkeeper.server.authorization import Action, crosses_tenants
from sealkeeper.server.calls import current_call
from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.server.identity import Principal
from sealkeeper.server.limits import (
    MAX_BURST,
    MAX_KEYS,
    MAX_PER_SECOND,
    MIN_CALLS_PER_SECOND,
    Limits,
    LimitsUpdate,
    Rate,
    limits_document,
    raises,
    require_within,
    update_of_document,
)
from sealkeeper.server.new_version import Audit
from sealkeeper.server.proposer import Proposer
from sealkeeper.server.quotas import Quotas
from sealkeeper.server.resources import TenantName, parse_tenant_name
from sealkeeper.v1 import quota_pb2, quota_pb2_grpc

_MAX_REASON = 1024
_CALLS = ("tenant_calls", "principal_calls")
_RATES = (*_CALLS, "tenant_signatures", "principal_signatures")


class QuotaService(quota_pb2_grpc.QuotaServiceServicer):
    """Answers for the contract's QuotaService.

    Args:
        quotas: of the tenants.
        proposer: has raising approved.
        audit: for the call under way.
        count_keys: how many keys a tenant has.
    """

    def __init__(
        self, quotas: Quotas, proposer: Proposer, audit: Callable[[], Audit], count_keys: Callable[[str], int]
    ) -> None:
        self._quotas = quotas
        self._proposer = proposer
        self._audit = audit
        self._count_keys = count_keys

    async def GetQuota(  # noqa: N802
        self, request: quota_pb2.GetQuotaRequest, context: Any
    ) -> quota_pb2.GetQuotaResponse:
        """Tell a tenant's limits and what is used of them."""
        parent = parse_tenant_name(request.parent, "parent")
        current_call().authorize(Action.GET_QUOTA, parent)
        return quota_pb2.GetQuotaResponse(quota=self._message(parent))

    async def UpdateQuota(  # noqa: N802
        self, request: quota_pb2.UpdateQuotaRequest, context: Any
    ) -> quota_pb2.UpdateQuotaResponse:
        """Set limits: lower ones at once, higher ones when others have approved."""
        parent = parse_tenant_name(request.parent, "parent")
        call, update = current_call(), _update(request.limits)
        if len(request.reason) > _MAX_REASON:
            raise InvalidRequestError.of(
                "reason", f"has {len(request.reason)} characters; at most {_MAX_REASON} are allowed"
            )
        action = self._action(call.caller, parent, update)
        call.authorize(action, parent, proposable=action is Action.RAISE_QUOTA)
        if request.reason:
            call.details["reason"] = request.reason
        before = self._quotas.limits(parent.tenant)
        require_within(update.on(before), self._quotas.ceilings(parent.tenant))
        if action is Action.RAISE_QUOTA:
            await self._proposer.require(call, action, parent, parameters_of(update, before), request.reason)
        # What was lowered meanwhile must not be raised by what would have lowered it before.
        await self._quotas.change(parent.tenant, update, self._audit(), seen=before)
        return quota_pb2.UpdateQuotaResponse(quota=self._message(parent))

    def _action(self, principal: Principal, parent: TenantName, update: LimitsUpdate) -> Action:
        """What is asked for. Another tenant's limits are not looked at, so that the refusal does not tell of them."""
        if crosses_tenants(principal, parent):
            return Action.UPDATE_QUOTA
        before = self._quotas.limits(parent.tenant)
        return Action.RAISE_QUOTA if raises(before, update.on(before)) else Action.UPDATE_QUOTA

    def _message(self, parent: TenantName) -> quota_pb2.Quota:
        usage = self._quotas.usage(parent.tenant)
        return quota_pb2.Quota(
            name=f"{parent}/quota",
            limits=_limits(self._quotas.limits(parent.tenant)),
            ceilings=_limits(self._quotas.ceilings(parent.tenant)),
            keys_used=self._count_keys(parent.tenant),
            calls_available=usage.calls_available,
            signatures_available=usage.signatures_available,
            refused=usage.refused,
        )


def parameters_of(update: LimitsUpdate, before: Limits) -> dict[str, Any]:
    """What is proposed, and what held when it was, for those who approve."""
    limits, held = limits_document(update), limits_document(before)
    return {"limits": limits, "before": {name: held[name] for name in limits}}


def limits_of(parameters: Mapping[str, Any]) -> LimitsUpdate:
    """What ``parameters_of`` has written: for ``Quotas.change``, once it is approved."""
    return update_of_document(parameters["limits"])


def _update(message: quota_pb2.Limits) -> LimitsUpdate:
    rates = {name: _rate(getattr(message, name), name) for name in _RATES if message.HasField(name)}  # type: ignore[arg-type]  # names of the message's own fields
    keys = message.keys if message.HasField("keys") else None
    if keys is not None and not 0 <= keys <= MAX_KEYS:
        raise InvalidRequestError.of("limits.keys", f"must be from 0 to {MAX_KEYS}")
    if not rates and keys is None:
        raise InvalidRequestError.of("limits", "must set at least one limit")
    return LimitsUpdate(**rates, keys=keys)


def _rate(message: quota_pb2.Rate, name: str) -> Rate:
    least = MIN_CALLS_PER_SECOND if name in _CALLS else 0
    # Written so that what is not a number is refused.
    if not (0 < message.per_second <= MAX_PER_SECOND and message.per_second >= least):
        text = f"must be at least {least}" if least else "must be above 0"
        raise InvalidRequestError.of(f"limits.{name}.per_second", f"{text}, and at most {MAX_PER_SECOND}")
    if not 1 <= message.burst <= MAX_BURST:
        raise InvalidRequestError.of(f"limits.{name}.burst", f"must be from 1 to {MAX_BURST}")
    return Rate(message.per_second, message.burst)


def _limits(limits: Limits) -> quota_pb2.Limits:
    rates = {name: _rate_message(getattr(limits, name)) for name in _RATES}
    return quota_pb2.Limits(**rates, keys=limits.keys)


def _rate_message(rate: Rate) -> quota_pb2.Rate:
    return quota_pb2.Rate(per_second=rate.per_second, burst=rate.burst)
