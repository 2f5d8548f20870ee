"""The moment at which an operation is over, however many requests it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sealkeeper.registry.errors import RegistryTimeoutError


@dataclass(frozen=True, slots=True)
class Deadline:
    """When an operation must have ended.

    Attributes:
        end: as ``clock`` has it, seconds.
        clock: monotonic, seconds.
    """

    end: float
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """So many seconds from now."""
        return cls(clock() + seconds, clock)

    def remaining(self, what: str) -> float:
        """Seconds that are left; more than none.

        Args:
            what: is waited for, for the error.

        Raises:
            RegistryTimeoutError: none are.
        """
        left = self.end - self.clock()
        if left <= 0:
            raise RegistryTimeoutError(f"{what}: the time for it is over")
        return left
