"""Histograms that OpenTelemetry's readers see as their own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from sealkeeper.server.histograms import Histogram, with_histograms

BOUNDS = (0.1, 1.0, 10.0)


@given(st.lists(st.floats(0, 100)))
def test_samples_are_counted_as_the_sdk_counts_them(samples: list[float]) -> None:
    ours = Histogram("ours", "s", "", BOUNDS, ())
    reader = with_histograms(InMemoryMetricReader, lambda: [ours])()
    provider = MeterProvider([reader])
    theirs = provider.get_meter("x").create_histogram("theirs", explicit_bucket_boundaries_advisory=BOUNDS)
    for one in [*samples, 0.5]:
        ours.record(one)
        theirs.record(one)
    data = reader.get_metrics_data()
    assert data is not None
    found = {metric.name: metric.data.data_points[0] for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    provider.shutdown()
    for name in ("bucket_counts", "count", "explicit_bounds", "min", "max"):
        assert list_of(getattr(found["ours"], name)) == list_of(getattr(found["theirs"], name))


def list_of(value: object) -> object:
    return list(value) if isinstance(value, tuple | list) else value


def test_each_set_of_labels_is_counted_apart() -> None:
    histogram = Histogram("calls", "s", "", BOUNDS, ("method", "outcome"))
    for outcome in ("OK", "OK", "REFUSED"):
        histogram.record(0.5, "Sign", outcome)
    data = histogram.metric().data
    assert isinstance(data, HistogramData)
    counts = {str(point.attributes["outcome"]): point.count for point in data.data_points if point.attributes}
    assert counts == {"OK": 2, "REFUSED": 1}
