"""A token bucket: at most so many at once, and so many a second on average."""

from __future__ import annotations

import math
from collections.abc import Callable


class TokenBucket:
    """Counts what was taken since it was full last, so that nothing adds up errors of rounding. Used on the event loop.

    In any ``t`` seconds at most ``burst + per_second * t`` can be taken. So a count above ``burst`` is refused for
    good: if it were let through at some time, the burst would be no bound for anybody.

    Args:
        per_second: tokens that come in a second; above 0.
        burst: tokens in a full bucket, which a new one is; at least 1.
        clock: seconds, monotonic.
    """

    __slots__ = ("_burst", "_clock", "_rate", "_since", "_taken")

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate = per_second
        self._burst: float = burst
        self._clock = clock
        self._since = clock()
        self._taken: float = 0

    def take(self, count: int = 1) -> float:
        """Take tokens.

        Returns:
            0 where they are taken; else nothing is, and it is the seconds after which they would be there, as things
            are now: infinite where there are never as many.
        """
        now, taken = self._clock(), self._taken
        earned = (now - self._since) * self._rate
        if earned >= taken:
            self._since, self._taken = now, 0
            taken, earned = 0, 0.0
        missing = taken + count - self._burst - earned
        if missing <= 0:
            self._taken = taken + count
            return 0.0
        if count > self._burst:
            return math.inf
        return missing / self._rate

    def give_back(self, count: int) -> None:
        """Undo a ``take`` that was the last thing done."""
        self._taken -= count

    @property
    def available(self) -> int:
        """Tokens that could be taken now."""
        return max(0, math.floor(self._burst - self._owed()))

    @property
    def full(self) -> bool:
        """Whether it is like a new one."""
        return self._owed() == 0

    def limit(self, per_second: float, burst: int) -> None:
        """Change the rate. What was taken stays taken, and an empty bucket is not made emptier than that."""
        self._taken = min(self._owed(), burst)
        self._since = self._clock()
        self._rate, self._burst = per_second, burst

    def _owed(self) -> float:
        return max(0.0, self._taken - (self._clock() - self._since) * self._rate)
