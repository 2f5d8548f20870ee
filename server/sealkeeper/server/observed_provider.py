"""A provider whose operations are measured and traced."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sealkeeper.hsm import Algorithm, KeyDestroyer, KeyProvider, ProviderInfo, ProviderKey
from sealkeeper.server.status import reason_of
from sealkeeper.server.telemetry import Telemetry


class ObservedProvider:
    """Passes everything on.

    Args:
        provider: does the work.
        name: of the provider in the settings.
        telemetry: told of every operation.
    """

    def __init__(self, provider: KeyProvider, name: str, telemetry: Telemetry) -> None:
        self._provider = provider
        self._name = name
        self._telemetry = telemetry

    @property
    def info(self) -> ProviderInfo:
        """What the provider is and can do."""
        return self._provider.info

    async def generate(self, label: str, algorithm: Algorithm) -> ProviderKey:
        """Make a key pair."""
        with self._observed("generate"):
            return await self._provider.generate(label, algorithm)

    async def public_key(self, handle: str) -> ProviderKey:
        """Read a public key back."""
        with self._observed("public_key"):
            return await self._provider.public_key(handle)

    async def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        """Sign each payload."""
        with self._observed("sign"):
            return await self._provider.sign(handle, algorithm, payloads)

    async def destroy(self, handle: str) -> None:
        """Destroy a key pair, where the provider can."""
        if isinstance(self._provider, KeyDestroyer):
            with self._observed("destroy"):
                await self._provider.destroy(handle)

    async def check(self) -> None:
        """Ask for a sign of life."""
        with self._observed("check"):
            await self._provider.check()

    async def close(self) -> None:
        """Let go of the store."""
        await self._provider.close()

    @contextmanager
    def _observed(self, operation: str) -> Iterator[None]:
        started, outcome = time.perf_counter(), "OK"
        with self._telemetry.span(f"provider {operation}", provider=self._name) as span:
            try:
                yield
            except BaseException as error:
                outcome = reason_of(error)
                raise
            finally:
                span.set_attribute("outcome", outcome)
                self._telemetry.provider_operation(self._name, operation, outcome, time.perf_counter() - started)
