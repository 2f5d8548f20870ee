"""A request id gives one answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import AlreadyExistsError, OverloadedError
from sealkeeper.server.idempotency import LIFETIME, RequestId, RequestLedger
from sealkeeper.server.identity import Principal, Role
from sealkeeper.server.store.database import Database, open_database
from sealkeeper.server.store.schema import requests

CI = Principal("acme", "spiffe://x/ci", Role.CI)


class House:
    """A ledger over a real database, with a clock that tests set, and work that counts how often it is done."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = datetime(2026, 3, 1, tzinfo=UTC)
        self.done = 0
        self.ledger = self.new_ledger()

    def new_ledger(self) -> RequestLedger:
        return RequestLedger(self.database, SteadyClock(lambda: int(self.now.timestamp() * 1e9)), lambda: 0)

    async def work(self) -> str:
        self.done += 1
        await asyncio.sleep(0)
        return f"answer {self.done}"

    async def once(self, request: RequestId) -> str:
        async def replay(data: bytes) -> str:
            return data.decode()

        return await self.ledger.once(request, self.work, replay, str.encode)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    database = await open_database(f"sqlite:///{tmp_path}/metadata.db")
    yield House(database)
    await database.close()


def request(
    request_id: str = "1", content: bytes = b"content", caller: Principal = CI, method: str = "Sign"
) -> RequestId:
    return RequestId.of(caller, method, request_id, content)


async def test_the_work_is_done_once(house: House) -> None:
    assert [await house.once(request()) for _ in range(3)] == ["answer 1"] * 3


async def test_tries_at_the_same_time_share_one_run(house: House) -> None:
    assert await asyncio.gather(*(house.once(request()) for _ in range(10))) == ["answer 1"] * 10


async def test_another_content_is_refused_while_it_runs_and_after(house: House) -> None:
    running = asyncio.create_task(house.once(request()))
    await asyncio.sleep(0)
    with pytest.raises(AlreadyExistsError):
        await house.once(request(content=b"other"))
    await running
    with pytest.raises(AlreadyExistsError):
        await house.once(request(content=b"other"))
    assert house.done == 1


async def test_ids_of_other_callers_and_methods_are_other_ids(house: House) -> None:
    others = [
        request(),
        request("2"),
        request(method="SignBatch"),
        request(caller=Principal("other", CI.subject, Role.CI)),
        request(caller=Principal("acme", "spiffe://x/other", Role.CI)),
    ]
    assert len({await house.once(one) for one in others}) == len(others)


async def test_the_work_goes_on_when_its_caller_hangs_up(house: House) -> None:
    caller = asyncio.create_task(house.once(request()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await house.once(request()) == "answer 1"


async def test_what_failed_may_be_tried_again(house: House) -> None:
    async def fail() -> str:
        raise ConnectionError

    async def replay(_: bytes) -> str:
        return ""

    with pytest.raises(ConnectionError):
        await house.ledger.once(request(), fail, replay, str.encode)
    assert await house.once(request()) == "answer 1"


async def test_answers_outlive_a_restart_for_24_hours(house: House) -> None:
    await house.once(request())
    await house.ledger.close()
    house.ledger = house.new_ledger()
    await house.ledger.open()
    assert await house.once(request()) == "answer 1"
    with pytest.raises(AlreadyExistsError):
        await house.once(request(content=b"other"))
    await house.ledger.close()
    house.now += LIFETIME + timedelta(seconds=1)
    house.ledger = house.new_ledger()
    await house.ledger.open()
    assert await house.once(request(content=b"other")) == "answer 2"


async def test_what_the_audit_log_knows_of_is_taken_in(house: House) -> None:
    await house.ledger.open()
    house.ledger.recover(request(), house.now, b"from the log")
    house.ledger.recover(request("old"), house.now - LIFETIME - timedelta(1), b"too old")
    house.ledger.start()
    assert await house.once(request()) == "from the log"
    assert await house.once(request("old")) == "answer 1"
    await house.ledger.close()


async def test_what_was_withheld_is_not_taken_in_and_what_was_given_then_is(house: House) -> None:
    await house.ledger.open()
    for name, answers in (("1", [b"a", None]), ("2", [b"a", None, b"b"]), ("3", [b"a", b"b"])):
        for answer in answers:
            house.ledger.recover(request(name), house.now, answer)
    house.ledger.start()
    assert [await house.once(request(name)) for name in ("1", "2", "3")] == ["answer 1", "b", "b"]
    await house.ledger.close()


async def test_what_the_database_knows_is_not_changed_by_the_audit_log(house: House) -> None:
    assert await house.once(request()) == "answer 1"
    await house.ledger.close()
    house.ledger = house.new_ledger()
    await house.ledger.open()
    house.ledger.recover(request(), house.now, b"from the log")
    house.ledger.start()
    assert await house.once(request()) == "answer 1"
    await house.ledger.close()


async def test_after_24_hours_an_id_is_new_again_and_takes_no_room(house: House) -> None:
    assert await house.once(request()) == "answer 1"
    house.now += LIFETIME + timedelta(hours=1)
    assert await house.once(request(content=b"other")) == "answer 2"
    house.now += LIFETIME + timedelta(hours=1)
    await house.ledger._prune()
    assert house.ledger._known._hours == {}

    def count(connection: Connection) -> int:
        return len(connection.execute(select(requests)).all())

    assert await house.database.run(count) == 0


async def test_too_many_ids_are_asked_for_in_the_database(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealkeeper.server.idempotency._MAX_KNOWN", 5)
    answers = [await house.once(request(str(number))) for number in range(12)]
    assert [await house.once(request(str(number))) for number in range(12)] == answers


async def test_answers_that_the_database_does_not_take_are_bounded_and_kept(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealkeeper.server.idempotency._MAX_ROWS_BYTES", 20)
    for number in range(3):
        await house.once(request(str(number)))
    with pytest.raises(OverloadedError):
        await house.once(request("3"))
    await house.ledger.flush()
    assert await house.once(request("3")) == "answer 4"
    assert [await house.once(request(str(number))) for number in range(3)] == ["answer 1", "answer 2", "answer 3"]
