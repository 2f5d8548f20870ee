"""The gRPC services of the contract, each with the parts of the gateway that it answers from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from sealkeeper.server.access import Access
from sealkeeper.server.approval_service import ApprovalService
from sealkeeper.server.attestation_service import AttestationService
from sealkeeper.server.attesting import Attesting
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.configured_provider import ConfiguredProvider
from sealkeeper.server.gate_parts import GateParts
from sealkeeper.server.gate_service import GateService
from sealkeeper.server.grant_service import GrantService
from sealkeeper.server.idempotency import RequestLedger
from sealkeeper.server.identities import Identities
from sealkeeper.server.identity_service import IdentityService
from sealkeeper.server.key_changes import KeyChanges
from sealkeeper.server.key_import_service import KeyImportService
from sealkeeper.server.key_imports import KeyImports
from sealkeeper.server.key_service import KeyService
from sealkeeper.server.key_usage import KeyUsage
from sealkeeper.server.keys import Keys
from sealkeeper.server.log import AUDIT, Sequencer
from sealkeeper.server.log_service import LogService
from sealkeeper.server.policy_service import PolicyService
from sealkeeper.server.policy_simulation import Simulations
from sealkeeper.server.policy_trials import Drafts
from sealkeeper.server.provider_access import ProviderAccess
from sealkeeper.server.provider_service import ProviderService
from sealkeeper.server.quota_service import QuotaService
from sealkeeper.server.quotas import Quotas
from sealkeeper.server.residency import Residency
from sealkeeper.server.signing import Signing
from sealkeeper.server.signing_service import SigningService
from sealkeeper.server.telemetry import Telemetry
from sealkeeper.server.trust import Trust
from sealkeeper.server.trust_service import TrustService
from sealkeeper.v1 import (
    approval_pb2,
    approval_pb2_grpc,
    attestation_pb2,
    attestation_pb2_grpc,
    gate_pb2,
    gate_pb2_grpc,
    grant_pb2,
    grant_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    key_import_pb2,
    key_import_pb2_grpc,
    key_pb2,
    key_pb2_grpc,
    log_pb2,
    log_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    provider_pb2,
    provider_pb2_grpc,
    quota_pb2,
    quota_pb2_grpc,
    signing_pb2,
    signing_pb2_grpc,
    trust_pb2,
    trust_pb2_grpc,
)

SERVICES: tuple[str, ...] = tuple(
    service.full_name
    for module in (
        *(key_pb2, key_import_pb2, provider_pb2, signing_pb2, log_pb2, trust_pb2),
        *(identity_pb2, policy_pb2, grant_pb2, approval_pb2, quota_pb2, attestation_pb2, gate_pb2),
    )
    for service in module.DESCRIPTOR.services_by_name.values()
)
"""Full names of the contract's services."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What services answer from."""

    providers: Mapping[str, ConfiguredProvider]
    owners: ProviderAccess
    residency: Residency
    keys: Keys
    imports: KeyImports
    signing: Signing
    attesting: Attesting
    usage: KeyUsage
    trust: Trust
    logs: Sequencer
    ledger: RequestLedger
    identities: Identities
    access: Access
    gates: GateParts
    quotas: Quotas
    telemetry: Telemetry
    clock: SteadyClock


def services(parts: Parts, health: HealthServicer) -> Iterator[Callable[[grpc.aio.Server], None]]:
    """Functions that add a service each to a server."""
    names = (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    yield partial(health_pb2_grpc.add_HealthServicer_to_server, health)
    yield partial(reflection.enable_server_reflection, names)
    keys, logs, clock, access = parts.keys, parts.logs, parts.clock, parts.access
    proposals, changes = access.proposals, KeyChanges(parts.ledger, logs, clock)
    yield partial(key_pb2_grpc.add_KeyServiceServicer_to_server, KeyService(keys, changes, proposals, logs, clock))
    yield partial(
        key_import_pb2_grpc.add_KeyImportServiceServicer_to_server,
        KeyImportService(parts.imports, changes, proposals, clock),
    )
    yield partial(
        provider_pb2_grpc.add_ProviderServiceServicer_to_server,
        ProviderService(parts.providers, parts.owners, parts.residency, clock),
    )
    yield partial(
        signing_pb2_grpc.add_SigningServiceServicer_to_server,
        SigningService(parts.signing, keys, parts.ledger, parts.trust, clock),
    )
    yield partial(attestation_pb2_grpc.add_AttestationServiceServicer_to_server, AttestationService(parts.attesting))
    yield partial(log_pb2_grpc.add_LogServiceServicer_to_server, LogService(logs))
    yield partial(trust_pb2_grpc.add_TrustServiceServicer_to_server, TrustService(parts.trust))
    yield partial(
        gate_pb2_grpc.add_GateServiceServicer_to_server,
        GateService(parts.gates, changes, proposals, clock, parts.telemetry),
    )
    yield from _access_services(parts, changes)


def _access_services(parts: Parts, changes: KeyChanges) -> Iterator[Callable[[grpc.aio.Server], None]]:
    keys, logs, clock, access = parts.keys, parts.logs, parts.clock, parts.access
    yield partial(
        identity_pb2_grpc.add_IdentityServiceServicer_to_server,
        IdentityService(access.authorizer, keys),
    )
    yield partial(
        policy_pb2_grpc.add_PolicyServiceServicer_to_server,
        PolicyService(
            access.policies,
            access.policy_authorizer,
            Drafts(access.policies),
            Simulations(logs.log(AUDIT), access.policies, access.policy_authorizer, clock.at_least_latest),
            access.proposals,
            changes.audit,
        ),
    )
    yield partial(
        grant_pb2_grpc.add_GrantServiceServicer_to_server,
        GrantService(access.grants, keys, changes, access.proposals, clock),
    )
    yield partial(
        approval_pb2_grpc.add_ApprovalServiceServicer_to_server,
        ApprovalService(access.proposals, parts.identities.people, changes, parts.usage, logs),
    )
    yield partial(
        quota_pb2_grpc.add_QuotaServiceServicer_to_server,
        QuotaService(parts.quotas, access.proposals, changes.audit, keys.count),
    )
