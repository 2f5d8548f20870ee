"""Token buckets, by a clock that tests set."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.server.token_bucket import TokenBucket

# Seconds that pass, and how many are asked for then.
STEPS = st.lists(
    st.tuples(st.floats(0, 100, allow_nan=False) | st.just(0.0), st.integers(1, 300)), min_size=1, max_size=80
)
RATES = st.floats(1e-3, 1e5, allow_nan=False)
BURSTS = st.integers(1, 500)


class Clock:
    """Stands still until it is told."""

    def __init__(self, now: float = 1e6) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def bucket(rate: float, burst: int) -> tuple[TokenBucket, Clock]:
    clock = Clock()
    return TokenBucket(rate, burst, clock), clock


@given(RATES, BURSTS, STEPS)
def test_no_window_has_more_than_the_burst_and_what_came_in_meanwhile(
    rate: float, burst: int, steps: list[tuple[float, int]]
) -> None:
    one, clock = bucket(rate, burst)
    taken: list[tuple[float, int]] = []
    for passed, count in steps:
        clock.now += passed
        if one.take(count) == 0:
            taken.append((clock.now, count))
    for first, (start, _) in enumerate(taken):
        total = 0
        for end, count in taken[first:]:
            total += count
            # One rounding of the product, whatever came before: nothing adds up.
            assert total <= (burst + Fraction(rate) * (Fraction(end) - Fraction(start))) * (1 + Fraction(1, 10**12))


@given(RATES, BURSTS, STEPS)
def test_what_the_rate_allows_is_never_refused(rate: float, burst: int, steps: list[tuple[float, int]]) -> None:
    """Against a bucket that is filled step by step in exact numbers."""
    one, clock = bucket(rate, burst)
    level, last = Fraction(burst), Fraction(clock.now)
    for passed, count in steps:
        clock.now += passed
        level = min(Fraction(burst), level + Fraction(rate) * (Fraction(clock.now) - last))
        last = Fraction(clock.now)
        wait = one.take(count)
        if wait == 0:
            level -= count
        else:
            assert level - count < Fraction(1, 10**6)


@given(RATES, BURSTS, STEPS)
def test_after_the_time_that_a_refusal_says_it_is_taken(
    rate: float, burst: int, steps: list[tuple[float, int]]
) -> None:
    one, clock = bucket(rate, burst)
    for passed, count in steps:
        clock.now += passed
        wait = one.take(count)
        if count > burst:
            assert wait == math.inf
        elif wait:
            # A thousandth more, as what is told to callers is rounded up to.
            clock.now += wait + 1e-3
            assert one.take(count) == 0


@given(RATES, BURSTS, STEPS)
def test_what_is_available_is_what_can_be_taken_and_no_more(
    rate: float, burst: int, steps: list[tuple[float, int]]
) -> None:
    one, clock = bucket(rate, burst)
    for passed, count in steps:
        clock.now += passed
        one.take(count)
        there = one.available
        assert 0 <= there <= burst
        assert one.take(there + 1) > 0
        if there:
            assert one.take(there) == 0
            one.give_back(there)


@given(RATES, BURSTS, STEPS)
def test_what_is_given_back_was_never_taken(rate: float, burst: int, steps: list[tuple[float, int]]) -> None:
    one, clock = bucket(rate, burst)
    for passed, count in steps:
        clock.now += passed
        before = one.available, one.full
        if one.take(count) == 0:
            one.give_back(count)
        assert (one.available, one.full) == before
        one.take(1)


def test_more_than_the_burst_is_refused_for_good_and_costs_nothing() -> None:
    one, clock = bucket(10, 100)
    assert one.take(1000) == math.inf
    clock.now += 1e6
    assert one.take(1000) == math.inf
    assert one.take(100) == 0


def test_a_bucket_is_full_once_as_much_has_come_in_as_was_taken() -> None:
    one, clock = bucket(10, 100)
    assert one.full
    one.take(50)
    clock.now += 4
    assert not one.full
    clock.now += 1
    assert one.full


def test_it_is_as_exact_after_ever_so_long_as_at_first() -> None:
    one, clock = bucket(0.1, 1)
    assert one.take() == 0
    for _ in range(100_000):
        clock.now += 5
        assert one.take() == pytest.approx(5)
        clock.now += 5
        assert one.take() == 0


@pytest.mark.parametrize(
    ("rate", "burst", "available", "after_a_second"),
    [(10, 100, 40, 50), (100, 100, 40, 100), (10, 60, 0, 10), (10, 20, 0, 10), (10, 1000, 940, 950)],
)
def test_another_limit_keeps_what_was_taken_and_leaves_nobody_below_nothing(
    rate: float, burst: int, available: int, after_a_second: int
) -> None:
    one, clock = bucket(10, 100)
    one.take(60)
    one.limit(rate, burst)
    assert one.available == available
    clock.now += 1
    assert one.available == after_a_second
