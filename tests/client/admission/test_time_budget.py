"""An answer is due before the API server stops waiting, and within the webhook's own budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.client.admission.time_budget import deadline_for, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10.0), ("1m0s", 60.0), ("1h2m3.5s", 3723.5), ("250ms", 0.25), ("1.5s", 1.5), ("7us", 7e-6), ("7µs", 7e-6)],
)
def test_a_duration_of_go_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "s", "10 s", "-10s", "0s", "1e3s", "10S", "ten", "1s" * 100, "٣s"])
def test_what_is_no_duration_above_zero_is_none(text: str) -> None:
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("timeout", "deadline"),
    [("30s", 108.0), ("10s", 108.0), ("5s", 104.0), ("1s", 100.8), ("", 108.0), ("soon", 108.0)],
)
def test_the_callers_time_is_kept_with_a_margin(timeout: str, deadline: float) -> None:
    assert deadline_for(timeout, 100.0, 8.0) == pytest.approx(deadline)


@given(st.integers(1, 30), st.floats(0.1, 29.0))
def test_an_answer_is_due_before_the_caller_gives_up_and_after_it_asked(timeout: int, budget: float) -> None:
    deadline = deadline_for(f"{timeout}s", 100.0, budget)
    assert 100.0 < deadline < 100.0 + timeout
    assert deadline <= 100.0 + budget
