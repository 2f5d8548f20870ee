"""When an answer must be there: by the webhook's own budget, and before the API server stops waiting."""

from __future__ import annotations

import re

_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(h|ms|m|us|µs|ns|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
# What an answer takes on its way back: seconds, and a share where there is little time.
_WAY, _WAY_SHARE = 1.0, 0.2


def deadline_for(timeout: str, now: float, budget: float) -> float:
    """The deadline of an answer.

    Args:
        timeout: how long the caller waits, as the API server puts it into the URL: ``10s``; anything else is no limit.
        now: when the request came, in seconds of a clock.
        budget: seconds at most.

    Returns:
        Seconds of that clock.
    """
    waits = parse_duration(timeout)
    if waits is not None:
        budget = min(budget, waits - min(_WAY, _WAY_SHARE * waits))
    return now + budget


def parse_duration(text: str) -> float | None:
    """Seconds of a duration as Go's ``time.Duration`` writes it; ``None`` for none that is above zero.

    >>> parse_duration("1m30s"), parse_duration("soon")
    (90.0, None)
    """
    seconds, place = 0.0, 0
    while place < len(text):
        match = _PART.match(text, place)
        if match is None or place > 64:
            return None
        seconds += float(match[1]) * _SECONDS[match[2]]
        place = match.end()
    return seconds or None
