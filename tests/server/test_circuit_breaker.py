"""The circuit breaker, with a clock that tests set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.server.circuit_breaker import Circuit, CircuitBreaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def failed(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        assert breaker.enter()
        breaker.failed()


def test_failures_with_successes_in_between_do_not_open_it() -> None:
    breaker = CircuitBreaker(Clock())
    for _ in range(10):
        failed(breaker, 2)
        assert breaker.enter()
        breaker.succeeded()
    assert breaker.circuit is Circuit.CLOSED


def test_three_failures_in_a_row_open_it_for_a_while() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    failed(breaker, 3)
    assert (breaker.circuit, breaker.enter(), breaker.pause) == (Circuit.OPEN, False, 1.0)
    clock.now += 0.99
    assert not breaker.enter()
    clock.now += 0.02
    assert breaker.circuit is Circuit.HALF_OPEN


def test_one_request_tries_it_and_the_others_are_refused_meanwhile() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    failed(breaker, 3)
    clock.now += 1
    assert breaker.enter()
    assert not breaker.enter()
    assert breaker.refuses
    breaker.succeeded()
    assert breaker.circuit is Circuit.CLOSED
    assert breaker.enter()
    assert breaker.enter()


def test_the_pauses_grow_while_it_keeps_failing_and_are_short_again_afterwards() -> None:
    clock, pauses = Clock(), []
    breaker = CircuitBreaker(clock)
    failed(breaker, 3)
    for _ in range(6):
        pauses.append(breaker.pause)
        clock.now += breaker.pause
        failed(breaker, 1)
    assert pauses == [1.0, 2.0, 5.0, 10.0, 30.0, 30.0]
    clock.now += breaker.pause
    assert breaker.enter()
    breaker.succeeded()
    failed(breaker, 3)
    assert breaker.pause == 1.0


def test_requests_that_were_under_way_when_it_opened_do_not_make_the_pause_longer() -> None:
    breaker = CircuitBreaker(Clock())
    for _ in range(10):
        assert breaker.enter()
    for _ in range(10):
        breaker.failed()
    assert breaker.pause == 1.0


def test_a_try_that_nobody_waited_for_lets_the_next_one_try() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    failed(breaker, 3)
    clock.now += 1
    assert breaker.enter()
    breaker.abandoned()
    assert breaker.enter()


@given(st.lists(st.sampled_from(["ok", "fail", "wait", "give up"]), max_size=60))
def test_it_never_stays_shut_for_good_and_never_lets_two_try(steps: list[str]) -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    for step in steps:
        if step == "wait":
            clock.now += 30
        elif breaker.enter():
            if breaker.circuit is not Circuit.CLOSED:
                assert not breaker.enter()
            {"ok": breaker.succeeded, "fail": breaker.failed, "give up": breaker.abandoned}[step]()
    clock.now += 30
    assert breaker.enter()
    breaker.succeeded()
    assert breaker.circuit is Circuit.CLOSED


def test_a_try_that_takes_long_does_not_keep_the_others_out_until_it_ends() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    failed(breaker, 3)
    clock.now += 1
    # A token that makes a large RSA key is at it for minutes.
    assert breaker.enter()
    assert not breaker.enter()
    clock.now += breaker.pause
    assert breaker.enter()
    breaker.succeeded()
    assert breaker.circuit is Circuit.CLOSED
    breaker.failed()
    assert breaker.enter()
