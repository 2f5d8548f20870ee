"""Batches of a provider: what goes together, and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sealkeeper.server.signing_lane import SigningLane


@dataclass(frozen=True)
class Job:
    tenant: str
    count: int
    length: int = 32


class Provider:
    slow = True


class Work:
    """Holds batches up until it is told to let go."""

    def __init__(self) -> None:
        self.batches: list[Sequence[Job]] = []
        self.let_go = asyncio.Event()

    async def __call__(self, batch: Sequence[Job]) -> None:
        self.batches.append(batch)
        await self.let_go.wait()


async def done(lane: SigningLane[Job]) -> None:
    while lane._under_way:
        await asyncio.sleep(0)


async def test_in_a_slow_store_nobody_waits_for_the_many_signatures_of_another_tenant() -> None:
    work, provider = Work(), Provider()
    as_provider: Any = provider
    lane = SigningLane(as_provider, work)
    for _ in range(100):
        lane.put(Job("flood", 900 // 100))
        await asyncio.sleep(0)
    lane.put(Job("flood", 900))
    lane.put(Job("other", 10))
    await asyncio.sleep(0)
    work.let_go.set()
    await done(lane)
    [of_other] = [one for one in work.batches if Job("other", 10) in one]
    assert sum(one.count for one in of_other) <= 64
    assert sum(one.count for batch in work.batches for one in batch) == 900 + 900 + 10


async def test_in_a_quick_store_all_that_wait_go_together() -> None:
    work, provider = Work(), Provider()
    provider.slow = False
    as_provider: Any = provider
    lane = SigningLane(as_provider, work)
    for _ in range(40):
        lane.put(Job("acme", 1))
    work.let_go.set()
    await done(lane)
    assert [len(one) for one in work.batches] == [40]
