"""Traces, metrics and log lines (OpenTelemetry).

Labels are bounded: methods, roles, providers, reasons and tenants of the configuration. No label, span attribute or log
line carries a digest, a request id, key material, or text of a caller that could be anything.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased

if TYPE_CHECKING:
    from sealkeeper.server.settings import TelemetrySettings

log = logging.getLogger("sealkeeper")

_LATENCY = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
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


class Telemetry:
    """The gateway's instruments.

    Args:
        settings: where to send what.
        domain: the gateway's name.
        readers: further metric readers, for tests.
    """

    def __init__(self, settings: TelemetrySettings, domain: str, readers: list[MetricReader] | None = None) -> None:
        resource = Resource.create({"service.name": "sealkeeper", "service.instance.id": domain})
        self._tracing = _tracer_provider(settings, resource)
        self._metering = MeterProvider(
            [*_metric_readers(settings), *(readers or [])], resource=resource, views=_views()
        )
        self.tracer: trace.Tracer = self._tracing.get_tracer("sealkeeper")
        meter: metrics.Meter = self._metering.get_meter("sealkeeper")
        self._meter = meter
        self._calls = meter.create_histogram(
            "sealkeeper.call.duration", "s", "Time from a call's arrival to its answer"
        )
        self._refusals = meter.create_counter("sealkeeper.refusals", description="Calls refused, by reason")
        self._signatures = meter.create_counter("sealkeeper.signatures", description="Signatures released")
        self._provider = meter.create_histogram("sealkeeper.provider.duration", "s", "Time of a provider's operation")
        self._cycle = meter.create_histogram("sealkeeper.sequencer.cycle.duration", "s", "Time of a sequencer's cycle")
        self._batch = meter.create_histogram(
            "sealkeeper.sequencer.batch.size", "{submission}", "Submissions in a cycle"
        )

    def call(self, method: str, tenant: str, role: str, outcome: str, seconds: float) -> None:
        """Count a call. ``outcome`` is OK or the refusal's reason."""
        self._calls.record(seconds, {"method": method, "tenant": tenant, "role": role, "outcome": outcome})
        if outcome != "OK":
            self._refusals.add(1, {"method": method, "tenant": tenant, "reason": outcome})

    def signatures(self, tenant: str, algorithm: str, count: int) -> None:
        """Count released signatures."""
        self._signatures.add(count, {"tenant": tenant, "algorithm": algorithm})

    def provider_operation(self, provider: str, operation: str, outcome: str, seconds: float) -> None:
        """Measure one operation of a provider."""
        self._provider.record(seconds, {"provider": provider, "operation": operation, "outcome": outcome})

    def cycle(self, submissions: int, seconds: float) -> None:
        """Measure one cycle of the sequencer."""
        self._cycle.record(seconds)
        self._batch.record(submissions)

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

    @contextmanager
    def span(self, name: str, parent: Context | None = None, **attributes: str) -> Iterator[trace.Span]:
        """A span around a block; a refusal's text is not recorded, its reason is set by the caller."""
        with self.tracer.start_as_current_span(
            name, parent, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            yield span

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


def _metric_readers(settings: TelemetrySettings) -> list[MetricReader]:
    readers: list[MetricReader] = []
    if settings.metrics_listen is not None:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader

        readers.append(PrometheusMetricReader())
    if settings.otlp_endpoint is not None:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        exporter = OTLPMetricExporter(endpoint=settings.otlp_endpoint, insecure=settings.otlp_insecure)
        readers.append(PeriodicExportingMetricReader(exporter))
    return readers


def _views() -> list[View]:
    def buckets(name: str, boundaries: tuple[float, ...]) -> View:
        return View(instrument_name=name, aggregation=ExplicitBucketHistogramAggregation(boundaries))

    return [buckets("*.duration", _LATENCY), buckets("*.size", _COUNTS)]
