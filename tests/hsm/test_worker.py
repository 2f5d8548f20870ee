"""Worker processes: what happens when they die, and what they give away."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from sealkeeper.hsm import frames
from sealkeeper.hsm.algorithms import ALGORITHMS, load_public_key, signature_verifies
from sealkeeper.hsm.errors import (
    KeyHandleError,
    PayloadError,
    ProviderConfigurationError,
    ProviderUnavailableError,
    ProviderUriError,
)
from sealkeeper.hsm.provider import (
    Attestation,
    Diagnosis,
    KeyEvidence,
    Origin,
    ProtectionLevel,
    ProviderInfo,
    WrappingKey,
)
from sealkeeper.hsm.worker_provider import WorkerProvider, _Channel, _Pace, _Slot, open_provider

P256 = ALGORITHMS["PKIX_ECDSA_P256_SHA_256"]
DIGESTS = [sha256(bytes([n])).digest() for n in range(50)]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    seal = tmp_path / "seal"
    seal.write_text("5a" * 32)
    seal.chmod(0o600)
    return f"software://{tmp_path}/keys?sealing-key-source=file:{seal}"


@pytest.fixture
async def provider(uri: str) -> AsyncIterator[WorkerProvider]:
    opened = await open_provider(uri, workers=2)
    yield opened
    await opened.close()


class Clock:
    """A clock that tests set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(uri: str, workers: int, clock: Clock) -> AsyncIterator[WorkerProvider]:
    provider = WorkerProvider(uri, workers, clock=clock)
    await provider.start()
    try:
        yield provider
    finally:
        await provider.close()


def pids(provider: WorkerProvider) -> list[int]:
    return [slot.process.pid for slot in provider._slots if slot.process is not None]


async def test_concurrent_callers_each_get_their_own_signature(provider: WorkerProvider) -> None:
    key = await provider.generate("release", P256)
    signed = await asyncio.gather(*(provider.sign(key.handle, P256, [digest]) for digest in DIGESTS))
    public = load_public_key(P256, key.public_key)
    for digest, [signature] in zip(DIGESTS, signed, strict=True):
        assert signature_verifies(P256, public, digest, signature)


async def test_killed_workers_fail_what_they_had_and_are_replaced(provider: WorkerProvider) -> None:
    key = await provider.generate("release", P256)
    for pid in pids(provider):
        os.kill(pid, signal.SIGSTOP)
    under_way = [asyncio.ensure_future(provider.sign(key.handle, P256, [digest])) for digest in DIGESTS]
    await asyncio.sleep(0)
    for pid in pids(provider):
        os.kill(pid, signal.SIGKILL)
    outcomes = await asyncio.gather(*under_way, return_exceptions=True)
    assert all(isinstance(outcome, ProviderUnavailableError) for outcome in outcomes)
    [signature] = await provider.sign(key.handle, P256, DIGESTS[:1])
    assert signature_verifies(P256, load_public_key(P256, key.public_key), DIGESTS[0], signature)


async def test_a_cancelled_caller_does_not_disturb_the_next(provider: WorkerProvider) -> None:
    key = await provider.generate("release", P256)
    abandoned = asyncio.ensure_future(provider.sign(key.handle, P256, DIGESTS))
    await asyncio.sleep(0)
    abandoned.cancel()
    assert len(await provider.sign(key.handle, P256, DIGESTS[:3])) == 3


async def test_no_worker_signs_with_a_key_that_another_has_destroyed(provider: WorkerProvider) -> None:
    key = await provider.generate("release", P256)
    for slot in provider._slots:
        assert slot.channel is not None
        await slot.channel.ask(frames.Sign(slot.channel.number(), key.handle, P256.name, DIGESTS[:1]))
    await provider.destroy(key.handle)
    for slot in provider._slots:
        assert slot.channel is not None
        answer = await slot.channel.ask(frames.Sign(slot.channel.number(), key.handle, P256.name, DIGESTS[:1]))
        assert isinstance(answer, frames.Failed)


async def test_a_wrong_digest_length_is_refused_before_anything_is_signed(provider: WorkerProvider) -> None:
    key = await provider.generate("release", P256)
    with pytest.raises(PayloadError, match="payload 1 has 31 bytes"):
        await provider.sign(key.handle, P256, [DIGESTS[0], DIGESTS[1][:31]])


async def test_an_error_keeps_its_kind_over_the_socket(provider: WorkerProvider) -> None:
    with pytest.raises(KeyHandleError):
        await provider.public_key("0" * 32)


async def test_what_is_on_the_command_line_names_no_store(provider: WorkerProvider, tmp_path: Path) -> None:
    for pid in pids(provider):
        assert str(tmp_path).encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_a_closed_provider_refuses_and_closes_twice_and_leaves_no_process(uri: str) -> None:
    provider = await open_provider(uri)
    [pid] = pids(provider)
    await provider.close()
    await provider.close()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(ProviderUnavailableError, match="closed"):
        await provider.check()


async def test_a_store_that_cannot_be_opened_says_why(uri: str, tmp_path: Path) -> None:
    (tmp_path / "seal").chmod(0o644)
    with pytest.raises(ProviderConfigurationError, match="open to everybody"):
        await open_provider(uri, workers=2)
    with pytest.raises(ProviderUriError, match="ftp"):
        await open_provider("ftp://store")


async def test_a_worker_that_hangs_gets_no_more_requests_while_another_is_free(uri: str) -> None:
    clock = Clock()
    async with opened(uri, 2, clock) as provider:
        key = await provider.generate("release", P256)
        first, _ = pids(provider)
        os.kill(first, signal.SIGSTOP)
        stuck = asyncio.ensure_future(provider.sign(key.handle, P256, DIGESTS))
        await asyncio.sleep(0)
        clock.now += 1
        for digest in DIGESTS:
            assert len(await provider.sign(key.handle, P256, [digest])) == 1
        assert not stuck.done()
        os.kill(first, signal.SIGCONT)
        assert len(await stuck) == len(DIGESTS)


async def test_requests_of_a_moment_share_a_worker_and_those_that_would_wait_do_not(uri: str) -> None:
    clock = Clock()
    async with opened(uri, 2, clock) as provider:
        key = await provider.generate("release", P256)
        asked = [asyncio.ensure_future(provider.sign(key.handle, P256, [digest])) for digest in DIGESTS[:3]]
        await asyncio.sleep(0)
        assert [slot.load for slot in provider._slots] == [3, 0]
        clock.now += 1
        await asyncio.gather(*asked)
        asked = [asyncio.ensure_future(provider.sign(key.handle, P256, [digest])) for digest in DIGESTS[:4]]
        await asyncio.sleep(0)
        assert [slot.load for slot in provider._slots] == [2, 2]
        await asyncio.gather(*asked)


async def test_while_a_store_that_cannot_be_opened_is_left_alone_the_reason_is_told(uri: str, tmp_path: Path) -> None:
    clock = Clock()
    async with opened(uri, 1, clock) as provider:
        folder = tmp_path / "keys"
        folder.rename(tmp_path / "elsewhere")
        folder.write_text("not a folder")
        for pid in pids(provider):
            os.kill(pid, signal.SIGKILL)
        told = []
        for _ in range(6):
            with pytest.raises(ProviderUnavailableError) as caught:
                await provider.check()
            told.append(caught.value)
        assert "key folder cannot be used" in str(told[-1])
        assert told[-1].retry_after is not None


async def test_a_worker_that_has_lived_for_long_is_replaced_at_once(uri: str) -> None:
    clock = Clock()
    async with opened(uri, 1, clock) as provider:
        for _ in range(12):
            clock.now += 61
            [pid] = pids(provider)
            os.kill(pid, signal.SIGKILL)
            with suppress(ProviderUnavailableError):
                await provider.check()
            await provider.check()


async def test_a_worker_that_hangs_is_ended_and_replaced(uri: str) -> None:
    clock = Clock()
    async with opened(uri, 1, clock) as provider:
        key = await provider.generate("release", P256)
        [hung] = pids(provider)
        os.kill(hung, signal.SIGSTOP)
        stuck = asyncio.ensure_future(provider.sign(key.handle, P256, DIGESTS))
        await asyncio.sleep(0)
        clock.now += 59
        provider.end_hung_workers()
        assert pids(provider) == [hung]
        clock.now += 2
        provider.end_hung_workers()
        with pytest.raises(ProviderUnavailableError):
            await stuck
        assert len(await provider.sign(key.handle, P256, DIGESTS)) == len(DIGESTS)
        assert pids(provider) != [hung]


async def killed(slot: _Slot) -> None:
    assert slot.process is not None
    slot.process.kill()
    while slot.channel is not None and slot.channel.alive:
        await asyncio.sleep(0)


async def test_who_asks_while_a_worker_opens_its_store_is_told_what_became_of_that(uri: str, tmp_path: Path) -> None:
    async with opened(uri, 1, Clock()) as provider:
        key = await provider.generate("release", P256)
        [slot] = provider._slots
        (tmp_path / "seal").chmod(0o644)
        await killed(slot)
        first = asyncio.ensure_future(provider.sign(key.handle, P256, DIGESTS[:1]))
        while slot.channel is None or not slot.channel.alive:
            await asyncio.sleep(0)
        second = asyncio.ensure_future(provider.sign(key.handle, P256, DIGESTS[:1]))
        for outcome in await asyncio.gather(first, second, return_exceptions=True):
            assert isinstance(outcome, ProviderUnavailableError)
            assert "open to everybody" in str(outcome)


async def test_a_worker_that_cannot_be_replaced_fails_nobody_while_another_serves(uri: str, tmp_path: Path) -> None:
    clock = Clock()
    async with opened(uri, 2, clock) as provider:
        key = await provider.generate("release", P256)
        (tmp_path / "seal").chmod(0o644)
        await killed(provider._slots[0])
        for digest in DIGESTS:
            assert len(await provider.sign(key.handle, P256, [digest])) == 1
        (tmp_path / "seal").chmod(0o600)
        while provider._slots[0].ready is None:
            clock.now += 5
            assert len(await provider.sign(key.handle, P256, DIGESTS[:1])) == 1


async def test_a_key_is_destroyed_while_another_worker_cannot_be_started(uri: str, tmp_path: Path) -> None:
    provider = await open_provider(uri, workers=2)
    try:
        key = await provider.generate("release", P256)
        [_, other] = provider._slots
        await killed(other)
        (tmp_path / "seal").chmod(0o644)
        starting = asyncio.ensure_future(provider._channel(other))
        while other.channel is None or not other.channel.alive:
            await asyncio.sleep(0)
        await provider.destroy(key.handle)
        with pytest.raises(ProviderUnavailableError):
            await starting
        with pytest.raises(KeyHandleError):
            await provider.public_key(key.handle)
    finally:
        await provider.close()


async def test_a_worker_that_does_not_go_is_ended_before_another_takes_its_place(uri: str) -> None:
    async with opened(uri, 1, Clock()) as provider:
        key = await provider.generate("release", P256)
        [slot], [hung] = provider._slots, pids(provider)
        os.kill(hung, signal.SIGSTOP)
        assert slot.channel is not None
        # As where it has answered what is no frame.
        slot.channel.close()
        async with asyncio.timeout(20):
            assert len(await provider.sign(key.handle, P256, DIGESTS)) == len(DIGESTS)
        assert not Path(f"/proc/{hung}").exists()


LONG = "x" * 70_000
ATTESTATION = Attestation("V1", bytes(40_000))
INFO = ProviderInfo("software", LONG, ProtectionLevel.SOFTWARE, frozenset())


@pytest.mark.parametrize(
    "answer",
    [
        frames.Key(1, "h" * 513, P256.name, b""),
        frames.Key(1, "\x1b", P256.name, b""),
        frames.Key(1, "h", P256.name, bytes(70_000)),
        frames.Witnessed(1, KeyEvidence(ProtectionLevel.HSM, Origin.UNKNOWN, None, {"claim": LONG})),
        frames.Witnessed(1, KeyEvidence(ProtectionLevel.HSM, Origin.UNKNOWN, None, {str(n): "" for n in range(65)})),
        frames.Witnessed(1, KeyEvidence(ProtectionLevel.HSM, Origin.UNKNOWN, None, {}, ATTESTATION)),
        frames.Offered(1, WrappingKey(bytes(16 * 1024 + 1), b"", ())),
        frames.Offered(1, WrappingKey(b"", bytes(70_000), ())),
        frames.Offered(1, WrappingKey(b"", b"", (), None, Attestation("V1", b"", (b"",) * 17))),
        frames.Opened(1, INFO),
        frames.Diagnosed(1, [Diagnosis(LONG, passed=True)]),
    ],
)
async def test_answers_longer_than_a_stores_can_be_are_not_passed_on(
    provider: WorkerProvider, answer: frames.Response, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(_: object, __: frames.Request) -> frames.Response:
        return answer

    monkeypatch.setattr(_Channel, "ask", ask)
    with pytest.raises(ProviderUnavailableError, match="what was not asked"):
        await provider._ask(frames.Check)


async def test_an_error_of_any_length_is_cut(provider: WorkerProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(_: object, request: frames.Request) -> frames.Response:
        return frames.Failed(request.id, "PROVIDER_UNAVAILABLE", LONG, LONG, timedelta(days=10**6))

    monkeypatch.setattr(_Channel, "ask", ask)
    with pytest.raises(ProviderUnavailableError) as error:
        await provider.check()
    assert len(str(error.value)) + len(error.value.next_step) < 4096
    assert error.value.retry_after == timedelta(hours=1)


async def test_one_request_that_hangs_is_noticed_though_others_are_answered() -> None:
    clock = Clock()
    channel = _Channel(_Pace(clock))
    hung, *others = (frames.Sign(number, "key", P256.name, DIGESTS[:1]) for number in range(47))
    answers = [channel.ask(hung)]
    for other in others:
        clock.now += 13
        # As by the threads of a store across a network.
        assert not channel.overdue
        answers.append(channel.ask(other))
        channel._answer([frames.Signed(other.id, [b""])])
    clock.now += 13
    assert channel.overdue
    channel._answer([frames.Signed(hung.id, [b""])])
    assert not channel.overdue
    assert all(answer.done() for answer in answers)


async def test_answers_larger_than_a_frame_come_in_several(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealkeeper.hsm.frames.MAX_FRAME", 6 * 1024 * 1024)
    ml_dsa = ALGORITHMS["ML_DSA_87"]
    async with opened(uri, 1, Clock()) as provider:
        key = await provider.generate("release", ml_dsa)
        asked = [provider.sign(key.handle, ml_dsa, [b"x"] * 16) for _ in range(100)]
        answers = await asyncio.gather(*asked)
    assert sum(len(one) for answer in answers for one in answer) > 6 * 1024 * 1024


async def test_a_long_request_does_not_hold_up_a_short_one(uri: str) -> None:
    provider = await open_provider(uri, workers=1)
    try:
        key = await provider.generate("release", P256)
        order: list[str] = []

        async def sign(name: str, count: int) -> None:
            await provider.sign(key.handle, P256, [DIGESTS[0]] * count)
            order.append(name)

        await asyncio.gather(sign("long", 2000), sign("middle", 200), sign("short", 1))
        assert order == ["short", "middle", "long"]
    finally:
        await provider.close()
