"""A ``KeyProvider`` over worker processes that host a blocking backend.

Private keys and vendors' libraries stay out of the gateway's process, and signing uses other cores. Requests made in
one turn of the event loop travel in one frame, to the first worker that is free or soon will be: a fast store is woken
rarely, the calls of a slow one are spread, and one that hangs gets no more. A worker that dies fails the requests that
it had; it is replaced when the next request comes, after a pause that grows while it keeps dying. Requests wait for
that only where no other worker is left.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import cast

import msgspec

from sealkeeper.hsm import errors, frames
from sealkeeper.hsm.algorithms import Algorithm, algorithm_named
from sealkeeper.hsm.backend import check_payloads
from sealkeeper.hsm.errors import (
    PayloadError,
    PinRefusedError,
    ProviderConfigurationError,
    ProviderError,
    ProviderUnavailableError,
)
from sealkeeper.hsm.pin_latch import PinLatch
from sealkeeper.hsm.provider import Diagnosis, KeyEvidence, ProviderInfo, ProviderKey, WrapMethod, WrappingKey
from sealkeeper.hsm.registry import pin_file_of, require_known_scheme
from sealkeeper.hsm.worker_answers import MAX_TEXT, MAX_WAIT, is_bounded

MAX_PENDING = 20_000
_FRAME_BYTES = 8 * 1024 * 1024
_MOMENT = 0.001
_LONG = 0.01
_PATIENCE = 60.0
_LONG_PATIENCE = 600.0
_WATCH_INTERVAL = 1.0
_FAREWELL = 1.0
_LONG_LIFE = 60.0
_SMOOTHING = 0.1
_PAUSES = (0.0, 0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
_ERRORS = {
    kind.reason: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ProviderError)
}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that waits: its answer, how many signatures it asks for, and within how many seconds."""

    answer: asyncio.Future[frames.Response]
    amount: int
    patience: float

    @classmethod
    def of(cls, request: frames.Request, answer: asyncio.Future[frames.Response]) -> _Asked:
        if isinstance(request, frames.Sign):
            return cls(answer, len(request.payloads), _PATIENCE)
        # Tokens take minutes to find large primes, those of wrapping keys among them.
        slow = isinstance(request, (frames.Generate, frames.BeginImport, frames.Open))
        return cls(answer, 1, _LONG_PATIENCE if slow else _PATIENCE)


class _Pace:
    """How quickly a store signs: seconds a signature, smoothed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.seconds = 0.0

    def observe(self, seconds: float) -> None:
        self.seconds += (seconds - self.seconds) * _SMOOTHING


class _Channel(asyncio.Protocol):
    """One worker's socket: requests out, answers in, and how quickly they come."""

    def __init__(self, pace: _Pace) -> None:
        # By request, in their order.
        self.waiting: dict[int, _Asked] = {}
        self.alive = True
        self._pace = pace
        # Signatures that they ask for all together; other requests count as one.
        self._backlog = 0
        # Since when the worker has been at the next one.
        self._since = 0.0
        # Since when the oldest has been that: threads of a worker answer others past it.
        self._oldest_since = 0.0
        self._loop = asyncio.get_running_loop()
        self._outbox: list[frames.Request] = []
        self._reader = frames.FrameReader()
        self._transport: asyncio.WriteTransport | None = None
        self._number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def number(self) -> int:
        self._number += 1
        return self._number

    def ask(self, request: frames.Request) -> asyncio.Future[frames.Response]:
        future: asyncio.Future[frames.Response] = self._loop.create_future()
        if not self.alive:
            future.set_exception(_died())
            return future
        asked = self.waiting[request.id] = _Asked.of(request, future)
        if not self._backlog:
            self._since = self._oldest_since = self._pace.clock()
        self._backlog += asked.amount
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(request)
        return future

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if self._transport is None or not self.alive:
            return
        start = size = 0
        for place, request in enumerate(outbox):
            if isinstance(request, frames.Sign):
                size += sum(map(len, request.payloads))
            if size > _FRAME_BYTES:
                self._transport.write(frames.frame(outbox[start : place + 1]))
                start, size = place + 1, 0
        if start < len(outbox):
            self._transport.write(frames.frame(outbox[start:]))

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._reader.feed(data):
                self._answer(frames.responses.decode(body))
        except (frames.FrameError, msgspec.MsgspecError):
            # What does not speak the protocol is not trusted with another word.
            self.close()

    def _answer(self, responses: Sequence[frames.Response]) -> None:
        now, done = self._pace.clock(), 0
        oldest = next(iter(self.waiting), None)
        for response in responses:
            asked = self.waiting.pop(response.id, None)
            if asked is None:
                continue
            done += asked.amount
            if not asked.answer.done():
                asked.answer.set_result(response)
        if done:
            self._pace.observe((now - self._since) / done)
        self._backlog -= done
        self._since = now
        if next(iter(self.waiting), None) != oldest:
            self._oldest_since = now

    @property
    def delay(self) -> float:
        """Seconds until a request made now is begun: as far as can be told from those before it."""
        return max(self._backlog * self._pace.seconds, self._pace.clock() - self._since) if self._backlog else 0.0

    @property
    def overdue(self) -> bool:
        """Whether the worker has been silent for longer than any store takes, or one of its threads has."""
        if not self._backlog:
            return False
        now, oldest = self._pace.clock(), next(iter(self.waiting.values()))
        return now - self._since > oldest.patience or now - self._oldest_since > _LONG_PATIENCE

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        waiting, self.waiting = self.waiting, {}
        for asked in waiting.values():
            if not asked.answer.done():
                asked.answer.set_exception(_died())
                asked.answer.exception()

    def close(self) -> None:
        self.alive = False
        if self._transport is not None:
            self._transport.abort()


class _Slot:
    """The place of one worker: its process now, and when it may be replaced."""

    def __init__(self) -> None:
        self.channel: _Channel | None = None
        self.process: Process | None = None
        self.starting: asyncio.Task[_Channel] | None = None
        # Starts since a worker has lived for long; the pauses before the next grow with them.
        self.deaths = 0
        self.not_before = 0.0
        self.opened = 0.0
        # Why the newest start failed; told while the next one has to wait.
        self.refusal: ProviderError | None = None

    @property
    def ready(self) -> _Channel | None:
        """The channel of a worker that has its store open: until then it could only say that it has none."""
        return self.channel if self.channel is not None and self.channel.alive and self.starting is None else None

    @property
    def load(self) -> int:
        return len(self.channel.waiting) if self.channel is not None and self.channel.alive else 0

    @property
    def delay(self) -> float:
        return self.channel.delay if self.channel is not None and self.channel.alive else 0.0


class WorkerProvider:
    """A store in worker processes; made by ``open_provider``."""

    def __init__(
        self,
        uri: str,
        workers: int,
        state_dir: Path | None = None,
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        require_known_scheme(uri)
        self._environment = {**os.environ, **(environment or {})}
        self._uri = uri
        self._latch = PinLatch(uri, pin_file_of(uri), state_dir)
        # One worker opens the store at a time, so that a PIN gone wrong is sent once and not once a worker.
        self._opening = asyncio.Lock()
        self._slots = [_Slot() for _ in range(workers)]
        self._clock = clock
        self._pace = _Pace(clock)
        self._closed = False
        self._info: ProviderInfo | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self, *, patient: bool = False) -> None:
        """Open the store: one worker first, whose refusal ends it (a wrong PIN is tried once), then the others.

        Args:
            patient: a store that cannot be reached now is opened when it is first asked for something.
        """
        self._watching = asyncio.create_task(self._watch(), name="key-workers")
        try:
            await self._channel(self._slots[0])
            await asyncio.gather(*(self._channel(slot) for slot in self._slots[1:]))
        except ProviderUnavailableError:
            if not patient:
                await self.close()
                raise
        except BaseException:
            await self.close()
            raise

    @property
    def info(self) -> ProviderInfo:
        """What the store is and can do."""
        if self._info is None:
            raise ProviderUnavailableError("the key store has not been reached yet", next_step="look at the store")
        return self._info

    async def generate(self, label: str, algorithm: Algorithm) -> ProviderKey:
        """Make a key pair."""
        return await self._ask_for_key(lambda number: frames.Generate(number, label, algorithm.name))

    async def public_key(self, handle: str) -> ProviderKey:
        """Read a public key."""
        return await self._ask_for_key(lambda number: frames.Read(number, handle))

    async def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        """Sign payloads."""
        check_payloads(algorithm, payloads, self._info)
        if sum(map(len, payloads)) > frames.MAX_REQUEST:
            raise PayloadError(f"the payloads together are longer than {frames.MAX_REQUEST} bytes")
        # A slow store's many payloads go to several of its workers at once.
        parts = min(len(self._slots), len(payloads), int(len(payloads) * self._pace.seconds / _LONG))
        if parts < 2:
            return await self._sign(handle, algorithm, payloads)
        size = -(-len(payloads) // parts)
        signed = await asyncio.gather(
            *(self._sign(handle, algorithm, payloads[at : at + size]) for at in range(0, len(payloads), size))
        )
        return [signature for part in signed for signature in part]

    async def _sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        response = await self._ask(lambda number: frames.Sign(number, handle, algorithm.name, list(payloads)))
        if not isinstance(response, frames.Signed) or len(response.signatures) != len(payloads):
            raise _nonsense()
        return response.signatures

    async def destroy(self, handle: str) -> None:
        """Destroy a key pair. Every worker is told: one that has the key open could go on signing with it."""
        await self._ask(lambda number: frames.Destroy(number, handle))
        channels = [channel for slot in self._slots if (channel := slot.ready) is not None]
        told = [channel.ask(frames.Destroy(channel.number(), handle)) for channel in channels]
        for response in await asyncio.gather(*told, return_exceptions=True):
            # One that has ended in the meantime has nothing open any more.
            if isinstance(response, frames.Failed):
                raise _error(response)

    async def evidence(self, handle: str) -> KeyEvidence:
        """Read back what the store says of a private key."""
        response = await self._ask(lambda number: frames.Witness(number, handle))
        if not isinstance(response, frames.Witnessed):
            raise _nonsense()
        return response.evidence

    async def begin_import(self, label: str, algorithm: Algorithm) -> WrappingKey:
        """Have the store offer a wrapping key."""
        response = await self._ask(lambda number: frames.BeginImport(number, label, algorithm.name))
        if not isinstance(response, frames.Offered):
            raise _nonsense()
        return response.wrapping_key

    async def finish_import(
        self, state: bytes, label: str, algorithm: Algorithm, method: WrapMethod, wrapped: bytes, public_key: bytes
    ) -> ProviderKey:
        """Hand a wrapped private key to the store."""
        return await self._ask_for_key(
            lambda number: frames.FinishImport(number, state, label, algorithm.name, method, wrapped, public_key)
        )

    async def end_import(self, state: bytes) -> None:
        """Remove what an import left in the store."""
        await self._ask(lambda number: frames.EndImport(number, state))

    async def check(self) -> None:
        """Give a sign of life."""
        await self._ask(frames.Check)

    async def diagnose(self) -> list[Diagnosis]:
        """What the store says of how it is set up for the gateway; nothing where it does not tell.

        Raises:
            ProviderError: it could not be asked.
        """
        response = await self._ask(frames.Diagnose)
        if not isinstance(response, frames.Diagnosed):
            raise _nonsense()
        return response.diagnoses

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            self.end_hung_workers()

    def end_hung_workers(self) -> None:
        """End workers that have not answered for a minute, or for ten where they make a key: others take over."""
        for slot in self._slots:
            if slot.channel is not None and slot.channel.alive and slot.channel.overdue and slot.process is not None:
                slot.channel.close()
                slot.process.kill()

    async def close(self) -> None:
        """End the workers. They have a second to log out of their stores."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
        for slot in self._slots:
            if slot.starting is not None:
                slot.starting.cancel()
            if slot.channel is not None:
                slot.channel.close()
        await asyncio.gather(*(_ended(slot.process) for slot in self._slots if slot.process is not None))

    async def _ask_for_key(self, request: Callable[[int], frames.Request]) -> ProviderKey:
        response = await self._ask(request)
        if not isinstance(response, frames.Key):
            raise _nonsense()
        return ProviderKey(response.handle, algorithm_named(response.algorithm), response.public_key)

    async def _ask(self, request: Callable[[int], frames.Request]) -> frames.Response:
        slot = self._choose()
        if slot.load >= MAX_PENDING:
            raise ProviderUnavailableError("too many requests wait for the key store", next_step="try again later")
        channel = slot.ready or await self._channel(slot)
        response = await channel.ask(request(channel.number()))
        if isinstance(response, frames.Failed):
            raise _error(response)
        if not isinstance(response, frames.Signed) and not is_bounded(response):
            raise _nonsense()
        return response

    def _choose(self) -> _Slot:
        ready = [slot for slot in self._slots if slot.ready is not None]
        if len(ready) < len(self._slots):
            if not ready:
                return min(self._slots, key=lambda one: one.not_before)
            # Replaced meanwhile: it may take long, or fail.
            for slot in self._slots:
                if slot.ready is None and slot.starting is None and self._clock() >= slot.not_before:
                    self._begin(slot)
        # To wake another worker costs more than to wait for one that is at it only for a moment.
        for slot in ready:
            if slot.delay < _MOMENT:
                return slot
        return min(ready, key=lambda one: one.delay)

    async def _channel(self, slot: _Slot) -> _Channel:
        if self._closed:
            raise ProviderUnavailableError("the provider is closed")
        if slot.ready is not None:
            return slot.ready
        if slot.starting is None:
            pause = slot.not_before - self._clock()
            if pause > 0:
                raise _paused(slot.refusal, timedelta(seconds=pause))
            self._begin(slot)
        assert slot.starting is not None  # noqa: S101  (just begun, if not before)
        # Shielded: a caller that gives up must not take the start away from the others.
        return await asyncio.shield(slot.starting)

    def _begin(self, slot: _Slot) -> None:
        slot.starting = asyncio.create_task(self._start_worker(slot))
        # Whoever waits for it is told how it went; there may be nobody.
        slot.starting.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _start_worker(self, slot: _Slot) -> _Channel:
        if slot.opened and self._clock() - slot.opened > _LONG_LIFE:
            slot.deaths = 0
        slot.not_before = self._clock() + _PAUSES[min(slot.deaths, len(_PAUSES) - 1)]
        slot.deaths += 1
        try:
            if slot.process is not None:
                await _ended(slot.process)
            async with self._opening:
                tried = self._latch.require_open()
                slot.process, channel = await _spawn(self._environment, self._pace)
                slot.channel = channel
                response = await channel.ask(frames.Open(channel.number(), self._uri))
                if isinstance(response, frames.Failed):
                    channel.close()
                    slot.refusal = self._refusal(_error(response), tried)
                    raise slot.refusal
            if not isinstance(response, frames.Opened) or not is_bounded(response):
                channel.close()
                raise _nonsense()
            self._latch.open()
            slot.opened, slot.refusal = self._clock(), None
            self._info = response.info
            return channel
        finally:
            slot.starting = None

    def _refusal(self, error: ProviderError, tried: str) -> ProviderError:
        if isinstance(error, PinRefusedError):
            self._latch.shut(tried)
        elif isinstance(error, ProviderConfigurationError) and self._info is not None:
            # It was open before, so what is wrong now may pass: a token that was taken out comes back.
            return ProviderUnavailableError(str(error), next_step=error.next_step)
        return error


async def _ended(process: Process) -> None:
    """Wait for a worker whose socket is closed; one that does not go by itself is ended."""
    try:
        async with asyncio.timeout(_FAREWELL):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _spawn(environment: Mapping[str, str], pace: _Pace) -> tuple[Process, _Channel]:
    ours, theirs = socket.socketpair()
    with theirs:
        # -P: what lies in the working directory is not imported. The URI travels over the socket, never in argv.
        command = (sys.executable, "-P", "-m", "sealkeeper.hsm.worker", str(theirs.fileno()), str(os.getpid()))
        try:
            process = await asyncio.create_subprocess_exec(
                *command, pass_fds=(theirs.fileno(),), stdin=DEVNULL, stdout=DEVNULL, env=environment
            )
        except BaseException:
            ours.close()
            raise
    ours.setblocking(False)
    _, channel = await asyncio.get_running_loop().create_connection(lambda: _Channel(pace), sock=ours)
    return process, channel


def _error(failed: frames.Failed) -> ProviderError:
    kind = _ERRORS.get(failed.reason, ProviderError)
    wait = failed.retry_after
    if wait is not None:
        wait = max(timedelta(), min(wait, MAX_WAIT))
    return kind(failed.message[:MAX_TEXT], next_step=failed.next_step[:MAX_TEXT], retry_after=wait)


def _paused(refusal: ProviderError | None, pause: timedelta) -> ProviderError:
    """What is said while a worker that failed is not started again yet: why it failed, and when to come back."""
    if refusal is None:
        return ProviderUnavailableError(
            "the key store's worker keeps failing; it will be started again shortly",
            next_step="look at the key store and its library, then try again",
            retry_after=pause,
        )
    return type(refusal)(
        str(refusal), next_step=refusal.next_step, retry_after=max(pause, refusal.retry_after or pause)
    )


def _died() -> ProviderUnavailableError:
    return ProviderUnavailableError("the key store's worker ended while it had the request", next_step="try again")


def _nonsense() -> ProviderUnavailableError:
    return ProviderUnavailableError("the key store's worker answered what was not asked")


async def open_provider(
    uri: str,
    *,
    workers: int = 1,
    state_dir: Path | None = None,
    environment: Mapping[str, str] | None = None,
    patient: bool = False,
) -> WorkerProvider:
    """Open the store that a URI names.

    Args:
        uri: see ``uri.py``.
        workers: number of worker processes.
        state_dir: where it is kept that a PIN was refused, so that a restart does not try it again.
        environment: variables for the worker processes; vendors' libraries find their settings by some.
        patient: a store that cannot be reached now is opened when it is first asked for something; until then its
            ``info`` is not known.

    Raises:
        ProviderUriError: the URI is malformed or of an unknown scheme.
        ProviderConfigurationError: the store cannot be opened as configured.
        ProviderUnavailableError: the store cannot be reached now, and that is not put up with.
    """
    provider = WorkerProvider(uri, workers, state_dir, environment)
    await provider.start(patient=patient)
    return provider
