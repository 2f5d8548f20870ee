"""What can go wrong in the logs. ``reason`` is stable, upper snake case."""

from __future__ import annotations


class LogError(Exception):
    """Base of all log errors."""

    reason = "LOG_UNAVAILABLE"


class LogOverloadedError(LogError):
    """Too much waits already; later. Or one submission is larger than any that is taken."""

    reason = "LOG_OVERLOADED"


class LogStorageFullError(LogError):
    """The disk or the quota is full. Nothing was recorded; it is tried again with the next submission."""

    reason = "STORAGE_FULL"


class LogUnavailableError(LogError):
    """The log is closed, or its checkpoint could not be signed."""

    reason = "LOG_UNAVAILABLE"


class LogBrokenError(LogUnavailableError):
    """The disk refused to make something durable, or the log's own code failed.

    What the disk holds is unknown until the log has been opened anew.
    """


class LogLockedError(LogError):
    """Another process writes these logs."""

    reason = "LOG_LOCKED"


class LogCorruptError(LogError):
    """What lies on the disk is not one history. Nothing was changed."""

    reason = "LOG_CORRUPT"


class IndexOutOfRangeError(LogError):
    """There is no such entry, or no such tree size, yet."""

    reason = "INDEX_OUT_OF_RANGE"


class EntryTooLargeError(LogError):
    """An entry is longer than 65,535 bytes (C2SP tlog-tiles: the length prefix has 16 bits)."""

    reason = "ENTRY_TOO_LARGE"
