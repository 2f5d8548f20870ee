"""Turns of tenants, and how much each may have waiting."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.server.fair_queue import FairQueue


@dataclass(frozen=True)
class Job:
    tenant: str
    count: int = 1
    number: int = 0
    length: int = 32


def test_one_alone_is_served_in_its_order() -> None:
    queue: FairQueue[Job] = FairQueue(1000, 10**6)
    jobs = [Job("acme", number=number) for number in range(300)]
    assert all(queue.put(one) for one in jobs)
    assert queue.take(100, 10**6) == jobs[:100]
    assert queue.take(1000, 10**6) == jobs[100:]
    assert queue.take(1000, 10**6) == []


def test_a_flood_does_not_delay_who_comes_after_it() -> None:
    queue: FairQueue[Job] = FairQueue(100_000, 10**9)
    for number in range(5_000):
        queue.put(Job("flood", number=number))
    queue.put(Job("other"))
    batch = queue.take(1000, 10**6)
    assert Job("other") in batch


def test_who_asks_for_many_at_once_gets_no_more_than_who_asks_for_one_at_a_time() -> None:
    queue: FairQueue[Job] = FairQueue(100_000, 10**9)
    for number in range(40):
        queue.put(Job("batches", 500, number))
    for number in range(5_000):
        queue.put(Job("singles", 1, number))
    served: Counter[str] = Counter()
    for _ in range(8):
        for one in queue.take(1000, 10**6):
            served[one.tenant] += one.count
    assert 0.6 < served["singles"] / served["batches"] < 1.6


def test_who_sends_much_gets_no_more_than_who_sends_little() -> None:
    queue: FairQueue[Job] = FairQueue(100_000, 10**9)
    for number in range(60):
        queue.put(Job("long", 1, number, 4 * 1024 * 1024))
    for number in range(64):
        queue.put(Job("short", 1, number))
    before = 0
    while queue.items:
        batch = queue.take(1000, 8 * 1024 * 1024)
        before += sum(one.tenant == "long" for one in batch)
        if any(one.tenant == "short" for one in batch):
            break
    assert before <= 3


def test_a_job_larger_than_a_batch_goes_alone() -> None:
    queue: FairQueue[Job] = FairQueue(10_000, 10**6)
    queue.put(Job("acme", 2000))
    queue.put(Job("acme", 1))
    assert [one.count for one in queue.take(1000, 10**6)] == [2000]


def test_one_tenant_cannot_take_the_room_of_the_others() -> None:
    queue: FairQueue[Job] = FairQueue(1000, 10**6)
    flood = 0
    while queue.put(Job("flood")):
        flood += 1
    assert flood == 500
    others = 0
    while queue.put(Job("other")):
        others += 1
    assert others == 250
    assert queue.put(Job("third"))
    assert not queue.put(Job("flood"))


def test_bytes_are_bounded_as_items_are() -> None:
    queue: FairQueue[Job] = FairQueue(1000, 1000)
    assert queue.put(Job("acme", length=400))
    assert not queue.put(Job("acme", length=400))
    assert queue.put(Job("other", length=300))
    assert [one.tenant for one in queue.take(10, 500)] == ["acme"]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 300)), max_size=60),
    st.integers(1, 500),
)
def test_everything_that_waits_is_served_once_and_in_the_order_of_its_tenant(
    asked: list[tuple[str, int]], most: int
) -> None:
    queue: FairQueue[Job] = FairQueue(10**6, 10**9)
    jobs = [Job(tenant, count, number) for number, (tenant, count) in enumerate(asked)]
    for one in jobs:
        assert queue.put(one)
    served: list[Job] = []
    while batch := queue.take(most, 10**6):
        assert len(batch) == 1 or sum(one.count for one in batch) <= most
        served += batch
    for tenant in "abc":
        assert [one for one in served if one.tenant == tenant] == [one for one in jobs if one.tenant == tenant]
    assert queue.items == 0


@given(st.integers(2, 6), st.integers(1, 3))
def test_of_tenants_that_all_flood_each_gets_about_as_much(tenants: int, rounds: int) -> None:
    queue: FairQueue[Job] = FairQueue(10**6, 10**9)
    for tenant in range(tenants):
        for number in range(2_000):
            queue.put(Job(f"t{tenant}", 1 + tenant % 3, number))
    served: Counter[str] = Counter()
    for _ in range(rounds):
        for one in queue.take(1000, 10**6):
            served[one.tenant] += one.count
    assert max(served.values()) - min(served.get(f"t{tenant}", 0) for tenant in range(tenants)) <= 2 * 64 + 3
