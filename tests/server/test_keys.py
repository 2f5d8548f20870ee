"""The life of keys, with a clock that tests set."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sealkeeper.hsm import KeyHandleError, open_provider
from sealkeeper.hsm.worker_provider import WorkerProvider
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import FailedPreconditionError, SealkeeperError, UnavailableError
from sealkeeper.server.key import TRANSITIONS, Key, State
from sealkeeper.server.keys import Keys, StateChange
from sealkeeper.server.resources import KeyName
from sealkeeper.server.settings import KeySettings
from sealkeeper.server.store.database import Database, open_database
from sealkeeper.server.store.key_table import KeyTable
from sealkeeper.server.trust import Trust
from tests.conformance.stores import software

START = datetime(2026, 3, 1, 12, 0, 0, 700_000, tzinfo=UTC)
NAME = KeyName("acme", "release")
P256 = "PKIX_ECDSA_P256_SHA_256"
HOUR = timedelta(hours=1)


@dataclass
class House:
    """Keys over a real database and a real provider."""

    now: datetime
    database: Database
    provider: WorkerProvider
    keys: Keys

    async def audit(self, details: dict[str, object]) -> None:
        """Keeps nothing: what is recorded is for other tests."""

    async def create(self) -> Key:
        return await self.keys.create(NAME, P256, "", {}, self.audit)

    async def move(self, number: int, state: State, **more: timedelta) -> Key:
        return await self.keys.set_state(NAME.version(number), StateChange(state, **more), self.audit)  # type: ignore[arg-type]

    def states(self) -> list[State]:
        return [one.state_at(self.now) for one in self.keys.get(NAME).versions]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    provider = await open_provider(software(tmp_path))
    database = await open_database(f"sqlite:///{tmp_path}/metadata.db")
    made = House(START, database, provider, None)  # type: ignore[arg-type]  # filled in below
    clock = SteadyClock(lambda: int(made.now.timestamp() * 1e9))
    settings = KeySettings(default_provider="main", minimum_destroy_delay=HOUR)
    made.keys = Keys(KeyTable(database), {"main": provider}, settings, clock, [])
    yield made
    await database.close()
    await provider.close()


async def test_a_rotation_comes_into_force_at_its_second_without_anybody_awake(house: House) -> None:
    await house.create()
    await house.keys.rotate(NAME, HOUR, house.audit)
    assert house.states() == [State.ACTIVE, State.PUBLISHED]
    change = (START + HOUR).replace(microsecond=0)
    house.now = change - timedelta(microseconds=1)
    assert house.states() == [State.ACTIVE, State.PUBLISHED]
    house.now = change
    assert house.states() == [State.VERIFY_ONLY, State.ACTIVE]


async def test_everything_is_as_it_was_after_a_restart(house: House) -> None:
    await house.create()
    await house.keys.rotate(NAME, timedelta(0), house.audit)
    await house.move(1, State.COMPROMISED)
    [read] = await KeyTable(house.database).read()
    assert read == house.keys.get(NAME)


async def test_at_most_one_version_is_active_whatever_is_done(house: House) -> None:
    await house.create()
    for _ in range(2):
        await house.keys.rotate(NAME, timedelta(0), house.audit)
    await house.keys.rotate(NAME, HOUR, house.audit)
    steps = itertools.product((1, 2, 3, 4), (State.ACTIVE, State.DISABLED, State.VERIFY_ONLY, State.ACTIVE))
    for number, state in steps:
        current = house.states()[number - 1]
        if state in TRANSITIONS[current]:
            await house.move(number, state)
        else:
            with pytest.raises(FailedPreconditionError):
                await house.move(number, state)
        assert house.states().count(State.ACTIVE) <= 1
        house.now += timedelta(minutes=1)


async def test_a_version_that_comes_back_keeps_the_start_of_its_window(house: House) -> None:
    first = (await house.create()).versions[0]
    await house.keys.rotate(NAME, timedelta(0), house.audit)
    house.now += HOUR
    back = (await house.move(1, State.ACTIVE)).versions[0]
    assert (back.activate_time, back.retire_time) == (first.activate_time, None)
    assert house.states() == [State.ACTIVE, State.VERIFY_ONLY]


async def test_bounds_are_whole_seconds_as_timestamps_are(house: House) -> None:
    await house.create()
    await house.keys.rotate(NAME, timedelta(seconds=90), house.audit)
    house.now += HOUR
    key = await house.move(2, State.COMPROMISED)
    times = [
        moment
        for version in key.versions
        for moment in (version.activate_time, version.retire_time, version.compromise_time)
        if moment is not None
    ]
    assert times
    assert all(moment.microsecond == 0 for moment in times)


async def test_a_key_is_destroyed_when_its_time_has_come_and_not_before(house: House) -> None:
    handle = (await house.create()).versions[0].handle
    await house.move(1, State.VERIFY_ONLY)
    await house.move(1, State.DESTROY_SCHEDULED)
    told = []

    async def audit(version: object) -> None:
        told.append(version)

    assert await house.keys.destroy_due(audit) == []
    await house.provider.public_key(handle)
    house.now += HOUR
    assert await house.keys.destroy_due(audit) == [NAME.version(1)]
    assert (house.states(), len(told)) == ([State.DESTROYED], 1)
    with pytest.raises(KeyHandleError):
        await house.provider.public_key(handle)
    assert await house.keys.destroy_due(audit) == []
    with pytest.raises(FailedPreconditionError):
        await house.move(1, State.ACTIVE)


async def test_a_change_that_cannot_be_recorded_does_not_happen(house: House) -> None:
    async def broken(_: dict[str, object]) -> None:
        raise UnavailableError("the log is away")

    with pytest.raises(UnavailableError):
        await house.keys.create(NAME, P256, "", {}, broken)
    assert house.keys.of_tenant("acme") == []
    assert await KeyTable(house.database).read() == []
    await house.create()
    before = house.keys.get(NAME)
    for change in (
        house.keys.rotate(NAME, HOUR, broken),
        house.keys.set_state(NAME.version(1), StateChange(State.DISABLED), broken),
    ):
        with pytest.raises(UnavailableError):
            await change
    assert house.keys.get(NAME) == before


async def test_the_trust_root_follows_the_clock(house: House) -> None:
    clock = SteadyClock(lambda: int(house.now.timestamp() * 1e9))
    empty = b'{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}'
    trust = Trust("sealkeeper.example", empty, b"{}", house.keys, clock)
    await house.create()
    await house.keys.rotate(NAME, HOUR, house.audit)

    def states() -> list[str]:
        return [str(one.state) for one in trust.root("acme").tenant_keys.values()]

    assert states() == ["ACTIVE", "PUBLISHED"]
    house.now += HOUR
    assert states() == ["VERIFY_ONLY", "ACTIVE"]
    assert trust.root("other").tenant_keys == {}


async def test_a_database_that_is_gone_says_so_without_its_secrets(tmp_path: Path) -> None:
    with pytest.raises(SealkeeperError) as caught:
        await open_database(f"sqlite:///{tmp_path}/nowhere/{'s3cret'}.db")
    assert "s3cret" not in str(caught.value)
