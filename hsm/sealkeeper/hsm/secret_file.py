"""Secrets in files: a PIN, a passphrase, a sealing key."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sealkeeper.hsm.errors import ProviderConfigurationError

MAX_SECRET = 4096


def read_secret(path: Path, what: str) -> bytes:
    """Read a secret file; one newline at its end is not part of the secret.

    Raises:
        ProviderConfigurationError: it cannot be read, is empty or too long, or others may read it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.read(MAX_SECRET + 1)
    except OSError as error:
        raise ProviderConfigurationError(
            f"the {what} file cannot be read: {error.strerror}", next_step=f"check that {path} exists and is ours"
        ) from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise ProviderConfigurationError(
            f"the {what} file is open to everybody on this machine", next_step=f"chmod 600 {path}"
        )
    secret = secret.removesuffix(b"\n").removesuffix(b"\r")
    if not secret or len(secret) > MAX_SECRET:
        raise ProviderConfigurationError(
            f"the {what} file is empty or longer than {MAX_SECRET} bytes",
            next_step=f"put nothing but the {what} into {path}",
        )
    return secret


def fingerprint(path: Path) -> str:
    """Tell whether a file is still the same one, without its content: inode, time of change and size."""
    try:
        status = path.stat()
    except OSError:
        return "absent"
    return f"{status.st_ino}:{status.st_mtime_ns}:{status.st_size}"
