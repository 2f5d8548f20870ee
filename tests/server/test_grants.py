"""Grants: in force within their time and no longer, audited before they are seen, and few enough."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from sealkeeper.server.authorization import Action
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import (
    ClockWentBackError,
    FailedPreconditionError,
    NotFoundError,
    UnavailableError,
)
from sealkeeper.server.grant import Grant, GrantOrder, GrantState
from sealkeeper.server.grants import KEPT, MAX_ACTIVE, MAX_KEPT, Grants, open_grants
from sealkeeper.server.identity import Principal, Role
from sealkeeper.server.policy_engine import Facts, Policy, Question, compile_policy, default_policy
from sealkeeper.server.resources import GrantName, KeyName, TenantName
from sealkeeper.server.store.database import Database, open_database
from sealkeeper.server.store.grant_table import GrantTable
from sealkeeper.server.store.schema import marks

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)
KEY = KeyName("acme", "release")
ADA = Principal("acme", "https://issuer.example#ada", Role.CUSTODIAN, person="ada")
CI = Principal("acme", "https://issuer.example#repo:acme/app", Role.CI)
ORDER = GrantOrder(CI.subject, KEY, (Action.SIGN,), HOUR, "a release", ADA.subject, break_glass=False)
EMERGENCY = replace(ORDER, subject=ADA.subject, resource=TenantName("acme"), break_glass=True)


class Recording:
    """An audit log that remembers, and fails or waits where it is told to."""

    principal = ADA

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.failing = False
        self.go = asyncio.Event()
        self.go.set()
        self.reached = asyncio.Event()

    async def __call__(self, details: dict[str, object]) -> int:
        self.reached.set()
        await self.go.wait()
        if self.failing:
            raise ConnectionError
        self.records.append(details)
        return len(self.records) - 1


class House:
    """Grants over a real database, with a clock that tests set."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now = START
        self.clock = SteadyClock(lambda: int(self.now.timestamp() * 1e9))
        self.grants = Grants(GrantTable(database), self.clock)
        self.audit = Recording()
        self.ends: list[GrantName] = []

    async def create(self, order: GrantOrder = ORDER) -> Grant:
        return await self.grants.create(order, self.audit)

    async def tidy(self) -> None:
        async def audit(grant: Grant) -> None:
            self.ends.append(grant.name)

        await self.grants.tidy(self.now, audit)

    async def restart(self) -> None:
        self.grants = await open_grants(GrantTable(self.database), self.clock)

    def in_force(self) -> list[str]:
        return [one.name for one in self.grants.links("acme", self.now)]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    database = await open_database(f"sqlite:///{tmp_path}/metadata.db")
    yield House(database)
    await database.close()


async def test_a_grant_is_in_force_from_when_it_is_made_until_its_second_and_not_at_it(house: House) -> None:
    made = await house.create()
    assert (made.create_time, made.expire_time) == (START, START + HOUR)
    assert house.in_force() == [str(made.name)]
    assert house.grants.next_end("acme", house.now) == made.expire_time
    house.now = made.expire_time - TICK
    assert house.in_force() == [str(made.name)]
    house.now = made.expire_time
    assert house.in_force() == []
    assert house.grants.get(made.name).state_at(house.now) is GrantState.EXPIRED
    assert house.grants.next_end("acme", house.now) is None


async def test_everything_is_as_it_was_after_a_restart(house: House) -> None:
    made = [await house.create(), await house.create(EMERGENCY), await house.create()]
    await house.grants.revoke(made[2].name, house.audit)
    before = house.grants.page("acme", "", 10)
    await house.restart()
    assert house.grants.page("acme", "", 10) == before
    assert {one.name for one in before} == {one.name for one in made}


async def test_a_change_is_audited_before_it_is_seen_and_what_is_not_audited_is_not_done(house: House) -> None:
    house.audit.go.clear()
    making = asyncio.create_task(house.create())
    await house.audit.reached.wait()
    assert house.in_force() == []
    house.audit.go.set()
    made = await making
    assert house.in_force() == [str(made.name)]
    assert house.audit.records[0]["grant"]["expireTime"] == "2026-03-01T13:00:00.000Z"
    house.audit.failing = True
    with pytest.raises(ConnectionError):
        await house.create()
    with pytest.raises(ConnectionError):
        await house.grants.revoke(made.name, house.audit)
    assert house.in_force() == [str(made.name)]
    await house.restart()
    assert house.in_force() == [str(made.name)]


async def test_a_change_goes_to_its_end_when_its_caller_hangs_up(house: House) -> None:
    house.audit.go.clear()
    making = asyncio.create_task(house.create())
    await house.audit.reached.wait()
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    house.audit.go.set()
    await house.grants.close()
    assert len(house.in_force()) == 1
    await house.restart()
    assert len(house.in_force()) == 1


async def test_what_goes_along_is_durable_in_the_same_transaction_or_nothing_is(house: House) -> None:
    class Along:
        failing = False

        def write(self, connection: Connection, answer: Grant) -> None:
            connection.execute(marks.insert(), {"name": answer.name.id, "value": 1})
            if self.failing:
                raise UnavailableError("no")

    along = Along()
    made = await house.grants.create(ORDER, house.audit, along, "tenants/acme/proposals/p1")
    assert made.proposal == "tenants/acme/proposals/p1"
    along.failing = True
    with pytest.raises(UnavailableError):
        await house.grants.create(ORDER, house.audit, along)
    assert house.in_force() == [str(made.name)]
    assert await house.database.run(lambda connection: list(connection.execute(select(marks.c.name)).scalars())) == [
        made.name.id
    ]
    await house.restart()
    assert house.in_force() == [str(made.name)]


async def test_what_is_revoked_has_ended_and_stays_as_it_is(house: House) -> None:
    made = await house.create()
    house.now += timedelta(minutes=1)
    revoked = await house.grants.revoke(made.name, house.audit)
    assert (revoked.revoke_time, revoked.revoked_by) == (house.now, ADA.subject)
    assert house.in_force() == []
    assert house.grants.next_end("acme", house.now) is None
    house.now += timedelta(minutes=1)
    assert await house.grants.revoke(made.name, house.audit) == revoked
    assert [one.get("from") for one in house.audit.records[1:]] == ["ACTIVE", "REVOKED"]


async def test_what_has_expired_is_not_revoked_any_more(house: House) -> None:
    made = await house.create()
    house.now = made.expire_time
    assert await house.grants.revoke(made.name, house.audit) == made


async def test_a_permission_can_be_taken_away_while_the_clock_is_wrong_and_none_can_be_given(house: House) -> None:
    made = await house.create()
    house.now -= timedelta(minutes=5)
    with pytest.raises(ClockWentBackError):
        await house.create()
    revoked = await house.grants.revoke(made.name, house.audit)
    assert revoked.state_at(house.now) is GrantState.REVOKED


async def test_a_grant_of_another_tenant_or_of_none_is_not_there(house: House) -> None:
    made = await house.create()
    for name in (GrantName("other", made.name.id), GrantName("acme", "g0")):
        with pytest.raises(NotFoundError) as caught:
            house.grants.get(name)
        assert caught.value.reason == "GRANT_NOT_FOUND"
    assert house.grants.page("other", "", 10) == []
    assert house.grants.links("other", house.now) == []
    assert house.grants.emergencies("other", house.now) == frozenset()


async def test_each_change_has_another_revision_and_only_that_of_its_tenant(house: House) -> None:
    seen, other = {house.grants.revision("acme")}, house.grants.revision("other")
    made = await house.create()
    seen.add(house.grants.revision("acme"))
    await house.grants.revoke(made.name, house.audit)
    seen.add(house.grants.revision("acme"))
    house.now += KEPT + timedelta(days=1)
    await house.tidy()
    seen.add(house.grants.revision("acme"))
    assert len(seen) == 4
    assert house.grants.revision("other") == other


async def test_pages_have_all_grants_once_and_by_name(house: House) -> None:
    made = sorted([(await house.create()).name.id for _ in range(7)])
    found: list[str] = []
    while page := house.grants.page("acme", found[-1] if found else "", 3):
        found += [one.name.id for one in page]
    assert found == made


async def test_the_end_of_a_break_glass_is_recorded_once_even_over_restarts(house: House) -> None:
    made, ordinary = await house.create(EMERGENCY), await house.create()
    await house.tidy()
    assert house.ends == []
    house.now = made.expire_time
    await house.tidy()
    await house.tidy()
    await house.restart()
    await house.tidy()
    assert house.ends == [made.name]
    assert ordinary.name not in house.ends


async def test_a_break_glass_that_was_revoked_was_recorded_as_that(house: House) -> None:
    made = await house.create(EMERGENCY)
    await house.grants.revoke(made.name, house.audit)
    house.now = made.expire_time
    await house.tidy()
    assert house.ends == []


async def test_an_end_that_was_recorded_is_not_recorded_again_while_the_database_is_away(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await house.create(EMERGENCY)
    house.now = made.expire_time

    async def away(*_: object) -> None:
        raise UnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(GrantTable, "write_ended", away)
        for _ in range(2):
            with pytest.raises(UnavailableError):
                await house.tidy()
    await house.tidy()
    await house.restart()
    await house.tidy()
    assert house.ends == [made.name]


async def test_what_has_ended_is_known_for_30_days_and_then_forgotten(house: House) -> None:
    expired, revoked = await house.create(EMERGENCY), await house.create()
    await house.grants.revoke(revoked.name, house.audit)
    house.now = expired.expire_time + KEPT
    await house.tidy()
    assert [one.name for one in house.grants.page("acme", "", 10)] == [expired.name]
    house.now += timedelta(seconds=1)
    await house.tidy()
    await house.restart()
    assert house.grants.page("acme", "", 10) == []
    assert house.ends == [expired.name]
    assert await house.database.run(lambda connection: connection.execute(select(marks)).all()) == []


async def test_how_many_break_glasses_are_in_force_is_told_by_tenant(house: House) -> None:
    made = await house.create(EMERGENCY)
    await house.create()
    other = replace(EMERGENCY, resource=TenantName("other"))
    await house.grants.create(other, house.audit)
    assert house.grants.active_emergencies() == {"acme": 1, "other": 1}
    assert house.grants.emergencies("acme", house.now) == {str(made.name)}
    house.now = made.expire_time
    assert house.grants.active_emergencies() == {"acme": 0, "other": 0}
    assert house.grants.emergencies("acme", house.now) == frozenset()


def many(count: int, ended: int, *, break_glass: bool = False) -> list[Grant]:
    """Grants, of which some have ended a day ago."""
    return [
        Grant(
            *(GrantName("acme", f"g{number}"), CI.subject, KEY, (Action.SIGN,), "", break_glass, "", ""),
            START - 2 * timedelta(days=1),
            START + (timedelta(days=-1) if number < ended else HOUR),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(("count", "ended"), [(MAX_ACTIVE, 0), (MAX_KEPT, MAX_KEPT - 1)])
async def test_there_are_not_too_many_grants_and_an_emergency_has_room_all_the_same(
    house: House, count: int, ended: int
) -> None:
    house.grants = Grants(GrantTable(house.database), house.clock, many(count - 1, ended))
    made = await asyncio.gather(*(house.create() for _ in range(3)), return_exceptions=True)
    refused = [one for one in made if isinstance(one, FailedPreconditionError)]
    assert [one.reason for one in refused] == ["GRANT_LIMIT"] * 2
    await house.create(EMERGENCY)
    # A grant of another tenant takes no room here.
    await house.create(replace(ORDER, resource=KeyName("other", "release")))


async def test_emergencies_are_bounded_too(house: House) -> None:
    house.grants = Grants(GrantTable(house.database), house.clock, many(MAX_ACTIVE, 0, break_glass=True))
    with pytest.raises(FailedPreconditionError):
        await house.create(EMERGENCY)


MINUTES = st.integers(-300, 300).map(lambda minutes: START + timedelta(minutes=minutes))


@st.composite
def grants(draw: st.DrawFn) -> Grant:
    create_time = draw(MINUTES)
    lifetime = timedelta(minutes=draw(st.integers(1, 240)))
    revoke = draw(st.none() | st.integers(0, 240).map(lambda minutes: create_time + timedelta(minutes=minutes)))
    return Grant(
        GrantName("acme", "g" + draw(st.text("abcdef0123456789", min_size=16, max_size=16))),
        CI.subject,
        *(KEY, (Action.SIGN,), "", draw(st.booleans()), ADA.subject, ""),
        create_time,
        create_time + lifetime,
        revoke if revoke is not None and revoke < create_time + lifetime else None,
    )


@given(st.lists(grants(), max_size=8, unique_by=lambda one: one.name.id), MINUTES)
def test_what_is_in_force_is_what_is_within_its_time_and_not_revoked(found: list[Grant], now: datetime) -> None:
    held = Grants(GrantTable(None), SteadyClock(), found)  # type: ignore[arg-type]  # nothing is written
    expected = {str(one.name) for one in found if one.create_time <= now < one.expire_time and one.revoke_time is None}
    assert {one.name for one in held.links("acme", now)} == expected
    broken = {str(one.name) for one in found if one.break_glass}
    assert held.emergencies("acme", now) == expected & broken


@given(st.lists(grants(), max_size=8, unique_by=lambda one: one.name.id), MINUTES)
def test_nothing_begins_or_ends_before_it_is_said(found: list[Grant], now: datetime) -> None:
    held = Grants(GrantTable(None), SteadyClock(), found)  # type: ignore[arg-type]  # nothing is written
    end, before = held.next_end("acme", now), held.links("acme", now)
    for minutes in range(0, 700, 7):
        later = now + timedelta(minutes=minutes)
        if end is None or later < end:
            assert held.links("acme", later) == before
    if end is not None:
        assert held.links("acme", end - TICK) == before
        assert held.links("acme", end) != before


def allowed(policy: Policy, principal: Principal, action: Action, key: KeyName, emergencies: frozenset[str]) -> str:
    decision = policy.decide(Question(principal, action, key, "", START, Facts({})), "1", emergencies)
    return decision.policy + (f" by {decision.break_glass}" if decision.break_glass else "") if decision.allowed else ""


async def test_the_policy_engine_permits_what_a_grant_says_and_nothing_else(house: House) -> None:
    verifier = Principal("acme", "spiffe://x/verifier", Role.VERIFIER)
    made = await house.create(replace(ORDER, subject=verifier.subject))
    broken = await house.create(EMERGENCY)
    policy = compile_policy(default_policy()).granting(house.grants.links("acme", house.now))
    emergencies = house.grants.emergencies("acme", house.now)

    def ask(principal: Principal, action: Action, key: KeyName = KEY) -> str:
        return allowed(policy, principal, action, key, emergencies)

    assert ask(verifier, Action.SIGN) == str(made.name)
    assert ask(verifier, Action.SIGN, KeyName("acme", "other")) == ""
    assert ask(verifier, Action.ROTATE_KEY) == ""
    assert ask(ADA, Action.SIGN) == f"{broken.name} by {broken.name}"
    assert ask(ADA, Action.SIGN, KeyName("acme", "other")) == f"{broken.name} by {broken.name}"
    assert ask(ADA, Action.APPROVE) != f"{broken.name} by {broken.name}"


async def test_no_grant_permits_what_the_policy_forbids(house: House) -> None:
    made = await house.create()
    policy = compile_policy(default_policy()).granting(house.grants.links("acme", house.now))
    from_a_fork = Principal("acme", CI.subject, Role.CI, attributes=(("event", "pull_request"),))
    assert str(made.name) in allowed(policy, CI, Action.SIGN, KEY, frozenset())
    assert allowed(policy, from_a_fork, Action.SIGN, KEY, frozenset()) == ""
