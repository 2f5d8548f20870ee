"""Histograms that cost under a microsecond a sample, exported by OpenTelemetry like all other metrics.

The SDK's own take five to eight microseconds a sample, and there are several on the way of a signature. These are
summed up here, and handed to a metric reader as the SDK's data points when it collects.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    Metric,
    MetricsData,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData


class _Cell:
    """Samples of one set of labels."""

    __slots__ = ("buckets", "high", "low", "total")

    def __init__(self, size: int) -> None:
        self.buckets = [0] * size
        self.total = 0.0
        self.low = float("inf")
        self.high = float("-inf")


class Histogram:
    """A histogram with explicit bounds.

    Args:
        name: of the metric.
        unit: of its samples.
        description: for people.
        bounds: upper bounds of the buckets, which belong to them; one more bucket is above the last.
        labels: names of its labels.
    """

    def __init__(self, name: str, unit: str, description: str, bounds: Sequence[float], labels: Sequence[str]) -> None:
        self._name = name
        self._unit = unit
        self._description = description
        self._bounds = tuple(bounds)
        self._labels = tuple(labels)
        self._start = time.time_ns()
        self._cells: dict[tuple[str, ...], _Cell] = {}

    def record(self, value: float, *labels: str) -> None:
        """Take in a sample; ``labels`` in the order of their names."""
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._cells[labels] = _Cell(len(self._bounds) + 1)
        cell.buckets[bisect_left(self._bounds, value)] += 1
        cell.total += value
        if value < cell.low:
            cell.low = value
        if value > cell.high:
            cell.high = value

    def metric(self) -> Metric:
        """All samples so far, cumulative."""
        now = time.time_ns()
        points = []
        # Taken from another thread; a sample that comes meanwhile is in this or in the next.
        for labels, cell in list(self._cells.items()):
            buckets = list(cell.buckets)
            points.append(
                HistogramDataPoint(
                    attributes=dict(zip(self._labels, labels, strict=True)),
                    start_time_unix_nano=self._start,
                    time_unix_nano=now,
                    count=sum(buckets),
                    sum=cell.total,
                    bucket_counts=buckets,
                    explicit_bounds=self._bounds,
                    min=cell.low,
                    max=cell.high,
                )
            )
        data = HistogramData(points, AggregationTemporality.CUMULATIVE)
        return Metric(self._name, self._description, self._unit, data)


def with_histograms(reader: type[Any], histograms: Callable[[], Sequence[Histogram]]) -> type[Any]:
    """A kind of metric reader that also sees these histograms.

    Args:
        reader: a ``MetricReader`` of the SDK.
        histograms: asked at each collection.
    """

    class Reader(reader):  # type: ignore[misc]  # which reader it is, is known when it runs
        """Adds the histograms to what the SDK has collected."""

        def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **more: Any) -> None:
            super()._receive_metrics(_added(metrics_data, histograms()), timeout_millis=timeout_millis, **more)

    return Reader


def _added(data: MetricsData, histograms: Sequence[Histogram]) -> MetricsData:
    """The data with the histograms in its first scope, which the gateway's gauges are always in."""
    resource, *resources = data.resource_metrics
    scope, *scopes = resource.scope_metrics
    scope = replace(scope, metrics=[*scope.metrics, *(one.metric() for one in histograms)])
    return MetricsData([replace(resource, scope_metrics=[scope, *scopes]), *resources])
