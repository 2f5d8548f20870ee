"""The gateway's time: never earlier than what it has said before.

Timestamps, validity windows and audit records all take their time here, so that a clock set back cannot make a
signature look older than it is. A clock that was far ahead, and left a record of it, stops signing once it has been set
right, until an operator says that it is right now: ``sealkeeper serve --accept-clock``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from sealkeeper.server.errors import ClockWentBackError

TOLERANCE = timedelta(seconds=10)
"""How far the machine's clock may step back before signing stops. Smaller steps are bridged by standing still."""


class SteadyClock:
    """Wraps the machine's clock.

    Args:
        source: nanoseconds since the epoch, UTC; injected in tests.
        not_before: the newest time already recorded, for example of the audit log's last record.
    """

    def __init__(self, source: Callable[[], int] = time.time_ns, not_before: datetime | None = None) -> None:
        self._source = source
        self._latest = 0 if not_before is None else int(not_before.timestamp() * 1e9)
        self._tolerance = int(TOLERANCE.total_seconds() * 1e9)

    def now(self) -> datetime:
        """The time, UTC.

        Raises:
            ClockWentBackError: the machine's clock is more than ``TOLERANCE`` behind what was said before.
        """
        reading = self._source()
        if reading < self._latest:
            behind = self._latest - reading
            if behind > self._tolerance:
                raise ClockWentBackError(
                    f"the machine's clock is {behind / 1e9:.0f} s behind the newest record",
                    next_step="set the gateway's clock right (NTP): signing goes on by itself once it has caught up. "
                    "If it was ahead before and is right now, start the gateway anew with --accept-clock",
                    retry_after=timedelta(seconds=min(behind / 1e9, 60)),
                )
            reading = self._latest
        else:
            self._latest = reading
        return datetime.fromtimestamp(reading / 1e9, UTC)

    def at_least_latest(self) -> datetime:
        """The time, or the newest time said before where the clock went back: for records, which must be written."""
        self._latest = max(self._source(), self._latest)
        return datetime.fromtimestamp(self._latest / 1e9, UTC)

    def machine(self) -> datetime:
        """What the machine's clock says, whatever was said before: for what expires, so that nobody is locked out."""
        return datetime.fromtimestamp(self._source() / 1e9, UTC)

    def not_before(self, moment: datetime) -> None:
        """Learn of a time that was recorded before this clock was made."""
        self._latest = max(self._latest, int(moment.timestamp() * 1e9))


@lru_cache(maxsize=16)
def rfc3339(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, as all JSON of this project has it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
