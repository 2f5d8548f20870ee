"""A provider as the gateway uses it: by its name and region, measured, timed out, and left alone while it is down."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from sealkeeper.hsm import (
    Algorithm,
    ImportNotSupportedError,
    KeyDestroyer,
    KeyEvidence,
    KeyHandleError,
    KeyImporter,
    KeyProvider,
    KeyWitness,
    Origin,
    ProviderConfigurationError,
    ProviderError,
    ProviderInfo,
    ProviderKey,
    ProviderPermissionError,
    ProviderUnavailableError,
    SelfCheckError,
    WrapMethod,
    WrappingKey,
)
from sealkeeper.server.circuit_breaker import Circuit, CircuitBreaker
from sealkeeper.server.errors import CircuitOpenError, ConfigurationError, ProviderTimeoutError
from sealkeeper.server.status import reason_of
from sealkeeper.server.telemetry import Telemetry

T = TypeVar("T")
OUT_OF_REACH = (ProviderUnavailableError, ProviderConfigurationError, SelfCheckError, KeyHandleError)
"""Errors after which a standby version may sign: the key cannot be used where it is."""

_DOWN = (ProviderUnavailableError, ProviderConfigurationError, SelfCheckError)
_REMEMBERED = 100
_SLOW = 0.005
_SMOOTHING = 0.1
# Share of the timeout that one piece of many signatures may be expected to take.
_PIECE = 0.25
# Questions about keys that a store is asked at a time.
_READING = 4


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    """How a provider has been answering of late.

    Attributes:
        circuit: whether it is being used.
        latency: mean time of its newest operations; ``None`` before the first.
        error_rate: share of its newest operations that failed for want of an answer, 0 to 1.
        last_success: when it last did what it was asked, UTC.
        last_error: reason of its newest failure; empty where there was none since the last success.
        retry_after: until it is tried again; ``None`` unless the circuit is open.
    """

    circuit: Circuit
    latency: timedelta | None
    error_rate: float
    last_success: datetime | None
    last_error: str
    retry_after: timedelta | None


class ConfiguredProvider:
    """Passes everything on.

    Args:
        provider: does the work.
        name: of the provider in the settings.
        region: of the provider in the settings; empty where they do not say.
        timeout: for signatures.
        workers: that the provider has; one is left to those who sign while keys are being made, where there are two.
        telemetry: told of every operation.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        provider: KeyProvider,
        name: str,
        telemetry: Telemetry,
        *,
        region: str = "",
        timeout: timedelta = timedelta(seconds=20),
        workers: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._provider = provider
        self._region = region
        # Whether the store itself has said where it is, as far as the settings say something.
        self._placed = not region
        self._timeout = timeout.total_seconds()
        self._telemetry = telemetry
        self._clock = clock
        self._breaker = CircuitBreaker(clock)
        # Tokens take minutes to make a large RSA key: those who ask for them wait here, not in front of signatures.
        self._making = asyncio.Semaphore(max(1, workers - 1))
        self._reading = asyncio.Semaphore(_READING)
        # Of the newest operations: whether each failed for want of an answer.
        self._failures: deque[bool] = deque(maxlen=_REMEMBERED)
        self._latency: float | None = None
        self._sign_latency = 0.0
        self._last_success: datetime | None = None
        self._last_error = ""

    @property
    def info(self) -> ProviderInfo:
        """What the provider is and can do.

        Raises:
            ProviderUnavailableError: it has not been reached yet.
        """
        return self._provider.info

    @property
    def region(self) -> str:
        """Where it is: as the store says, or else the settings; empty where nobody says."""
        try:
            return self.info.region or self._region
        except ProviderUnavailableError:
            return self._region

    @property
    def available(self) -> bool:
        """Whether it would be asked now, rather than left alone."""
        return not self._breaker.refuses

    @property
    def slow(self) -> bool:
        """Whether it takes so long to sign that it is not worth waiting for others to sign with."""
        return self._sign_latency > _SLOW

    @property
    def health(self) -> ProviderHealth:
        """How it has been answering of late."""
        circuit, pause = self._breaker.circuit, self._breaker.pause
        return ProviderHealth(
            circuit,
            None if self._latency is None else timedelta(seconds=self._latency),
            sum(self._failures) / len(self._failures) if self._failures else 0.0,
            self._last_success,
            self._last_error,
            timedelta(seconds=pause) if circuit is Circuit.OPEN else None,
        )

    def require_region(self) -> None:
        """Refuse settings that say something else than the store.

        Raises:
            ConfigurationError: naming both regions.
        """
        if self._region and self.region != self._region:
            raise ConfigurationError(
                f"providers.{self.name}.region is {self._region}, but the key store is in {self.region}",
                next_step="correct the setting, or the provider's URI",
            )

    async def generate(self, label: str, algorithm: Algorithm) -> ProviderKey:
        """Make a key pair."""
        async with self._making:
            return await self._guarded("generate", lambda: self._provider.generate(label, algorithm))

    async def public_key(self, handle: str) -> ProviderKey:
        """Read a public key back."""
        return await self._guarded("public_key", lambda: self._provider.public_key(handle))

    async def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        """Sign each payload.

        Raises:
            ProviderTimeoutError: the provider did not answer in time.
            CircuitOpenError: it is being left alone.
        """
        started = self._clock()
        long = len(payloads) * self._sign_latency > self._timeout * _PIECE
        sign = self._sign_in_pieces if long else self._sign
        signatures = await self._guarded("sign", lambda: sign(handle, algorithm, payloads))
        each = (self._clock() - started) / max(1, len(payloads))
        self._sign_latency += (each - self._sign_latency) * _SMOOTHING
        return signatures

    async def _sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._provider.sign(handle, algorithm, payloads)
        except TimeoutError:
            raise self._late() from None

    async def _sign_in_pieces(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        """Sign what would take so long at once that others would wait for it, or that it would look like a fault."""
        size = max(1, int(self._timeout * _PIECE / self._sign_latency))
        signatures: list[bytes] = []
        for start in range(0, len(payloads), size):
            signatures += await self._sign(handle, algorithm, payloads[start : start + size])
        return signatures

    async def destroy(self, handle: str) -> None:
        """Destroy a key pair, where the provider can."""
        provider = self._provider
        if isinstance(provider, KeyDestroyer):
            await self._guarded("destroy", lambda: provider.destroy(handle))

    async def evidence(self, handle: str) -> KeyEvidence:
        """Read back what the store says of a private key."""
        provider = self._provider
        if not isinstance(provider, KeyWitness):
            return KeyEvidence(self.info.protection_level, Origin.UNKNOWN, None)
        async with self._reading:
            return await self._guarded("evidence", lambda: provider.evidence(handle))

    async def begin_import(self, label: str, algorithm: Algorithm) -> WrappingKey:
        """Have the store offer a wrapping key."""
        importer = self._importer()
        async with self._making:
            return await self._guarded("begin_import", lambda: importer.begin_import(label, algorithm))

    async def finish_import(
        self, state: bytes, label: str, algorithm: Algorithm, method: WrapMethod, wrapped: bytes, public_key: bytes
    ) -> ProviderKey:
        """Hand a wrapped private key to the store."""
        importer = self._importer()
        return await self._guarded(
            "finish_import", lambda: importer.finish_import(state, label, algorithm, method, wrapped, public_key)
        )

    async def end_import(self, state: bytes) -> None:
        """Remove what an import left in the store."""
        importer = self._importer()
        await self._guarded("end_import", lambda: importer.end_import(state))

    async def check(self) -> None:
        """Ask for a sign of life, even of one that is being left alone."""
        await self._observed("check", self._provider.check)

    async def close(self) -> None:
        """Let go of the store."""
        await self._provider.close()

    def _importer(self) -> KeyImporter:
        if isinstance(self._provider, KeyImporter) and self.info.wrap_methods:
            return self._provider
        raise ImportNotSupportedError(
            f"provider {self.name} takes no private keys from outside",
            next_step="import into another provider: sealkeeper providers list",
        )

    async def _guarded(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        if not self._breaker.enter():
            raise CircuitOpenError(
                f"provider {self.name} fails and is left alone for a while ({self._last_error})",
                next_step="retry after the time given; sealkeeper providers show tells how it is",
                retry_after=timedelta(seconds=max(self._breaker.pause, 0.1)),
            )
        try:
            if not self._placed:
                await self._require_place()
            answer = await self._observed(operation, work)
        except (ProviderPermissionError, SelfCheckError):
            # Such may be the fault of one key, and must not take the store away from the keys of others.
            self._breaker.succeeded()
            raise
        except _DOWN:
            self._breaker.failed()
            raise
        except ProviderError:
            # It answered, if only to refuse.
            self._breaker.succeeded()
            raise
        except BaseException:
            self._breaker.abandoned()
            raise
        self._breaker.succeeded()
        return answer

    def _late(self) -> ProviderTimeoutError:
        return ProviderTimeoutError(
            f"provider {self.name} did not answer within {self._timeout:g} s",
            next_step="look at the key store and the way to it; retry",
        )

    async def _require_place(self) -> None:
        """Have a store that was away when the gateway started say where it is, before it does anything there."""
        try:
            said = self.info.region
        except ProviderUnavailableError:
            try:
                async with asyncio.timeout(self._timeout):
                    await self.check()
            except TimeoutError:
                raise self._late() from None
            said = self.info.region
        if said and said != self._region:
            self._last_error = ProviderConfigurationError.reason
            raise ProviderConfigurationError(
                f"the settings say that provider {self.name} is in {self._region}, but its key store is in {said}",
                next_step=f"correct providers.{self.name}.region, or the provider's URI",
            )
        self._placed = True

    async def _observed(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        started, outcome = self._clock(), "OK"
        span = self._telemetry.start_span(f"provider {operation}", provider=self.name)
        try:
            return await work()
        except BaseException as error:
            outcome = reason_of(error)
            if isinstance(error, _DOWN):
                self._failures.append(True)
                self._last_error = outcome
            raise
        finally:
            seconds = self._clock() - started
            self._telemetry.end_span(span, outcome)
            self._telemetry.provider_operation(self.name, operation, outcome, seconds)
            if outcome == "OK":
                self._note_success(operation, seconds)

    def _note_success(self, operation: str, seconds: float) -> None:
        self._failures.append(False)
        self._last_error, self._last_success = "", datetime.now(UTC)
        if operation != "check":
            before = seconds if self._latency is None else self._latency
            self._latency = before + (seconds - before) * _SMOOTHING
