"""Bundles in files, by tenant and SHA-256: what is read is what was written, or nothing."""

from __future__ import annotations

import asyncio
import re
from hashlib import sha256
from pathlib import Path

from sealkeeper.server.errors import OverloadedError
from sealkeeper.server.files import write_file

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class BundleFiles:
    """Keeps bundles.

    Args:
        folder: of all of them; made when the first is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def keep(self, tenant: str, data: bytes) -> str:
        """Make a bundle durable; its digest, ``sha256:…``.

        Raises:
            OverloadedError: the disk did not take it.
        """
        return await asyncio.to_thread(self._keep, tenant, data)

    def _keep(self, tenant: str, data: bytes) -> str:
        digest = f"sha256:{sha256(data).hexdigest()}"
        if self.read(tenant, digest) is not None:
            return digest
        path = self._path(tenant, digest)
        try:
            path.parent.mkdir(0o700, parents=True, exist_ok=True)
            write_file(path, data)
        except OSError as error:
            raise OverloadedError(
                f"a bundle cannot be kept: {error.strerror}", reason="STORAGE_FULL", next_step="free space there"
            ) from None
        return digest

    def read(self, tenant: str, digest: str) -> bytes | None:
        """A bundle; ``None`` where it is not there, or is not what it was. Blocks.

        Args:
            tenant: whose.
            digest: ``sha256:…``.
        """
        try:
            data = self._path(tenant, digest).read_bytes()
        except OSError:
            return None
        return data if f"sha256:{sha256(data).hexdigest()}" == digest else None

    async def forget(self, tenant: str, digest: str) -> None:
        """Remove a bundle, where it is there."""
        await asyncio.to_thread(self._path(tenant, digest).unlink, missing_ok=True)

    def _path(self, tenant: str, digest: str) -> Path:
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise ValueError("not the digest of a bundle")
        return self._folder / tenant / match[1][:2] / match[1]
