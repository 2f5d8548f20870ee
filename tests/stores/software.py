"""A folder of sealed key files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def software(directory: Path) -> Iterator[str]:
    """A new folder's URI."""
    seal = directory / "seal"
    seal.write_text("5a" * 32)
    seal.chmod(0o600)
    yield f"software://{directory}/keys?sealing-key-source=file:{seal}"
