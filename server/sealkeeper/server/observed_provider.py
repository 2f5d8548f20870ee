"""A provider whose operations are measured and traced."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from sealkeeper.hsm import Algorithm, KeyDestroyer, KeyProvider, ProviderInfo, ProviderKey
from sealkeeper.server.status import reason_of
from sealkeeper.server.telemetry import Telemetry

T = TypeVar("T")


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
        return await self._observed("generate", self._provider.generate(label, algorithm))

    async def public_key(self, handle: str) -> ProviderKey:
        """Read a public key back."""
        return await self._observed("public_key", self._provider.public_key(handle))

    async def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        """Sign each payload."""
        return await self._observed("sign", self._provider.sign(handle, algorithm, payloads))

    async def destroy(self, handle: str) -> None:
        """Destroy a key pair, where the provider can."""
        if isinstance(self._provider, KeyDestroyer):
            await self._observed("destroy", self._provider.destroy(handle))

    async def check(self) -> None:
        """Ask for a sign of life."""
        await self._observed("check", self._provider.check())

    async def close(self) -> None:
        """Let go of the store."""
        await self._provider.close()

    async def _observed(self, operation: str, work: Awaitable[T]) -> T:
        started, outcome = time.perf_counter(), "OK"
        span = self._telemetry.start_span(f"provider {operation}", provider=self._name)
        try:
            return await work
        except BaseException as error:
            outcome = reason_of(error)
            raise
        finally:
            self._telemetry.end_span(span, outcome)
            self._telemetry.provider_operation(self._name, operation, outcome, time.perf_counter() - started)
