"""The life of keys, with a clock that tests set."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sealkeeper.hsm import (
    Algorithm,
    KeyHandleError,
    ProviderKey,
    ProviderPermissionError,
    ProviderUnavailableError,
    open_provider,
)
from sealkeeper.hsm.uri import parse_software_uri
from sealkeeper.hsm.worker_provider import WorkerProvider
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.configured_provider import ConfiguredProvider
from sealkeeper.server.errors import FailedPreconditionError, InvalidRequestError, SealkeeperError, UnavailableError
from sealkeeper.server.identity import Principal, Role
from sealkeeper.server.key import TRANSITIONS, Key, State
from sealkeeper.server.keys import Keys, StateChange
from sealkeeper.server.new_version import VersionMaker
from sealkeeper.server.provider_access import ProviderAccess
from sealkeeper.server.residency import Residency
from sealkeeper.server.resources import KeyName
from sealkeeper.server.settings import KeySettings, ProviderSettings, TelemetrySettings
from sealkeeper.server.store.database import Database, open_database
from sealkeeper.server.store.key_table import KeyTable
from sealkeeper.server.telemetry import Telemetry
from sealkeeper.server.trust import Trust
from tests.stores.software import software

START = datetime(2026, 3, 1, 12, 0, 0, 700_000, tzinfo=UTC)
NAME = KeyName("acme", "release")
P256 = "PKIX_ECDSA_P256_SHA_256"
HOUR = timedelta(hours=1)


class Recording:
    """The record of a change: does what a test wants, and keeps nothing."""

    principal = Principal("acme", "spiffe://sealkeeper.test/acme/custodian/tests", Role.CUSTODIAN)

    def __init__(self, work: Callable[[], Awaitable[None]] | None = None) -> None:
        self._work = work

    async def __call__(self, details: dict[str, object]) -> int:
        if self._work is not None:
            await self._work()
        return 7


@dataclass
class House:
    """Keys over a real database and a real provider."""

    now: datetime
    database: Database
    provider: WorkerProvider
    keys: Keys
    folder: Path

    audit = Recording()

    async def create(self) -> Key:
        return await self.keys.create(NAME, P256, {}, self.audit)

    async def move(self, number: int, state: State, **more: timedelta) -> Key:
        return await self.keys.set_state(NAME.version(number), StateChange(state, **more), self.audit)  # type: ignore[arg-type]

    async def destroyed(self, version: object) -> None:
        """Keeps nothing either."""

    def key_files(self) -> list[Path]:
        return [path for path in self.folder.glob("*.json") if path.name != "seal.json"]

    def states(self) -> list[State]:
        return [one.state_at(self.now) for one in self.keys.get(NAME).versions]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    with software(tmp_path) as uri:
        provider = await open_provider(uri)
    database = await open_database(f"sqlite:///{tmp_path}/metadata.db")
    folder = parse_software_uri(uri).directory
    made = House(START, database, provider, None, folder)  # type: ignore[arg-type]  # filled in below
    clock = SteadyClock(lambda: int(made.now.timestamp() * 1e9))
    settings = KeySettings(default_provider="main", minimum_destroy_delay=HOUR)
    telemetry = Telemetry(TelemetrySettings(metrics_listen=None), "tests")
    providers = {"main": ConfiguredProvider(provider, "main", telemetry)}
    access = ProviderAccess({"main": ProviderSettings(uri=uri)})
    maker = VersionMaker(providers, KeyTable(database), access, Residency({}), "tests", clock.now)
    made.keys = Keys(KeyTable(database), providers, maker, settings, clock, [])
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
    async def away() -> None:
        raise UnavailableError("the log is away")

    broken = Recording(away)
    with pytest.raises(UnavailableError):
        await house.keys.create(NAME, P256, {}, broken)
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
    assert len(house.key_files()) == 1


async def test_a_key_pair_whose_version_the_database_did_not_take_is_destroyed(house: House, tmp_path: Path) -> None:
    await house.create()
    blocker = sqlite3.connect(tmp_path / "metadata.db", isolation_level=None)
    blocker.execute("DROP TABLE keys")
    with pytest.raises(UnavailableError):
        await house.keys.rotate(NAME, HOUR, house.audit)
    blocker.close()
    assert len(house.key_files()) == 1
    assert len(house.keys.get(NAME).versions) == 1


async def test_a_change_goes_on_when_its_caller_hangs_up(house: House) -> None:
    await house.create()
    recorded = asyncio.Event()

    async def note() -> None:
        recorded.set()

    change = StateChange(State.COMPROMISED)
    caller = asyncio.create_task(house.keys.set_state(NAME.version(1), change, Recording(note)))
    await recorded.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await house.keys.close()
    assert house.states() == [State.COMPROMISED]
    assert await KeyTable(house.database).read() == [house.keys.get(NAME)]


async def test_signing_waits_while_a_change_has_its_time_and_is_not_seen(house: House) -> None:
    await house.create()
    waited: list[bool] = []

    async def look() -> None:
        signer = asyncio.create_task(house.keys.settled(NAME))
        await asyncio.sleep(0)
        waited.append(not signer.done())
        # What is signed in the seconds that recording takes is signed by nobody.
        house.now += timedelta(seconds=5)

    key = await house.keys.rotate(NAME, timedelta(0), Recording(look))
    await house.keys.settled(NAME)
    assert waited == [True]
    assert key.versions[0].retire_time == START.replace(microsecond=0)


async def test_a_slow_key_pair_does_not_set_a_rotation_back_in_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.create()
    generate = house.provider.generate

    async def slow(label: str, algorithm: Algorithm) -> ProviderKey:
        house.now += timedelta(seconds=9)
        return await generate(label, algorithm)

    monkeypatch.setattr(house.provider, "generate", slow)
    key = await house.keys.rotate(NAME, timedelta(0), house.audit)
    assert key.versions[0].retire_time == (START + timedelta(seconds=9)).replace(microsecond=0)


async def test_a_destruction_that_the_store_refuses_is_tried_again_and_recorded_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.create()
    await house.move(1, State.VERIFY_ONLY)
    await house.move(1, State.DESTROY_SCHEDULED)
    house.now += HOUR
    told, tried = [], []

    async def audit(version: object) -> None:
        told.append(version)

    async def refuse(handle: str) -> None:
        tried.append(handle)
        raise ProviderPermissionError("the policy is too narrow")

    with monkeypatch.context() as patch:
        patch.setattr(house.provider, "destroy", refuse)
        for _ in range(4):
            assert await house.keys.destroy_due(audit) == []
    assert (len(told), len(tried)) == (1, 4)
    assert await house.keys.destroy_due(audit) == [NAME.version(1)]
    assert len(told) == 1


async def test_what_is_compromised_stays_so_whatever_becomes_of_it(house: House) -> None:
    await house.create()
    await house.move(1, State.COMPROMISED)
    await house.move(1, State.DESTROY_SCHEDULED)
    for state in (State.DISABLED, State.ACTIVE, State.VERIFY_ONLY):
        with pytest.raises(FailedPreconditionError):
            await house.move(1, state)
    await house.move(1, State.COMPROMISED)
    assert house.states() == [State.COMPROMISED]
    await house.move(1, State.DESTROY_SCHEDULED)
    house.now += HOUR
    await house.keys.destroy_due(house.destroyed)
    assert house.states() == [State.DESTROYED]
    assert house.keys.get(NAME).versions[0].compromise_time is not None


async def test_a_compromise_can_be_found_when_the_key_is_gone_and_to_be_older_but_not_younger(house: House) -> None:
    await house.create()
    house.now += HOUR
    await house.move(1, State.VERIFY_ONLY)
    await house.move(1, State.DESTROY_SCHEDULED)
    house.now += HOUR
    await house.keys.destroy_due(house.destroyed)
    key = await house.move(1, State.COMPROMISED, compromise_time=house.now - HOUR)  # type: ignore[arg-type]
    assert house.states() == [State.DESTROYED]
    first = key.versions[0].compromise_time
    with pytest.raises(InvalidRequestError, match="earlier"):
        await house.move(1, State.COMPROMISED, compromise_time=house.now)  # type: ignore[arg-type]
    key = await house.move(1, State.COMPROMISED)
    assert key.versions[0].compromise_time < first  # type: ignore[operator]


async def test_a_disabled_version_that_is_to_be_destroyed_is_remembered_as_disabled(house: House) -> None:
    await house.create()
    await house.move(1, State.DISABLED)
    key = await house.move(1, State.DESTROY_SCHEDULED)
    assert key.versions[0].disabled
    assert [read.versions[0].disabled for read in await KeyTable(house.database).read()] == [True]
    key = await house.move(1, State.DISABLED)
    assert not key.versions[0].disabled


async def test_a_version_that_cannot_be_destroyed_does_not_keep_others(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.create()
    await house.keys.rotate(NAME, timedelta(0), house.audit)
    await house.move(2, State.VERIFY_ONLY)
    for number in (1, 2):
        await house.move(number, State.DESTROY_SCHEDULED)
    house.now += HOUR
    destroy, bad = house.provider.destroy, house.keys.get(NAME).versions[0].handle

    async def refuse(handle: str) -> None:
        if handle == bad:
            raise ProviderUnavailableError("not now")
        await destroy(handle)

    monkeypatch.setattr(house.provider, "destroy", refuse)
    assert await house.keys.destroy_due(house.destroyed) == [NAME.version(2)]
    monkeypatch.undo()
    assert await house.keys.destroy_due(house.destroyed) == [NAME.version(1)]


async def test_a_tenant_s_keys_are_bounded_so_that_its_trust_root_is_readable(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealkeeper.server.keys.MAX_WEIGHT", 1500)
    await house.create()
    for _ in range(2):
        await house.keys.rotate(NAME, timedelta(0), house.audit)
    with pytest.raises(FailedPreconditionError) as caught:
        await house.keys.rotate(NAME, timedelta(0), house.audit)
    assert caught.value.reason == "KEY_LIMIT"


async def test_the_trust_root_follows_the_clock(house: House) -> None:
    clock = SteadyClock(lambda: int(house.now.timestamp() * 1e9))
    empty = b'{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}'
    trust = Trust("sealkeeper.example", empty, b"{}", house.keys, clock)
    await house.create()
    await house.keys.rotate(NAME, HOUR, house.audit)

    async def states() -> list[str]:
        return [str(one.state) for one in (await trust.root("acme")).tenant_keys.values()]

    assert await states() == ["ACTIVE", "PUBLISHED"]
    house.now += HOUR
    assert await states() == ["VERIFY_ONLY", "ACTIVE"]
    await house.move(1, State.DISABLED)
    assert await states() == ["DISABLED", "ACTIVE"]
    assert (await trust.root("other")).tenant_keys == {}


async def test_a_database_that_is_gone_says_so_without_its_secrets(tmp_path: Path) -> None:
    with pytest.raises(SealkeeperError) as caught:
        await open_database(f"sqlite:///{tmp_path}/nowhere/{'s3cret'}.db")
    assert "s3cret" not in str(caught.value)
