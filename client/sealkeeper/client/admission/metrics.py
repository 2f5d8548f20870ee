"""What is counted, in Prometheus' text format 0.0.4.

The client has no metrics library, and needs counters, gauges and one histogram. Label values are bounded: those of
settings by the settings, reasons by ``MAX_SERIES``, beyond which they are counted as ``other``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_SERIES = 2000
"""Most sets of label values of a metric."""
OTHER = "other"
_MAX_LABEL = 128
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Counter:
    """Counts by labels.

    Args:
        name: of the metric, with ``_total``.
        description: for people.
        labels: their names.
    """

    kind = "counter"

    def __init__(self, name: str, description: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.description = description
        self._labels = tuple(labels)
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def add(self, *labels: str, amount: float = 1.0) -> None:
        """Count; ``labels`` in the order of their names."""
        series = _bounded(labels, self._values)
        self._values[series] = self._values.get(series, 0.0) + amount

    def value(self, *labels: str) -> float:
        """What has been counted."""
        return self._values.get(labels, 0.0)

    def lines(self) -> Iterator[str]:
        """Samples."""
        for labels, value in sorted(self._values.items()):
            yield f"{self.name}{_braces(self._labels, labels)} {value!r}"


class Gauge(Counter):
    """A value that is set."""

    kind = "gauge"

    def set(self, value: float, *labels: str) -> None:
        """Set it."""
        self._values[_bounded(labels, self._values)] = value


class Histogram:
    """Seconds, by labels.

    Args:
        name: of the metric.
        description: for people.
        labels: their names.
    """

    kind = "histogram"

    def __init__(self, name: str, description: str, labels: Sequence[str]) -> None:
        self.name = name
        self.description = description
        self._labels = tuple(labels)
        self._cells: dict[tuple[str, ...], tuple[list[int], list[float]]] = {}

    def record(self, seconds: float, *labels: str) -> None:
        """Take in a sample; ``labels`` in the order of their names."""
        buckets, total = self._cells.setdefault(_bounded(labels, self._cells), ([0] * (len(_SECONDS) + 1), [0.0]))
        # A bucket's bound belongs to it.
        buckets[bisect_left(_SECONDS, seconds)] += 1
        total[0] += seconds

    def count(self, *labels: str) -> int:
        """How many samples there were."""
        return sum(self._cells.get(labels, ([], []))[0])

    def lines(self) -> Iterator[str]:
        """Samples: buckets, which add up, sum and count."""
        for labels, (buckets, total) in sorted(self._cells.items()):
            seen = 0
            for bound, number in zip((*map(str, _SECONDS), "+Inf"), buckets, strict=True):
                seen += number
                yield f"{self.name}_bucket{_braces((*self._labels, 'le'), (*labels, bound))} {seen}"
            yield f"{self.name}_sum{_braces(self._labels, labels)} {total[0]!r}"
            yield f"{self.name}_count{_braces(self._labels, labels)} {seen}"


class GateMetrics:
    """All metrics of a webhook. Dry runs count in ``decision_seconds`` only.

    Attributes:
        admissions: reviews by what became of them.
        admitted: images that were let in, by whether the policy was fulfilled: signed and verified.
        refusals: images that were refused, by reason code.
        exceptions_used: images that an exception let in.
        failed_open: images that nobody could decide on, and that were let in by the failure policy.
        provider_keys: what Gatekeeper asked for; its audit asks again and again, so these are no admissions.
        decision_seconds: of a decision on an image, by where the answer is from.
        errors: what went wrong in the webhook or its decider.
        reviews_under_way: now.
        decider_ready: 1 where it can decide.
        certificate_not_after: Unix seconds.
    """

    def __init__(self) -> None:
        where = ("tenant", "environment")
        self.admissions = Counter(
            "sealkeeper_gate_admissions_total", "Admission reviews by outcome.", (*where, "outcome")
        )
        self.admitted = Counter(
            "sealkeeper_gate_admitted_total",
            "Images admitted, by whether they fulfilled the gate's policy.",
            (*where, "verified"),
        )
        self.refusals = Counter("sealkeeper_gate_refusals_total", "Images refused, by reason.", (*where, "reason"))
        self.exceptions_used = Counter(
            "sealkeeper_gate_exceptions_used_total", "Images admitted by an exception.", where
        )
        self.failed_open = Counter(
            "sealkeeper_gate_failed_open_total", "Images admitted without a decision, by the failure policy.", where
        )
        self.provider_keys = Counter(
            "sealkeeper_gate_provider_keys_total", "Images that Gatekeeper asked about.", (*where, "outcome")
        )
        self.decision_seconds = Histogram(
            "sealkeeper_gate_decision_seconds", "Time to decide on an image.", ("source",)
        )
        self.errors = Counter("sealkeeper_gate_errors_total", "What went wrong, by kind.", ("kind",))
        self.reviews_under_way = Gauge("sealkeeper_gate_reviews_under_way", "Reviews being answered.")
        self.decider_ready = Gauge("sealkeeper_gate_decider_ready", "1 where whatever decides can decide.")
        self.certificate_not_after = Gauge(
            "sealkeeper_gate_certificate_not_after_seconds", "When the webhook's certificate ends, Unix time."
        )

    def text(self) -> str:
        """All of them in Prometheus' text format."""
        lines: list[str] = []
        for one in vars(self).values():
            lines += [f"# HELP {one.name} {one.description}", f"# TYPE {one.name} {one.kind}", *one.lines()]
        return "\n".join(lines) + "\n"


def _bounded(labels: tuple[str, ...], known: Mapping[tuple[str, ...], object]) -> tuple[str, ...]:
    series = tuple(one[:_MAX_LABEL] for one in labels)
    if series not in known and len(known) >= MAX_SERIES:
        return (*series[:-1], OTHER) if (*series[:-1], OTHER) in known else (OTHER,) * len(series)
    return series


def _braces(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return "{" + ",".join(pairs) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
