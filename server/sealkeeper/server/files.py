"""Files that are there whole or not at all, and what to say where that fails."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from sealkeeper.server.errors import ConfigurationError

_NEXT_STEPS = {
    errno.ENOSPC: "free space on that disk, or use another one",
    errno.EDQUOT: "raise the quota, or use another disk",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "use a disk that can be written to",
    errno.EACCES: "let the gateway's user read and write there",
    errno.EPERM: "let the gateway's user read and write there",
}


def unusable(error: OSError, folder: Path) -> ConfigurationError:
    """An error of the file system as a person should see it: with its path and what to do.

    Args:
        error: what the system said.
        folder: named where the system did not say which file it was about.
    """
    return ConfigurationError(
        f"{error.filename or folder}: {error.strerror or error}",
        next_step=_NEXT_STEPS.get(error.errno or 0, f"correct that, or use another folder than {folder}"),
    )


def write_file(path: Path, data: bytes, *, mode: int = 0o600, replace: bool = True) -> None:
    """Write a file durably and atomically.

    Args:
        path: in a folder that exists.
        data: its content.
        mode: its permissions, from the first moment on.
        replace: whether one that exists may be replaced.

    Raises:
        FileExistsError: it exists, and ``replace`` is False.
        OSError: it cannot be written; nothing is left behind, and it names the file.
    """
    try:
        _write_file(path, data, mode, replace=replace)
    except OSError as error:
        # Writing goes by numbers of open files, so the system does not say which one it was.
        error.filename = error.filename or str(path)
        raise


def _write_file(path: Path, data: bytes, mode: int, *, replace: bool) -> None:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            partial.replace(path)
        else:
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
