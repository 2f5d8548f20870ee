"""Times in predicates (in-toto attestation spec v1, Timestamp): RFC 3339, with a zone."""

from __future__ import annotations

from datetime import datetime

from sealkeeper.verify.strict_json import JsonError, Value


def read_time(value: Value | None, name: str) -> datetime | None:
    """A member that is a time; ``None`` where it is missing, null or empty.

    Raises:
        JsonError: it is no time, or has no zone.
    """
    one = None if value is None else value.optional(name)
    return None if one is None or one.json == "" else one.time()


def read_period(value: Value | None, begin: str, end: str) -> tuple[datetime | None, datetime | None]:
    """Two members: when something began, and when it ended.

    Raises:
        JsonError: one is no time, or it ended before it began.
    """
    began, ended = read_time(value, begin), read_time(value, end)
    if value is not None and began is not None and ended is not None and ended < began:
        raise JsonError(f"{value.path}.{end}: is before {begin}")
    return began, ended
