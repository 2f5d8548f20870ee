"""Traces, metrics and log lines (OpenTelemetry).

Labels are bounded: methods, roles, providers, reasons and tenants of the configuration. No label, span attribute or log
line carries a digest, a request id, key material, or text of a caller that could be anything.
"""

from __future__ import annotations

import json
import logging
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from opentelemetry import metrics, propagate, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased

from sealkeeper.server.histograms import Histogram, with_histograms

if TYPE_CHECKING:
    from sealkeeper.server.settings import TelemetrySettings

log = logging.getLogger("sealkeeper")

# Of a call whose spans are not exported: empty until a log line needs it.
_trace_id: ContextVar[list[str] | None] = ContextVar("sealkeeper_trace_id", default=None)
_NO_SPAN = nullcontext(trace.INVALID_SPAN)
_NOTHING = nullcontext()
_LATENCY = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_Labels = TypeVar("_Labels", bound=tuple[str, ...])
_DECISIONS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_MAX_REASONS = 200
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the trace's id where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Render."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line["trace_id"] = f"{context.trace_id:032x}"
            line["span_id"] = f"{context.span_id:016x}"
        elif (quiet := _trace_id.get()) is not None:
            if not quiet:
                quiet.append(secrets.token_hex(16))
            line["trace_id"] = quiet[0]
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up_logging(level: str) -> None:
    """Send the gateway's log lines to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    log.setLevel(level)


class ObservedLogs(Protocol):
    """What is measured of the logs and their sequencer."""

    @property
    def tree_sizes(self) -> Mapping[str, int]:
        """Number of entries by log."""
        ...

    @property
    def pending_entries(self) -> int:
        """Entries that wait for the sequencer."""
        ...

    def seconds_since_checkpoint(self) -> float:
        """Age of the newest checkpoint."""
        ...


class ObservedHealth(Protocol):
    """What is measured of a provider's health; see ``configured_provider.py``."""

    @property
    def circuit(self) -> str:
        """CLOSED while it is used."""
        ...

    @property
    def error_rate(self) -> float:
        """Share of its newest operations that failed for want of an answer."""
        ...

    @property
    def last_success(self) -> datetime | None:
        """When it last did what it was asked."""
        ...


class ObservedGrants(Protocol):
    """What is measured of grants."""

    def active_emergencies(self) -> Mapping[str, int]:
        """How many break-glasses are in force, by tenant. From any thread."""
        ...


class ObservedProvider(Protocol):
    """A provider whose health is measured."""

    @property
    def health(self) -> ObservedHealth:
        """How it is."""
        ...

    @property
    def region(self) -> str:
        """Where it is."""
        ...


@dataclass(frozen=True, slots=True)
class _Purpose:
    """What an operation of a provider is for; see ``Telemetry.signing_for``."""

    tenant: str
    key_version: str
    calls: Sequence[trace.Span]


_purpose: ContextVar[_Purpose | None] = ContextVar("sealkeeper_purpose", default=None)


@contextmanager
def _signing_for(purpose: _Purpose) -> Iterator[None]:
    token = _purpose.set(purpose)
    try:
        yield
    finally:
        _purpose.reset(token)


def set_outcome(span: trace.Span, outcome: str) -> None:
    """Note how something ended: OK, or a refusal's reason."""
    span.set_attribute("outcome", outcome)
    if outcome != "OK":
        span.set_status(trace.StatusCode.ERROR, outcome)


class Telemetry:
    """The gateway's instruments.

    Args:
        settings: where to send what.
        domain: the gateway's name.
        readers: further metric readers, for tests.
    """

    def __init__(self, settings: TelemetrySettings, domain: str, readers: list[MetricReader] | None = None) -> None:
        resource = Resource.create({"service.name": "sealkeeper", "service.instance.id": domain})
        self._exports = settings.otlp_endpoint is not None
        self._tracing = _tracer_provider(settings, resource)
        self._calls = Histogram(
            "sealkeeper.call.duration",
            "s",
            "Time from a call's arrival to its answer",
            _LATENCY,
            ("method", "tenant", "role", "outcome"),
        )
        self._provider = Histogram(
            "sealkeeper.provider.duration",
            "s",
            "Time of a provider's operation",
            _LATENCY,
            ("provider", "operation", "outcome"),
        )
        self._cycle = Histogram("sealkeeper.sequencer.cycle.duration", "s", "Time of a sequencer's cycle", _LATENCY, ())
        self._batch = Histogram(
            "sealkeeper.sequencer.batch.size", "{submission}", "Submissions in a cycle", _COUNTS, ()
        )
        self._gate = Histogram(
            "sealkeeper.gate.decision.duration",
            "s",
            "Time from a question to a gate to its answer",
            _DECISIONS,
            ("tenant", "cached"),
        )
        self._metering = MeterProvider(
            [*_metric_readers(settings, self._histograms), *(readers or [])], resource=resource
        )
        self.tracer: trace.Tracer = self._tracing.get_tracer("sealkeeper")
        meter: metrics.Meter = self._metering.get_meter("sealkeeper")
        self._meter = meter
        self._refused: Counter[tuple[str, str, str]] = Counter()
        self._signed: Counter[tuple[str, str]] = Counter()
        self._attested: Counter[tuple[str, str]] = Counter()
        self._failovers: Counter[tuple[str, str, str]] = Counter()
        self._residency: Counter[tuple[str, str, str]] = Counter()
        self._break_glass_uses: Counter[tuple[str, str]] = Counter()
        self._authentication_failures: Counter[tuple[str]] = Counter()
        self._proposals: Counter[tuple[str, str, str]] = Counter()
        self._quota_refusals: Counter[tuple[str, str]] = Counter()
        self._gate_decisions: Counter[tuple[str, str, str, str, str]] = Counter()
        self._gate_reasons: Counter[tuple[str, str, str, str]] = Counter()
        self._known_reasons: set[str] = set()
        self._watch_counts()
        self._watch_access()

    def call(self, method: str, tenant: str, role: str, outcome: str, seconds: float) -> None:
        """Count a call. ``outcome`` is OK or the refusal's reason."""
        self._calls.record(seconds, method, tenant, role, outcome)
        if outcome != "OK":
            self._refused[method, tenant, outcome] += 1

    def signatures(self, tenant: str, algorithm: str, count: int) -> None:
        """Count released signatures."""
        self._signed[tenant, algorithm] += count

    def attestation(self, tenant: str, kind: str) -> None:
        """Count an attestation; its kind is the short name of a predicate type that the gateway knows, or ``other``."""
        self._attested[tenant, kind] += 1

    def failover(self, tenant: str, provider: str, standby: str, count: int) -> None:
        """Count signatures that a standby version in one provider made in the place of one in another."""
        self._failovers[tenant, provider, standby] += count

    def residency_refusal(self, tenant: str, region: str, operation: str) -> None:
        """Count what was refused since it would have been done in a region that the tenant does not allow."""
        self._residency[tenant, region, operation] += 1

    def break_glass_use(self, tenant: str, action: str) -> None:
        """Count what was permitted by a break-glass alone."""
        self._break_glass_uses[tenant, action] += 1

    def authentication_failure(self, reason: str) -> None:
        """Count a caller who did not prove who it is; the reason is the refusal's."""
        self._authentication_failures[reason,] += 1

    def proposal(self, tenant: str, action: str, state: str) -> None:
        """Count a proposal that has come into a state."""
        self._proposals[tenant, action, state] += 1

    def quota_refusal(self, tenant: str, quota: str) -> None:
        """Count a call that was refused since a quota is used up."""
        self._quota_refusals[tenant, quota] += 1

    def gate_decision(self, place: tuple[str, str, str], *, outcome: str, passed: bool, reasons: Iterable[str]) -> None:
        """Count a decision of a gate that is recorded.

        Args:
            place: tenant, gate and environment; of a bounded number.
            outcome: ALLOW or DENY.
            passed: the policy is fulfilled.
            reasons: codes of why not; each counts once.
        """
        self._gate_decisions[(*place, outcome, str(passed).lower())] += 1
        for code in set(reasons):
            # Gates that decide by themselves tell theirs, and could tell anything.
            if code not in self._known_reasons and len(self._known_reasons) >= _MAX_REASONS:
                self._gate_reasons[(*place, "OTHER")] += 1
                continue
            self._known_reasons.add(code)
            self._gate_reasons[(*place, code)] += 1

    def gate_decision_time(self, tenant: str, seconds: float, *, cached: bool) -> None:
        """Measure a decision of a gate."""
        self._gate.record(seconds, tenant, str(cached).lower())

    def provider_operation(self, provider: str, operation: str, outcome: str, seconds: float) -> None:
        """Measure one operation of a provider."""
        self._provider.record(seconds, provider, operation, outcome)

    def cycle(self, submissions: int, seconds: float) -> None:
        """Measure one cycle of the sequencer."""
        self._cycle.record(seconds)
        self._batch.record(submissions)

    def _histograms(self) -> list[Histogram]:
        return [self._calls, self._provider, self._cycle, self._batch, self._gate]

    def _watch_counts(self) -> None:
        def refusals(_: CallbackOptions) -> Iterator[Observation]:
            for (method, tenant, reason), count in list(self._refused.items()):
                yield Observation(count, {"method": method, "tenant": tenant, "reason": reason})

        def signatures(_: CallbackOptions) -> Iterator[Observation]:
            for (tenant, algorithm), count in list(self._signed.items()):
                yield Observation(count, {"tenant": tenant, "algorithm": algorithm})

        def failovers(_: CallbackOptions) -> Iterator[Observation]:
            for (tenant, provider, standby), count in list(self._failovers.items()):
                yield Observation(count, {"tenant": tenant, "provider": provider, "standby": standby})

        def residency(_: CallbackOptions) -> Iterator[Observation]:
            for (tenant, region, operation), count in list(self._residency.items()):
                yield Observation(count, {"tenant": tenant, "region": region, "operation": operation})

        create = self._meter.create_observable_counter
        create("sealkeeper.refusals", [refusals], description="Calls refused, by reason")
        create("sealkeeper.signatures", [signatures], description="Signatures released")
        create("sealkeeper.failovers", [failovers], description="Signatures made by standby versions")
        create("sealkeeper.residency.refusals", [residency], description="Refused for the region, by operation")

    def _watch_access(self) -> None:
        def observe(name: str, counts: Counter[_Labels], labels: tuple[str, ...], description: str) -> None:
            def observations(_: CallbackOptions) -> Iterator[Observation]:
                for values, count in list(counts.items()):
                    yield Observation(count, dict(zip(labels, values, strict=True)))

            self._meter.create_observable_counter(name, [observations], description=description)

        observe(
            "sealkeeper.break.glass.uses",
            self._break_glass_uses,
            ("tenant", "action"),
            "What was permitted by a break-glass alone",
        )
        observe(
            "sealkeeper.authentication.failures",
            self._authentication_failures,
            ("reason",),
            "Callers who did not prove who they are, by reason",
        )
        observe(
            "sealkeeper.attestations", self._attested, ("tenant", "kind"), "Attestations made, by kind of predicate"
        )
        observe(
            "sealkeeper.proposals",
            self._proposals,
            ("tenant", "action", "state"),
            "Proposals that have come into a state",
        )
        observe("sealkeeper.quota.refusals", self._quota_refusals, ("tenant", "quota"), "Calls refused for a quota")
        place = ("tenant", "gate", "environment")
        observe(
            "sealkeeper.gate.decisions",
            self._gate_decisions,
            (*place, "outcome", "passed"),
            "Decisions of gates; what was admitted without being signed and verified is ALLOW with passed false",
        )
        observe("sealkeeper.gate.reasons", self._gate_reasons, (*place, "reason"), "Decisions with a reason why not")

    def watch_grants(self, grants: ObservedGrants, tenants: Iterable[str], actions: Iterable[str]) -> None:
        """Observe how many break-glasses are in force, and count their uses from zero.

        Args:
            grants: all grants.
            tenants: of the gateway.
            actions: that break-glasses can be for.
        """
        # A counter that is there from the start: after a restart the first use is seen as one.
        for one in product(tenants, actions):
            self._break_glass_uses[one] += 0

        def active(_: CallbackOptions) -> Iterator[Observation]:
            for tenant, count in grants.active_emergencies().items():
                yield Observation(count, {"tenant": tenant})

        self._meter.create_observable_gauge(
            "sealkeeper.break.glass.active", [active], description="Break-glasses in force"
        )

    def watch_gates(
        self,
        exceptions: Callable[[], Mapping[tuple[str, str], tuple[int, float]]],
        modes: Callable[[], Iterable[tuple[str, str, str]]],
    ) -> None:
        """Observe the exceptions of gates, and their modes.

        Args:
            exceptions: tells, from any thread, by tenant and gate, how many are in force, and the age in seconds of the
                oldest.
            modes: tells, from any thread, tenant, gate and mode of each gate.
        """

        def active(_: CallbackOptions) -> Iterator[Observation]:
            for (tenant, gate), (count, _age) in exceptions().items():
                yield Observation(count, {"tenant": tenant, "gate": gate})

        def ages(_: CallbackOptions) -> Iterator[Observation]:
            for (tenant, gate), (_count, age) in exceptions().items():
                yield Observation(age, {"tenant": tenant, "gate": gate})

        def mode(_: CallbackOptions) -> Iterator[Observation]:
            for tenant, gate, name in modes():
                yield Observation(1, {"tenant": tenant, "gate": gate, "mode": name})

        create = self._meter.create_observable_gauge
        create("sealkeeper.gate.exceptions.active", [active], description="Exceptions of gates in force")
        create("sealkeeper.gate.exceptions.age", [ages], "s", "Age of a gate's oldest exception in force")
        create("sealkeeper.gate.mode", [mode], description="1 for the mode that a gate is in")

    def watch_issuers(self, issuers: Mapping[str, Callable[[], float]]) -> None:
        """Observe how old the keys of the issuers of tokens are.

        Args:
            issuers: by name; each tells, from any thread, the seconds since its keys were last had from it, or where
                they never were, since they were first asked for.
        """

        def ages(_: CallbackOptions) -> Iterator[Observation]:
            for name, age in issuers.items():
                yield Observation(age(), {"issuer": name})

        self._meter.create_observable_gauge(
            "sealkeeper.issuer.keys.age", [ages], "s", "Time since an issuer's keys were last had from it"
        )

    def watch_logs(self, logs: ObservedLogs) -> None:
        """Observe the logs' sizes and the age of their checkpoints."""

        def sizes(_: CallbackOptions) -> Iterator[Observation]:
            for name, size in logs.tree_sizes.items():
                yield Observation(size, {"log": name})

        def ages(_: CallbackOptions) -> Iterator[Observation]:
            yield Observation(logs.seconds_since_checkpoint())

        def pending(_: CallbackOptions) -> Iterator[Observation]:
            yield Observation(logs.pending_entries)

        self._meter.create_observable_gauge("sealkeeper.log.size", [sizes], "{entry}", "Entries in a log")
        self._meter.create_observable_gauge(
            "sealkeeper.log.checkpoint.age", [ages], "s", "Time since the newest checkpoint was signed"
        )
        self._meter.create_observable_gauge(
            "sealkeeper.sequencer.pending", [pending], "{entry}", "Entries waiting for the sequencer"
        )

    def watch_providers(self, providers: Mapping[str, ObservedProvider]) -> None:
        """Observe how the providers are, by name."""

        def circuits(_: CallbackOptions) -> Iterator[Observation]:
            for name, one in providers.items():
                yield Observation(int(one.health.circuit == "CLOSED"), {"provider": name, "region": one.region})

        def error_rates(_: CallbackOptions) -> Iterator[Observation]:
            for name, one in providers.items():
                yield Observation(one.health.error_rate, {"provider": name})

        def successes(_: CallbackOptions) -> Iterator[Observation]:
            for name, one in providers.items():
                if one.health.last_success is not None:
                    yield Observation(one.health.last_success.timestamp(), {"provider": name})

        create = self._meter.create_observable_gauge
        create("sealkeeper.provider.up", [circuits], description="1 while the provider is used, 0 while left alone")
        create("sealkeeper.provider.error.rate", [error_rates], "1", "Share of newest operations without an answer")
        create("sealkeeper.provider.last.success", [successes], "s", "Unix time of the last operation that went well")

    def call_span(self, name: str, metadata: Mapping[str, str | bytes]) -> AbstractContextManager[trace.Span]:
        """A span around a call; a refusal's text is not recorded, its reason is set by the caller.

        Args:
            name: of the method.
            metadata: of the call, which may name its parent (W3C Trace Context).
        """
        if not self._exports:
            # Nobody will see it: only a trace's id for log lines is needed, and made when one is written.
            _trace_id.set([])
            return _NO_SPAN
        parent = propagate.extract(metadata) if "traceparent" in metadata else None
        return self.tracer.start_as_current_span(
            name, parent, trace.SpanKind.SERVER, record_exception=False, set_status_on_exception=False
        )

    def signing_for(self, tenant: str, key_version: str, calls: Sequence[trace.Span]) -> AbstractContextManager[None]:
        """Say what a provider's operation within the block is for.

        Args:
            tenant: whose key it is.
            key_version: its name.
            calls: spans of the calls that it serves: the first becomes its parent, the others are linked to.
        """
        return _signing_for(_Purpose(tenant, key_version, calls)) if self._exports else _NOTHING

    def start_span(self, name: str, **attributes: str) -> trace.Span:
        """A span of an operation, which the caller ends with ``end_span``."""
        if not self._exports:
            return trace.INVALID_SPAN
        purpose = _purpose.get()
        if purpose is None:
            return self.tracer.start_span(name, attributes=attributes)
        first, *others = purpose.calls
        return self.tracer.start_span(
            name,
            trace.set_span_in_context(first),
            attributes={**attributes, "tenant": purpose.tenant, "key_version": purpose.key_version},
            links=[trace.Link(one.get_span_context()) for one in others],
        )

    def end_span(self, span: trace.Span, outcome: str) -> None:
        """End a span; ``outcome`` is OK or a refusal's reason."""
        if span.is_recording():
            set_outcome(span, outcome)
            span.end()

    def close(self) -> None:
        """Send what is left and stop."""
        self._tracing.shutdown()
        self._metering.shutdown()


def _tracer_provider(settings: TelemetrySettings, resource: Resource) -> TracerProvider:
    if settings.otlp_endpoint is None:
        return TracerProvider(sampler=ALWAYS_OFF, resource=resource)
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(settings.trace_sample_ratio)), resource=resource)
    exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=settings.otlp_insecure)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _metric_readers(settings: TelemetrySettings, histograms: Callable[[], list[Histogram]]) -> list[MetricReader]:
    readers: list[MetricReader] = []
    if settings.metrics_listen is not None:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader

        readers.append(with_histograms(PrometheusMetricReader, histograms)())
    if settings.otlp_endpoint is not None:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        exporter = OTLPMetricExporter(endpoint=settings.otlp_endpoint, insecure=settings.otlp_insecure)
        readers.append(with_histograms(PeriodicExportingMetricReader, histograms)(exporter))
    return readers
