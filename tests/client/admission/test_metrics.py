"""Metrics are in Prometheus' text format, by which its own client reads them, and bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from sealkeeper.client.admission.metrics import MAX_SERIES, OTHER, Counter, GateMetrics


def samples(metrics: GateMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text())
        for sample in family.samples
    }


def test_counters_are_read_back_by_their_labels() -> None:
    metrics = GateMetrics()
    metrics.admissions.add("acme", "production", "allowed")
    metrics.admissions.add("acme", "production", "allowed")
    labels = (("environment", "production"), ("outcome", "allowed"), ("tenant", "acme"))
    assert samples(metrics)[("sealkeeper_gate_admissions_total", labels)] == 2


def test_a_gauge_without_labels_is_there_from_the_start() -> None:
    assert samples(GateMetrics())[("sealkeeper_gate_reviews_under_way", ())] == 0


def test_a_histograms_buckets_add_up() -> None:
    metrics = GateMetrics()
    for seconds in (0.001, 0.005, 0.3, 100.0):
        metrics.decision_seconds.record(seconds, "cache")
    found = samples(metrics)
    name, source = "sealkeeper_gate_decision_seconds", ("source", "cache")

    def at(bound: str) -> float:
        return found[(f"{name}_bucket", (("le", bound), source))]

    assert (at("0.005"), at("0.25"), at("0.5"), at("30.0"), at("+Inf")) == (2, 2, 3, 3, 4)
    assert found[(f"{name}_count", (source,))] == 4
    assert abs(found[(f"{name}_sum", (source,))] - 100.306) < 1e-9


@given(st.text(max_size=200))
def test_whatever_a_label_is_it_can_be_read_back(text: str) -> None:
    metrics = GateMetrics()
    metrics.refusals.add("acme", "production", text)
    labels = (("environment", "production"), ("reason", text[:128]), ("tenant", "acme"))
    assert samples(metrics)[("sealkeeper_gate_refusals_total", labels)] == 1


def test_labels_that_are_made_up_do_not_grow_without_bound() -> None:
    counter = Counter("x_total", "x", ("tenant", "reason"))
    for number in range(MAX_SERIES + 500):
        counter.add("acme", f"MADE_UP_{number}")
    assert len(list(counter.lines())) <= MAX_SERIES + 1
    assert counter.value(OTHER, OTHER) == 500
    counter.add("acme", "MADE_UP_0")
    assert counter.value("acme", "MADE_UP_0") == 2
