"""The monotonic clock that deadlines are kept by; another in tests."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits for it."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""

    async def until(self, moment: float) -> None:
        """Wait for a moment of this clock."""


class MonotonicClock:
    """The machine's: ``time.monotonic``."""

    def now(self) -> float:
        """Seconds since some moment in the past."""
        return time.monotonic()

    async def until(self, moment: float) -> None:
        """Wait for a moment of this clock."""
        await asyncio.sleep(max(0.0, moment - self.now()))
