"""When a call is tried again: only where the gateway did not answer, or says when to come back, and in time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from sealkeeper.client.errors import ClientError, ExhaustedError, UnavailableError

_FIRST = 0.1
_LONGEST = 5.0
_REASONS = {"DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN", "CANCELLED"}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter.

    Attributes:
        attempts: at most this many tries.
        random: from 0 to 1; injected in tests.
    """

    attempts: int = 8
    random: Callable[[], float] = field(default=random.random, repr=False)

    def delay(self, error: ClientError, tries: int, remaining: float) -> float | None:
        """Seconds to wait before the next try; ``None`` where there is none.

        Args:
            error: of the last try.
            tries: done so far.
            remaining: seconds until the deadline.
        """
        if not isinstance(error, UnavailableError) or error.reason in _REASONS or tries >= self.attempts:
            return None
        if isinstance(error, ExhaustedError) and error.retry_after is None:
            return None
        delay = min(_LONGEST, _FIRST * 2 ** (tries - 1)) * self.random()
        if error.retry_after is not None:
            delay += error.retry_after.total_seconds()
        return delay if delay < remaining else None
