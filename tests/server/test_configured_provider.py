"""A provider as the gateway uses it: timed out, left alone while it is down, and measured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest

from sealkeeper.hsm import (
    ALGORITHMS,
    Algorithm,
    AlgorithmNotSupportedError,
    ImportNotSupportedError,
    KeyEvidence,
    KeyHandleError,
    Origin,
    ProtectionLevel,
    ProviderConfigurationError,
    ProviderInfo,
    ProviderKey,
    ProviderPermissionError,
    ProviderSealedError,
    ProviderThrottledError,
    ProviderUnavailableError,
    SelfCheckError,
)
from sealkeeper.server.circuit_breaker import Circuit
from sealkeeper.server.configured_provider import ConfiguredProvider
from sealkeeper.server.errors import CircuitOpenError, ConfigurationError, ProviderTimeoutError
from sealkeeper.server.settings import TelemetrySettings
from sealkeeper.server.telemetry import Telemetry

P256 = ALGORITHMS["PKIX_ECDSA_P256_SHA_256"]
DOWN = (ProviderUnavailableError("away"), ProviderSealedError("sealed"), ProviderThrottledError("too fast"))


class Store:
    """A store that does what a test wants of it."""

    info = ProviderInfo("store", "of a test", ProtectionLevel.EXTERNAL, frozenset({P256.name}), "eu-central-1")
    error: Exception | None = None
    hangs = False
    asked = 0

    async def generate(self, label: str, algorithm: Algorithm) -> ProviderKey:
        await self.check()
        return ProviderKey(label, algorithm, b"")

    async def public_key(self, handle: str) -> ProviderKey:
        await self.check()
        return ProviderKey(handle, P256, b"")

    async def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        await self.check()
        return list(payloads)

    async def check(self) -> None:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        """There is nothing to let go of."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def provider(store: Store, clock: Clock) -> ConfiguredProvider:
    telemetry = Telemetry(TelemetrySettings(metrics_listen=None), "tests")
    return ConfiguredProvider(store, "main", telemetry, timeout=timedelta(milliseconds=20), clock=clock)


async def sign(provider: ConfiguredProvider) -> list[bytes]:
    return await provider.sign("k", P256, [b"x"])


async def failing(provider: ConfiguredProvider, kind: type[Exception], times: int = 3) -> None:
    for _ in range(times):
        with pytest.raises(kind):
            await sign(provider)


@pytest.mark.parametrize("error", DOWN)
async def test_a_store_that_is_down_is_left_alone_and_the_caller_hears_when_to_come_back(
    provider: ConfiguredProvider, store: Store, error: Exception
) -> None:
    store.error = error
    await failing(provider, type(error))
    asked = store.asked
    with pytest.raises(CircuitOpenError) as caught:
        await sign(provider)
    assert caught.value.retry_after == timedelta(seconds=1)
    assert error.reason in str(caught.value)  # type: ignore[attr-defined]
    assert store.asked == asked
    assert not provider.available
    assert provider.health.circuit is Circuit.OPEN
    assert provider.health.error_rate == 1.0


async def test_it_is_used_again_once_it_answers(provider: ConfiguredProvider, store: Store, clock: Clock) -> None:
    store.error = DOWN[0]
    await failing(provider, ProviderUnavailableError)
    store.error = None
    clock.now += 1
    assert provider.available
    assert await sign(provider) == [b"x"]
    assert provider.health.circuit is Circuit.CLOSED
    assert provider.health.last_error == ""
    assert provider.health.last_success is not None


@pytest.mark.parametrize("error", [KeyHandleError("none"), AlgorithmNotSupportedError("no")])
async def test_a_refusal_is_an_answer(provider: ConfiguredProvider, store: Store, error: Exception) -> None:
    store.error = error
    await failing(provider, type(error), 10)
    assert provider.available
    assert provider.health.error_rate == 0.0


@pytest.mark.parametrize("error", [ProviderPermissionError("not this key"), SelfCheckError("wrong")])
async def test_a_key_that_cannot_be_used_does_not_take_the_store_away_from_the_keys_of_others(
    provider: ConfiguredProvider, store: Store, error: Exception
) -> None:
    store.error = error
    await failing(provider, type(error), 10)
    assert provider.health.last_error == error.reason  # type: ignore[attr-defined]
    assert provider.health.error_rate == 1.0
    store.error = None
    assert await sign(provider) == [b"x"]


async def test_a_store_that_does_not_answer_in_time_is_not_waited_for(
    provider: ConfiguredProvider, store: Store
) -> None:
    store.hangs = True
    await failing(provider, ProviderTimeoutError)
    assert provider.health.circuit is Circuit.OPEN


async def test_a_caller_that_hangs_up_while_it_tries_does_not_shut_it_for_good(
    provider: ConfiguredProvider, store: Store, clock: Clock
) -> None:
    store.error = DOWN[0]
    await failing(provider, ProviderUnavailableError)
    clock.now += 1
    store.error, store.hangs = None, True
    trying = asyncio.create_task(provider.generate("k", P256))
    await asyncio.sleep(0)
    assert not provider.available
    assert (provider.health.circuit, provider.health.retry_after) == (Circuit.HALF_OPEN, None)
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    store.hangs = False
    assert await sign(provider) == [b"x"]


async def test_a_fault_nobody_foresaw_does_not_shut_it_for_good(
    provider: ConfiguredProvider, store: Store, clock: Clock
) -> None:
    store.error = DOWN[0]
    await failing(provider, ProviderUnavailableError)
    clock.now += 1
    store.error = ZeroDivisionError()
    await failing(provider, ZeroDivisionError, 1)
    store.error = None
    assert await sign(provider) == [b"x"]


async def test_what_a_store_cannot_do_is_said(provider: ConfiguredProvider) -> None:
    with pytest.raises(ImportNotSupportedError, match="main"):
        await provider.begin_import("k", P256)
    assert (await provider.evidence("k")).origin is Origin.UNKNOWN
    await provider.destroy("k")


def configured(store: Store, region: str) -> ConfiguredProvider:
    telemetry = Telemetry(TelemetrySettings(metrics_listen=None), "tests")
    return ConfiguredProvider(store, "main", telemetry, region=region)


def test_settings_that_say_another_region_than_the_store_are_refused(store: Store) -> None:
    with pytest.raises(ConfigurationError, match="eu-west-1, but the key store is in eu-central-1"):
        configured(store, "eu-west-1").require_region()
    configured(store, "eu-central-1").require_region()
    configured(store, "").require_region()


@pytest.mark.parametrize(
    ("region", "make"), [("eu-central-1", lambda: configured(Store(), "")), ("", lambda: configured(Lost(), ""))]
)
def test_the_store_says_where_it_is(region: str, make: Callable[[], ConfiguredProvider]) -> None:
    assert make().region == region


class Lost(Store):
    """A store that has never been reached."""

    @property
    def info(self) -> ProviderInfo:  # type: ignore[override]
        raise ProviderUnavailableError("not yet")


def test_a_store_that_was_never_reached_is_where_the_settings_say() -> None:
    lost = configured(Lost(), "eu-west-1")
    lost.require_region()
    assert lost.region == "eu-west-1"


class Busy(Store):
    """A store that makes keys and reads evidence until it is told to go on."""

    def __init__(self) -> None:
        self.at_once = self.most = 0
        self.go_on = asyncio.Event()

    async def _work(self) -> None:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await self.go_on.wait()
        self.at_once -= 1

    async def generate(self, label: str, algorithm: Algorithm) -> ProviderKey:
        await self._work()
        return ProviderKey(label, algorithm, b"")

    async def evidence(self, handle: str) -> KeyEvidence:
        await self._work()
        return KeyEvidence(ProtectionLevel.HSM, Origin.GENERATED, False)


@pytest.mark.parametrize(("workers", "making"), [(1, 1), (2, 1), (4, 3)])
async def test_keys_that_are_being_made_leave_a_worker_to_those_who_sign(workers: int, making: int) -> None:
    store = Busy()
    telemetry = Telemetry(TelemetrySettings(metrics_listen=None), "tests")
    provider = ConfiguredProvider(store, "main", telemetry, workers=workers)
    tasks = [asyncio.create_task(provider.generate(f"k{number}", P256)) for number in range(8)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert store.at_once == making
    store.go_on.set()
    assert len(await asyncio.gather(*tasks)) == 8
    assert store.most == making


async def test_a_flood_of_questions_about_keys_reaches_the_store_a_few_at_a_time() -> None:
    store = Busy()
    provider = configured(store, "")
    tasks = [asyncio.create_task(provider.evidence("k")) for _ in range(50)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert store.at_once == 4
    store.go_on.set()
    assert len(await asyncio.gather(*tasks)) == 50


class Late(Store):
    """A store that is reached only after the gateway has started."""

    reached = False
    signed = 0

    @property
    def info(self) -> ProviderInfo:  # type: ignore[override]
        if not self.reached:
            raise ProviderUnavailableError("not yet")
        return Store.info

    async def check(self) -> None:
        await super().check()
        self.reached = True

    async def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        self.reached = True
        self.signed += 1
        return list(payloads)


async def test_a_store_that_is_reached_late_and_is_elsewhere_than_the_settings_say_does_not_sign() -> None:
    store = Late()
    provider = configured(store, "eu-west-1")
    provider.require_region()
    await failing(provider, ProviderConfigurationError)
    assert store.signed == 0
    with pytest.raises(CircuitOpenError, match="PROVIDER_MISCONFIGURED"):
        await sign(provider)


async def test_a_store_that_is_reached_late_and_where_the_settings_say_signs() -> None:
    store = Late()
    provider = configured(store, "eu-central-1")
    assert [await sign(provider) for _ in range(2)] == [[b"x"]] * 2
    assert (store.signed, store.asked) == (2, 1)


class Slow(Store):
    """A store that takes a second over a signature."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lengths: list[int] = []

    async def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        self.clock.now += len(payloads)
        self.lengths.append(len(payloads))
        return list(payloads)


async def test_many_signatures_of_a_slow_store_are_asked_for_in_pieces_that_can_be_done_in_time(clock: Clock) -> None:
    store = Slow(clock)
    telemetry = Telemetry(TelemetrySettings(metrics_listen=None), "tests")
    provider = ConfiguredProvider(store, "main", telemetry, timeout=timedelta(seconds=20), clock=clock)
    for _ in range(100):
        await sign(provider)
    store.lengths.clear()
    payloads = [bytes([number]) for number in range(18)]
    assert await provider.sign("k", P256, payloads) == payloads
    assert len(store.lengths) > 3
    assert max(store.lengths) <= 20 / 4 + 1
