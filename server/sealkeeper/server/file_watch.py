"""Files that others replace while the gateway runs: noticed, read again, used only when they are good."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from sealkeeper.server.errors import ConfigurationError

_log = logging.getLogger("sealkeeper.files")
T = TypeVar("T")
State: TypeAlias = tuple[tuple[int, int, int] | None, ...]

# File systems date writes coarsely: what was written less than this ago may be written again without a sign of it.
_SETTLED = 2_000_000_000


class WatchedFiles(Generic[T]):
    """What files hold, read again when they may have changed.

    A set of files is replaced one after the other, so one that is no good is looked at once more before it is said so;
    and since time alone may make it good, it is read each time until it is.

    Args:
        paths: which.
        read: reads and checks them; blocks; raises ``ConfigurationError``.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._state: State = ()
        self._settled = False
        self._pending = False
        self._problem: tuple[State, str] | None = None
        self._said = False
        self._lock = asyncio.Lock()

    def first(self) -> T:
        """Read them for the first time. Blocks.

        Raises:
            ConfigurationError: they are no good.
        """
        self._look()
        return self._read()

    async def changed(self) -> T | None:
        """What they hold now, if they may have changed; ``None`` if not, and if they are no good, which is logged."""
        async with self._lock:
            if not await asyncio.to_thread(self._look) and not self._pending:
                return None
            self._pending = True
            try:
                found = await asyncio.to_thread(self._read)
            except ConfigurationError as error:
                self._complain(str(error))
                return None
            self._pending, self._problem = False, None
            return found

    def _look(self) -> bool:
        """Take note of the files' state, before they are read; whether they may be others than at the last look."""
        before, settled = self._state, self._settled
        self._state = tuple(_state(path) for path in self._paths)
        newest = max((one[0] for one in self._state if one is not None), default=0)
        self._settled = time.time_ns() - newest > _SETTLED
        return not settled or self._state != before

    def _complain(self, text: str) -> None:
        problem = (self._state, text)
        if problem != self._problem:
            self._problem, self._said = problem, False
        elif not self._said:
            self._said = True
            _log.error("a change is not taken, what was read before stays in use: %s", text)


def read_bounded(path: Path, setting: str, limit: int) -> bytes:
    """Read a file that a setting names. Blocks.

    Raises:
        ConfigurationError: it cannot be read, or has more than ``limit`` bytes; the text names setting and file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{setting}: cannot read {path}: {error.strerror}", next_step="correct the path, or bring the file back"
        ) from None
    if len(data) > limit:
        raise ConfigurationError(f"{setting}: {path} has more than {limit} bytes", next_step="name the right file")
    return data


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
