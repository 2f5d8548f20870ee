"""Files that commands write: there whole or not at all, and tried before anything that cannot be undone."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from sealkeeper.client.cli.output import print_text
from sealkeeper.client.errors import USAGE, ClientError, FieldViolation

STDOUT = "-"
ROOM = 16 * 1024
"""Bytes that are kept free for a file before the work, so that a full disk is found out in time."""


class OutputFileError(ClientError):
    """A file cannot be written."""

    exit_code = USAGE
    reason = "OUTPUT_UNWRITABLE"

    def __init__(self, path: Path, option: str, problem: str, next_step: str = "") -> None:
        super().__init__(
            f"cannot write {path}: {problem}",
            next_step=next_step or f"name another place with {option}",
            violations=[FieldViolation(option, problem)],
        )


class OutputFile:
    """A place to write to, tried when it is made.

    A regular file is replaced whole; a symbolic link is followed; a device or a pipe is written to as it is; ``-`` is
    standard output. As a context manager, it leaves nothing behind where nothing was written.

    Args:
        path: where to.
        option: what named it, for errors.
        room: bytes to keep free on its disk.
        inputs: files that must not be overwritten.

    Raises:
        OutputFileError: it cannot be written, or is one of the inputs.
    """

    def __init__(self, path: Path, option: str = "--output", *, room: int = ROOM, inputs: Sequence[Path] = ()) -> None:
        self.path = path
        self._option = option
        self._target = path
        self._partial: Path | None = None
        if str(path) == STDOUT:
            return
        try:
            # The link stays, what it leads to is replaced.
            self._target = Path(os.path.realpath(path))
            self._prepare(room, inputs)
        except OSError as error:
            self._discard()
            raise OutputFileError(path, option, error.strerror or str(error)) from None

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def write(self, data: bytes) -> None:
        """Write everything; what was there before is there until all of it is.

        Raises:
            OutputFileError: it cannot be written.
        """
        if str(self.path) == STDOUT:
            print_text(data.decode().rstrip("\n"))
            return
        try:
            with (self._partial or self._target).open("wb" if self._partial is None else "r+b", buffering=0) as file:
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
                if self._partial is not None:
                    file.truncate()
                    os.fsync(file.fileno())
            if self._partial is not None:
                self._partial.replace(self._target)
                self._partial = None
        except OSError as error:
            raise OutputFileError(self.path, self._option, error.strerror or str(error)) from None

    def _prepare(self, room: int, inputs: Sequence[Path]) -> None:
        try:
            found = self._target.stat()
        except FileNotFoundError:
            found = None
        if found is not None and any(os.path.samestat(found, one.stat()) for one in inputs):
            raise OutputFileError(self.path, self._option, "it is one of the files that are read")
        if found is not None and stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(None, "it is a folder")
        if found is not None and not stat.S_ISREG(found.st_mode):
            if not os.access(self._target, os.W_OK):
                raise PermissionError(None, "permission denied")
            return
        # Short, so that it fits wherever the name itself does.
        partial = self._target.with_name(f".{os.urandom(4).hex()}")
        with partial.open("xb") as file:
            self._partial = partial
            if found is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(found.st_mode))
            _keep_free(file.fileno(), room)

    def _discard(self) -> None:
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)
            self._partial = None


def _keep_free(descriptor: int, room: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, room)
    except OSError as error:
        # Not every file system can.
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise


def write_file(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all.

    Raises:
        OutputFileError: it cannot be written.
    """
    with OutputFile(path, room=max(len(data), 1)) as file:
        file.write(data)
