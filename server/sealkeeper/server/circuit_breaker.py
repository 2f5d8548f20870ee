"""A circuit breaker: what fails again and again is left alone for a while, then tried with one request.

So callers of a store that is down get their answer at once, their requests do not pile up, and the store is not kept
from coming back by all of them together.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

_FAILURES = 3
_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
# What one try may take before another is let in: tokens make a large RSA key for minutes.
_TRIAL = 5.0


class Circuit(StrEnum):
    """Whether something is being used."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


class CircuitBreaker:
    """Counts failures in a row; used on the event loop.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        # Times that it has been opened without a success in between: the pauses grow with it.
        self._opened = 0
        self._not_before = 0.0
        self._trying = False

    @property
    def circuit(self) -> Circuit:
        """Its state now."""
        if not self._opened:
            return Circuit.CLOSED
        return Circuit.HALF_OPEN if self._trying or self.pause == 0 else Circuit.OPEN

    @property
    def pause(self) -> float:
        """Seconds until the next try, if that under way has not ended before; 0 where there is nothing to wait for."""
        return max(0.0, self._not_before - self._clock()) if self._opened else 0.0

    @property
    def refuses(self) -> bool:
        """Whether a request would be refused now."""
        return self.pause > 0

    def enter(self) -> bool:
        """Ask to go ahead; the caller tells afterwards how it went. Of those that ask while it is open, one may try."""
        if self.refuses:
            return False
        if self._opened:
            self._trying, self._not_before = True, self._clock() + _TRIAL
        return True

    def succeeded(self) -> None:
        """It went well."""
        self._failures = self._opened = 0
        self._trying = False

    def failed(self) -> None:
        """It failed for want of an answer."""
        self._failures += 1
        # Those that were under way when it was opened say nothing new.
        if self._trying or (self._failures >= _FAILURES and not self._opened):
            self._not_before = self._clock() + _PAUSES[min(self._opened, len(_PAUSES) - 1)]
            self._opened += 1
        self._trying = False

    def abandoned(self) -> None:
        """Nobody waited for the outcome."""
        if self._trying:
            self._trying, self._not_before = False, self._clock()
