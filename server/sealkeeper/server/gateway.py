"""The gateway: all parts put together, started in order and stopped in reverse."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from datetime import datetime

import msgspec
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

from sealkeeper.hsm import KeyProvider, ProviderError, open_provider
from sealkeeper.server.access import Access, open_access
from sealkeeper.server.attestations import Attestations
from sealkeeper.server.attesting import Attesting
from sealkeeper.server.audit import AuditRecord
from sealkeeper.server.authorities import (
    Authorities,
    LogSigner,
    read_authorities,
    require_authorities,
)
from sealkeeper.server.calls import CallInterceptor
from sealkeeper.server.certificates import CertificateAuthority, KeyCertificates
from sealkeeper.server.clock import TOLERANCE, SteadyClock, rfc3339
from sealkeeper.server.configured_provider import ConfiguredProvider
from sealkeeper.server.errors import ConfigurationError, SealkeeperError
from sealkeeper.server.gate_evidence import KeptAttestations
from sealkeeper.server.gate_parts import open_gate_parts
from sealkeeper.server.grpc_front import GrpcFront
from sealkeeper.server.http import HttpFront
from sealkeeper.server.idempotency import RequestId, RequestLedger
from sealkeeper.server.identities import Identities, open_identities
from sealkeeper.server.identity import Principal, Role
from sealkeeper.server.key import KeyVersion
from sealkeeper.server.key_import import KeyImport
from sealkeeper.server.key_imports import KeyImports
from sealkeeper.server.key_usage import KeyUsage
from sealkeeper.server.keys import Keys
from sealkeeper.server.log import AUDIT, CT, LOG_NAMES, TRANSPARENCY, LogError, Sequencer, Submission, open_logs
from sealkeeper.server.new_version import VersionMaker
from sealkeeper.server.provider_access import ProviderAccess
from sealkeeper.server.quotas import Quotas, open_quotas
from sealkeeper.server.residency import Residency
from sealkeeper.server.services import SERVICES, Parts, services
from sealkeeper.server.settings import Settings
from sealkeeper.server.signing import Signing, recorded_signing
from sealkeeper.server.slsa_provenance import BuildPlatform
from sealkeeper.server.store.attestation_table import AttestationTable
from sealkeeper.server.store.database import Database, open_database
from sealkeeper.server.store.import_table import ImportTable
from sealkeeper.server.store.key_table import KeyTable
from sealkeeper.server.store.quota_table import QuotaTable
from sealkeeper.server.store.usage_table import UsageTable
from sealkeeper.server.telemetry import Telemetry
from sealkeeper.server.timestamping import TimestampAuthority
from sealkeeper.server.trust import Trust, read_trust_roots

_log = logging.getLogger("sealkeeper")
AUTHORITIES_FILE = "authorities.json"
LOGS_FOLDER = "logs"
ATTESTATIONS_FOLDER = "attestations"
_CHECK_INTERVAL = 5.0
_CHECK_TIMEOUT = 5.0
_GATES_INTERVAL = 30.0


class Gateway:
    """A running gateway; made by ``Gateway.start``.

    Attributes:
        address: of the gRPC port.
        token_address: of the gRPC port for callers with tokens; ``None`` where there is none.
        http_address: of the logs' HTTP port; ``None`` where it is off.
        metrics_address: of the Prometheus port; ``None`` where it is off.
    """

    def __init__(self, settings: Settings, clock: SteadyClock) -> None:
        self.address = ""
        self.token_address: str | None = None
        self.http_address: str | None = None
        self.metrics_address: str | None = None
        self._settings = settings
        self._stack = AsyncExitStack()
        self._providers: dict[str, ConfiguredProvider] = {}
        self._health = HealthServicer()
        # What is done again and again, by its name.
        self._regular: dict[str, Callable[[], Awaitable[None]]] = {}
        self._clock = clock

    @classmethod
    async def start(
        cls, settings: Settings, *, time_source: Callable[[], int] = time.time_ns, accept_clock: bool = False
    ) -> Gateway:
        """Open everything and begin to serve.

        Args:
            settings: of the gateway.
            time_source: nanoseconds since the epoch, UTC.
            accept_clock: take the machine's clock for right although there are newer records, and record that.

        Raises:
            SealkeeperError: a setting is wrong, a port is taken, the database does not answer.
            ProviderError: a provider cannot be opened.
            LogError: the logs cannot be opened.
        """
        gateway = cls(settings, SteadyClock(time_source))
        try:
            await gateway._open(accept_clock=accept_clock)
        except BaseException:
            await gateway.stop()
            raise
        return gateway

    async def stop(self) -> None:
        """Refuse new calls, finish those under way, make everything durable, let go."""
        await self._stack.aclose()

    async def _open(self, *, accept_clock: bool) -> None:
        settings = self._settings
        telemetry = Telemetry(settings.telemetry, settings.gateway.domain)
        self._stack.push_async_callback(asyncio.to_thread, telemetry.close)
        authorities = await asyncio.to_thread(read_authorities, settings.storage.directory / AUTHORITIES_FILE)
        await self._open_providers(telemetry, authorities.provider)
        provider = self._providers.get(authorities.provider)
        if provider is None:
            raise ConfigurationError(
                f"the gateway's own keys are in [providers.{authorities.provider}], which is missing"
            )
        await require_authorities(authorities, provider, settings.gateway.domain)
        logs = await self._open_logs(authorities, provider, telemetry)
        await self._set_clock(logs, accept_clock=accept_clock)
        database = await open_database(settings.database_url)
        self._stack.push_async_callback(database.close)
        residency = Residency(settings.residency, telemetry.residency_refusal)
        quotas = await open_quotas(settings.quotas, settings.tenants, QuotaTable(database))
        self._stack.push_async_callback(quotas.close)
        owners = ProviderAccess(settings.providers)
        keys, imports = await self._open_keys(database, residency, owners, quotas)
        ledger = RequestLedger(database, self._clock, lambda: logs.tree_sizes[AUDIT])
        usage = KeyUsage(UsageTable(database), self._clock, lambda: logs.tree_sizes[AUDIT])
        await _recover(ledger, usage, logs)
        self._stack.push_async_callback(usage.close)
        ledger.start()
        self._stack.push_async_callback(ledger.close)
        trust = Trust(
            settings.gateway.domain,
            authorities.trusted_root(),
            authorities.signing_config(),
            keys,
            self._clock,
            await asyncio.to_thread(read_trust_roots, settings.gates.trust_roots),
        )
        signing = self._signing(authorities, provider, keys, residency, logs, telemetry, usage)
        identities = await open_identities(settings, self._clock.machine())
        self._stack.push_async_callback(identities.close)
        if identities.tokens is not None:
            telemetry.watch_issuers(identities.tokens.ages)
        attestations = Attestations(AttestationTable(database), settings.storage.directory / ATTESTATIONS_FOLDER)
        attesting = await self._open_attesting(attestations, signing, ledger, keys, logs, telemetry)
        gates = await open_gate_parts(
            settings, database, keys, KeptAttestations(attestations), signing, trust, self._clock, telemetry
        )
        self._stack.push_async_callback(gates.close)
        access = await open_access(
            settings,
            database,
            keys,
            quotas,
            identities,
            gates.gates,
            gates.exceptions,
            logs,
            self._clock,
            telemetry,
        )
        self._stack.push_async_callback(access.close)
        interceptor = CallInterceptor(
            identities,
            access.authorizer,
            frozenset(settings.tenants),
            logs,
            self._clock,
            telemetry,
            quotas,
            identities.require_allowed,
        )
        front = GrpcFront(interceptor, settings.gateway.max_concurrent_calls)
        parts = Parts(
            self._providers,
            owners,
            residency,
            keys,
            imports,
            signing,
            attesting,
            usage,
            trust,
            logs,
            ledger,
            identities,
            access,
            gates,
            quotas,
            telemetry,
            self._clock,
        )
        for register in services(parts, self._health):
            front.add(register)
        await self._serve(front, authorities, identities, access)
        await self._check_health(logs, owners, authorities.provider)
        self._repeat("health", lambda: self._check_health(logs, owners, authorities.provider))
        self._repeat("janitor", lambda: self._destroy_due(keys, logs))
        self._repeat("imports", lambda: self._tidy_imports(imports, logs))
        self._repeat("access", access.tidy)
        self._repeat("identities", identities.refresh, settings.identity.reload_interval.total_seconds())
        self._repeat("usage", usage.flush)
        self._repeat("refusals", interceptor.sum_up)
        self._repeat("gates", gates.tidy, _GATES_INTERVAL)

    async def _open_providers(self, telemetry: Telemetry, needed: str) -> None:
        """Open all providers. One that is out of reach is waited for, unless the gateway's own keys are in it."""
        for name, one in self._settings.providers.items():
            provider = await open_provider(
                one.uri,
                workers=one.workers,
                state_dir=self._settings.storage.directory,
                environment=one.environment,
                patient=name != needed,
            )
            self._stack.push_async_callback(provider.close)
            configured = ConfiguredProvider(
                provider, name, telemetry, region=one.region, timeout=one.timeout, workers=one.workers
            )
            configured.require_region()
            self._providers[name] = configured
        telemetry.watch_providers(self._providers)

    async def _open_keys(
        self, database: Database, residency: Residency, owners: ProviderAccess, quotas: Quotas
    ) -> tuple[Keys, KeyImports]:
        table, imports, settings = KeyTable(database), ImportTable(database), self._settings
        maker = VersionMaker(self._providers, table, owners, residency, settings.gateway.domain, self._clock.now)
        stored = await table.read()
        owners.require_held(stored)
        keys = Keys(table, self._providers, maker, settings.keys, self._clock, stored, quotas.require_key)
        _require_providers(keys, self._providers)
        self._stack.push_async_callback(keys.close)
        found = KeyImports(imports, keys, maker, self._providers, self._clock, await imports.read())
        self._stack.push_async_callback(found.close)
        return keys, found

    async def _open_attesting(
        self,
        kept: Attestations,
        signing: Signing,
        ledger: RequestLedger,
        keys: Keys,
        logs: Sequencer,
        telemetry: Telemetry,
    ) -> Attesting:
        platforms = {one.issuer: BuildPlatform.of(one) for one in self._settings.issuers.values()}
        attesting = Attesting(signing, kept, ledger, keys, platforms, telemetry)
        self._stack.push_async_callback(attesting.close)
        await kept.open(logs.log(AUDIT))
        return attesting

    async def _open_logs(self, authorities: Authorities, provider: KeyProvider, telemetry: Telemetry) -> Sequencer:
        signers = {
            name: LogSigner(provider, authorities.keys[name], authorities.log_verifier(name)) for name in LOG_NAMES
        }
        logs = await open_logs(
            self._settings.storage.directory / LOGS_FOLDER,
            signers,
            on_cycle=lambda stats: telemetry.cycle(stats.submissions, stats.seconds),
        )
        self._stack.push_async_callback(logs.close)
        telemetry.watch_logs(logs)
        return logs

    async def _set_clock(self, logs: Sequencer, *, accept_clock: bool) -> None:
        newest, machine = await _newest_record_time(logs), self._clock.machine()
        if newest is None:
            return
        if newest <= machine + TOLERANCE:
            self._clock.not_before(newest)
        elif accept_clock:
            details = {"newestRecord": rfc3339(newest)}
            record = AuditRecord(machine, "Gateway/AcceptClock", details=details)
            await logs.submit(Submission(audit=[record.encode()]))
            _log.warning(
                "the machine's clock was accepted although it is behind the newest record", extra={"fields": details}
            )
        else:
            self._clock.not_before(newest)
            _log.error(
                "the machine's clock is behind the newest record: nothing is signed until it has caught up, or is "
                "accepted with --accept-clock",
                extra={"fields": {"newestRecord": rfc3339(newest), "machine": rfc3339(machine)}},
            )

    def _signing(
        self,
        authorities: Authorities,
        provider: KeyProvider,
        keys: Keys,
        residency: Residency,
        logs: Sequencer,
        telemetry: Telemetry,
        usage: KeyUsage,
    ) -> Signing:
        async def record(precertificate: bytes) -> None:
            await logs.submit(Submission(ct=[precertificate]))

        certificates = CertificateAuthority(
            provider,
            authorities.keys["certificate-authority"],
            authorities.certificate_chain,
            authorities.keys[CT],
            authorities.domain,
            self._settings.certificates.lifetime,
            self._clock.now,
        )
        stamper = TimestampAuthority(
            provider, authorities.keys["timestamp-authority"], authorities.timestamp_chain, self._clock.now
        )
        return Signing(
            keys,
            self._providers,
            stamper,
            KeyCertificates(certificates, record),
            residency,
            logs,
            authorities.log_verifier(TRANSPARENCY).log_id,
            self._clock,
            telemetry,
            usage,
        )

    async def _serve(self, front: GrpcFront, authorities: Authorities, identities: Identities, access: Access) -> None:
        settings = self._settings
        logs = HttpFront(
            {name: settings.storage.directory / LOGS_FOLDER / name for name in (TRANSPARENCY, CT)},
            {authorities.origin(name): name for name in (TRANSPARENCY, CT)},
        )
        self._stack.push_async_callback(logs.close)
        if settings.http.listen is not None:
            self.http_address = await logs.serve_logs(settings.http.listen)
        if settings.telemetry.metrics_listen is not None:
            self.metrics_address = await logs.serve_metrics(settings.telemetry.metrics_listen)
        gateway = settings.gateway
        self.address = await front.listen(gateway.listen, identities.credentials, "gateway.listen")
        if gateway.token_listen is not None:
            self.token_address = await front.listen(
                gateway.token_listen, identities.token_credentials, "gateway.token_listen"
            )
        await front.serve()
        self._stack.push_async_callback(self._drain, front, access)

    async def _drain(self, front: GrpcFront, access: Access) -> None:
        await self._health.enter_graceful_shutdown()
        access.proposals.end_watching()
        await front.stop(self._settings.gateway.drain_period.total_seconds())

    async def _answers(self, name: str, provider: ConfiguredProvider) -> bool:
        try:
            await asyncio.wait_for(provider.check(), _CHECK_TIMEOUT)
        except (ProviderError, TimeoutError) as error:
            _log.error("provider %s: %s", name, str(error) or "does not answer")
            return False
        return True

    async def _check_health(self, logs: Sequencer, owners: ProviderAccess, needed: str) -> None:
        """NOT_SERVING where the logs, or the provider of the gateway's own keys, do not answer: nothing is signed then.

        Each provider has a name of its own in the health service, ``providers/{provider}``: one that is down does not
        take the gateway away from those who sign with others.
        """
        names = list(self._providers)
        answers = await asyncio.gather(*(self._answers(name, self._providers[name]) for name in names))
        outcomes = dict(zip(names, answers, strict=True))
        for name, answered in outcomes.items():
            # The health service answers everybody. Tenants see providers of their own through ProviderService.
            if owners.everybodys(name):
                await self._health.set(f"providers/{name}", _status(answered and self._providers[name].available))
        for service in ("", *SERVICES):
            await self._health.set(service, _status(outcomes[needed] and not logs.broken))

    async def _destroy_due(self, keys: Keys, logs: Sequencer) -> None:
        async def audit(version: KeyVersion) -> None:
            record = AuditRecord(
                self._clock.at_least_latest(),
                "Gateway/DestroyKeyVersion",
                version.name.tenant,
                resource=str(version.name),
                details={"scheduledFor": version.destroy_time},
            )
            await logs.submit(Submission(audit=[record.encode()]))

        for name in await keys.destroy_due(audit):
            _log.warning("destroyed %s", name)

    async def _tidy_imports(self, imports: KeyImports, logs: Sequencer) -> None:
        async def audit(one: KeyImport) -> None:
            record = AuditRecord(
                self._clock.at_least_latest(),
                "Gateway/ExpireKeyImport",
                one.name.tenant,
                resource=str(one.name),
                details={"expireTime": one.expire_time},
            )
            await logs.submit(Submission(audit=[record.encode()]))

        await imports.tidy(audit)

    def _repeat(self, name: str, work: Callable[[], Awaitable[None]], interval: float = _CHECK_INTERVAL) -> None:
        self._regular[name] = work

        async def repeat() -> None:
            while True:
                await asyncio.sleep(interval)
                try:
                    await work()
                except (SealkeeperError, ProviderError, LogError) as error:
                    _log.error("%s: %s", name, error)
                except Exception:  # noqa: BLE001  (what nobody foresaw must not end it for good)
                    _log.exception("%s failed", name)

        task = asyncio.create_task(repeat(), name=name)

        async def end() -> None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        self._stack.push_async_callback(end)


def _status(healthy: bool) -> health_pb2.HealthCheckResponse.ServingStatus.ValueType:
    return health_pb2.HealthCheckResponse.SERVING if healthy else health_pb2.HealthCheckResponse.NOT_SERVING


def _require_providers(keys: Keys, providers: Mapping[str, ConfiguredProvider]) -> None:
    missing = sorted(keys.providers - providers.keys())
    if missing:
        raise ConfigurationError(
            f"there are keys of the providers {', '.join(missing)}, which are not in the settings",
            next_step=f"add [providers.{missing[0]}] again, or destroy its keys first",
        )


async def _newest_record_time(logs: Sequencer) -> datetime | None:
    reader = logs.log(AUDIT)
    if reader.tree_size == 0:
        return None
    async for _, bodies in reader.entries(reader.tree_size - 1):
        return datetime.fromisoformat(msgspec.json.decode(bodies[-1])["time"])
    return None


async def _recover(ledger: RequestLedger, usage: KeyUsage, logs: Sequencer) -> None:
    """Let the ledger and the use of keys know what was signed and not in the database when the gateway ended."""
    audit, size = logs.log(AUDIT), logs.tree_sizes[AUDIT]
    answered, counted = min(await ledger.open(), size), min(await usage.open(), size)
    start = min(answered, counted)
    async for first, bodies in audit.entries(start):
        for index, body in enumerate(bodies, first):
            if index >= counted:
                usage.replay(body)
            if index >= answered:
                _recover_request(ledger, body)
    await usage.complete(logs.log(TRANSPARENCY))


def _recover_request(ledger: RequestLedger, record: bytes) -> None:
    one = recorded_signing(record)
    if one is not None:
        caller = Principal(one.tenant, one.subject, Role.CI)
        request = RequestId.of(caller, one.method, one.request_id, b"")
        ledger.recover(RequestId(request.id, one.fingerprint), one.time, one.answer)
