"""ProviderService: tells of the configured key stores."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration

from sealkeeper.hsm import ProviderUnavailableError
from sealkeeper.server.authorization import Action
from sealkeeper.server.calls import current_call
from sealkeeper.server.circuit_breaker import Circuit
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.configured_provider import ConfiguredProvider
from sealkeeper.server.errors import NotFoundError
from sealkeeper.server.provider_access import ProviderAccess
from sealkeeper.server.residency import Residency
from sealkeeper.server.resources import ProviderName, parse_provider_name, parse_tenant_name
from sealkeeper.server.translation import algorithm_value, protection_level_value, timestamp, wrap_method_value
from sealkeeper.v1 import provider_pb2, provider_pb2_grpc

_CIRCUITS = {
    Circuit.CLOSED: provider_pb2.CIRCUIT_STATE_CLOSED,
    Circuit.OPEN: provider_pb2.CIRCUIT_STATE_OPEN,
    Circuit.HALF_OPEN: provider_pb2.CIRCUIT_STATE_HALF_OPEN,
}


class ProviderService(provider_pb2_grpc.ProviderServiceServicer):
    """Answers for the contract's ProviderService.

    Args:
        providers: by name.
        access: says whose a provider is: another tenant's is not shown.
        residency: of the tenants: what is elsewhere is not shown.
        clock: the time.
    """

    def __init__(
        self,
        providers: Mapping[str, ConfiguredProvider],
        access: ProviderAccess,
        residency: Residency,
        clock: SteadyClock,
    ) -> None:
        self._providers = providers
        self._access = access
        self._residency = residency
        self._clock = clock

    async def ListProviders(  # noqa: N802
        self, request: provider_pb2.ListProvidersRequest, context: Any
    ) -> provider_pb2.ListProvidersResponse:
        """List the providers that a tenant may use."""
        parent = parse_tenant_name(request.parent, "parent")
        current_call().authorize(Action.LIST_KEYS, parent)
        names = sorted(one for one in self._providers if self._visible(parent.tenant, one))
        found = [self._message(ProviderName(parent.tenant, one)) for one in names]
        return provider_pb2.ListProvidersResponse(providers=found)

    async def GetProvider(  # noqa: N802
        self, request: provider_pb2.GetProviderRequest, context: Any
    ) -> provider_pb2.GetProviderResponse:
        """Look a provider up."""
        name = parse_provider_name(request.name, "name")
        current_call().authorize(Action.GET_KEY, name)
        if name.provider not in self._providers or not self._visible(name.tenant, name.provider):
            raise NotFoundError(
                f"there is no provider {name.provider!r}", reason="PROVIDER_UNKNOWN", next_step="list the providers"
            )
        return provider_pb2.GetProviderResponse(provider=self._message(name))

    def _visible(self, tenant: str, name: str) -> bool:
        return self._access.allows(tenant, name) and self._residency.allows(tenant, self._providers[name].region)

    def _message(self, name: ProviderName) -> provider_pb2.Provider:
        one = self._providers[name.provider]
        message = provider_pb2.Provider(name=str(name), region=one.region, health=self._health(one))
        try:
            info = one.info
        except ProviderUnavailableError:
            return message
        message.scheme, message.description = info.scheme, info.description
        message.protection_level = protection_level_value(info.protection_level)
        message.algorithms.extend(algorithm_value(algorithm) for algorithm in sorted(info.algorithms))
        message.wrap_methods.extend(wrap_method_value(method) for method in sorted(info.wrap_methods))
        return message

    def _health(self, one: ConfiguredProvider) -> provider_pb2.ProviderHealth:
        health = one.health
        retry = None if health.retry_after is None else self._clock.at_least_latest() + health.retry_after
        return provider_pb2.ProviderHealth(
            circuit=_CIRCUITS[health.circuit],
            latency=_duration(health.latency),
            error_rate=health.error_rate,
            last_success_time=timestamp(health.last_success),
            last_error=health.last_error,
            retry_time=timestamp(retry),
        )


def _duration(period: timedelta | None) -> Duration | None:
    if period is None:
        return None
    message = Duration()
    message.FromTimedelta(period)
    return message
