"""The logs: append-only RFC 6962 trees that are grown together by one sequencer.

``sequencer.py`` grows them, ``journal.py`` makes that durable, ``publisher.py`` writes tiles for readers,
``opening.py`` brings them back after a crash, ``reader.py`` answers questions.
"""

from sealkeeper.server.log.errors import (
    EntryTooLargeError,
    IndexOutOfRangeError,
    LogBrokenError,
    LogCorruptError,
    LogError,
    LogLockedError,
    LogOverloadedError,
    LogStorageFullError,
    LogUnavailableError,
)
from sealkeeper.server.log.opening import open_logs
from sealkeeper.server.log.reader import InclusionProof, LogReader
from sealkeeper.server.log.sequencer import (
    AUDIT,
    CT,
    LOG_NAMES,
    TRANSPARENCY,
    CheckpointSigner,
    CycleStats,
    Inclusion,
    Receipt,
    Sequencer,
    Submission,
)

__all__ = [
    "AUDIT",
    "CT",
    "LOG_NAMES",
    "TRANSPARENCY",
    "CheckpointSigner",
    "CycleStats",
    "EntryTooLargeError",
    "Inclusion",
    "InclusionProof",
    "IndexOutOfRangeError",
    "LogBrokenError",
    "LogCorruptError",
    "LogError",
    "LogLockedError",
    "LogOverloadedError",
    "LogReader",
    "LogStorageFullError",
    "LogUnavailableError",
    "Receipt",
    "Sequencer",
    "Submission",
    "open_logs",
]
