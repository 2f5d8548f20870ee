"""The way of the requests to one provider: they wait for their turn and go together in batches.

Each provider has a lane of its own, so that a slow one does not hold up the signatures of others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from datetime import timedelta
from typing import Generic, TypeVar

from sealkeeper.server.configured_provider import ConfiguredProvider
from sealkeeper.server.errors import OverloadedError
from sealkeeper.server.fair_queue import FairQueue, Weighed

MAX_ITEMS = 1000
"""Signatures of a batch, as far as one request does not ask for more."""

# A batch that is worth its way goes while others are under way: one is with the provider, one with the logs.
_FULL = 64
_PARALLEL = 4
# Of a provider that takes long over a signature. All in a batch wait for its last one, so it is short there.
_PARALLEL_SLOW = 32
_ITEMS_SLOW = 64
_BATCH_BYTES = 8 * 1024 * 1024
# Half of it is what one tenant can have waiting; see fair_queue.py.
_MOST_WAITING = 40_000
_MOST_BYTES = 512 * 1024 * 1024

T = TypeVar("T", bound=Weighed)


class SigningLane(Generic[T]):
    """Batches of one provider. Used on the event loop.

    Args:
        provider: that signs.
        work: does a batch, and answers every job in it.
    """

    def __init__(self, provider: ConfiguredProvider, work: Callable[[Sequence[T]], Awaitable[None]]) -> None:
        self._provider = provider
        self._work = work
        self._waiting: FairQueue[T] = FairQueue(_MOST_WAITING, _MOST_BYTES)
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, job: T) -> None:
        """Have a job done, together with all that come at the same time or while others are under way.

        Raises:
            OverloadedError: the tenant has too much waiting.
        """
        if not self._waiting.put(job):
            raise OverloadedError("too many signatures are being asked for", retry_after=timedelta(milliseconds=200))
        if not self._under_way:
            self._under_way = 1
            self._linger(-1)
        elif (self._waiting.items >= _FULL and self._under_way < _PARALLEL) or (
            self._provider.slow and self._under_way < _PARALLEL_SLOW
        ):
            self._start_batch()

    def _start_batch(self) -> None:
        batch = self._waiting.take(_ITEMS_SLOW if self._provider.slow else MAX_ITEMS, _BATCH_BYTES)
        self._under_way += 1
        # Of no call's context: what is done for all of them together belongs to none.
        task = asyncio.create_task(self._do(batch), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, batch: Sequence[T]) -> None:
        try:
            await self._work(batch)
        finally:
            self._linger(-1)

    def _linger(self, before: int) -> None:
        """Go on to the next batch, once no request has come in a turn of the loop.

        Calls arrive a few in a turn. To take in all that have arrived costs less than a batch for each few of them: by
        itself a batch costs several times what a request does.
        """
        if before < self._waiting.items < _FULL:
            asyncio.get_running_loop().call_soon(self._linger, self._waiting.items)
            return
        self._under_way -= 1
        if self._waiting.items:
            self._start_batch()
