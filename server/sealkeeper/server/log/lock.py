"""One writer a folder: an advisory lock (flock(2)) that ends with the process that holds it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sealkeeper.server.log.errors import LogLockedError


class WriterLock:
    """The lock on a folder.

    Raises:
        LogLockedError: another process holds it.
    """

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise LogLockedError(f"another process writes the logs in {directory}") from None

    def release(self) -> None:
        """Let another process write."""
        os.close(self._descriptor)
