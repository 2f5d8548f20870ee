"""Keeps a refused PIN from being tried again: a few mistakes lock a token for good.

Once a token has refused, nothing is sent to it until the PIN file changes. With a state folder that holds over restarts
too. What is kept is the file's fingerprint (inode, time of change, size), never the PIN.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from sealkeeper.hsm.errors import PinRefusedError
from sealkeeper.hsm.secret_file import fingerprint


class PinLatch:
    """Closed while the PIN file is the one that was refused.

    Args:
        uri: of the provider.
        pin_file: that the PIN is read from; ``None`` for a store without one.
        state_dir: where to keep the fingerprint; ``None`` to keep it in memory only.
    """

    def __init__(self, uri: str, pin_file: Path | None, state_dir: Path | None) -> None:
        self._pin_file = pin_file
        name = f"pin-refused-{sha256(uri.encode()).hexdigest()[:16]}"
        self._state_file = None if state_dir is None else state_dir / name
        self._refused: str | None = None
        if self._state_file is not None and self._state_file.exists():
            self._refused = self._state_file.read_text("ascii")

    def require_open(self) -> str:
        """Take the PIN file's fingerprint before it is read.

        Raises:
            PinRefusedError: this very file was refused.
        """
        if self._pin_file is None:
            return ""
        now = fingerprint(self._pin_file)
        if now == self._refused:
            raise PinRefusedError(
                "the token refused this PIN before; it was not tried again",
                next_step="correct the PIN file; it is tried again once the file has changed",
            )
        return now

    def shut(self, refused: str) -> None:
        """Remember that the PIN of a fingerprint was refused."""
        self._refused = refused
        if self._state_file is not None:
            self._state_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._state_file.write_text(refused, "ascii")

    def open(self) -> None:
        """Forget: the token took the PIN."""
        if self._refused is not None:
            self._refused = None
            if self._state_file is not None:
                self._state_file.unlink(missing_ok=True)
