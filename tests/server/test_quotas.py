"""Quotas over a real database, by a clock that tests set."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from sealkeeper.server import quotas
from sealkeeper.server.errors import (
    ConfigurationError,
    ConflictError,
    FailedPreconditionError,
    QuotaExceededError,
    UnavailableError,
)
from sealkeeper.server.identity import Principal, Role
from sealkeeper.server.limits import (
    Limits,
    LimitsUpdate,
    Rate,
    capped,
    limits_document,
    raises,
    require_within,
    update_of_document,
)
from sealkeeper.server.quota_settings import QuotaSettings
from sealkeeper.server.quotas import Quotas, open_quotas
from sealkeeper.server.settings import load_settings
from sealkeeper.server.store.database import Database, open_database
from sealkeeper.server.store.quota_table import QuotaTable
from sealkeeper.server.store.schema import marks
from tests.server.test_settings import GOOD
from tests.server.test_token_bucket import Clock

CEILINGS = QuotaSettings.model_validate(
    {
        "tenant_calls": {"per_second": 10, "burst": 20},
        "tenant_signatures": {"per_second": 100, "burst": 200},
        "principal_calls": {"per_second": 5, "burst": 10},
        "principal_signatures": {"per_second": 50, "burst": 100},
        "keys": 3,
    }
)


class Recording:
    """An ``Audit`` that remembers, and fails where it is told to."""

    def __init__(self) -> None:
        self.principal = caller("custodian")
        self.details: list[dict[str, object]] = []
        self.reached = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.error: Exception | None = None

    async def __call__(self, details: dict[str, object]) -> int:
        self.reached.set()
        await self.go.wait()
        if self.error is not None:
            raise self.error
        json.dumps(details)
        self.details.append(details)
        return 0


def caller(name: str, tenant: str = "acme") -> Principal:
    return Principal(tenant, f"spiffe://x/{name}", Role.CI)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = await open_database(f"sqlite:///{tmp_path / 'metadata.db'}")
    yield made
    await made.close()


@pytest.fixture
async def opened(database: Database, clock: Clock) -> Quotas:
    return await reopened(database, clock)


async def reopened(database: Database, clock: Clock, settings: QuotaSettings = CEILINGS) -> Quotas:
    return await open_quotas(settings, ["acme", "beta"], QuotaTable(database), clock)


def refusal(work: Callable[[], None]) -> QuotaExceededError:
    with pytest.raises(QuotaExceededError) as caught:
        work()
    return caught.value


def calls(opened: Quotas, principal: Principal, count: int) -> None:
    for _ in range(count):
        opened.admit_call(principal)


async def test_a_caller_is_refused_beyond_its_rate_and_told_when_to_come_back(opened: Quotas, clock: Clock) -> None:
    calls(opened, caller("a"), 10)
    error = refusal(lambda: opened.admit_call(caller("a")))
    assert error.metadata == {"quota": "principal_calls"}
    assert error.retry_after == timedelta(milliseconds=201)
    assert error.next_step
    clock.now += 0.201
    opened.admit_call(caller("a"))


async def test_all_callers_of_a_tenant_together_are_refused_beyond_its_rate(opened: Quotas, clock: Clock) -> None:
    calls(opened, caller("a"), 10)
    calls(opened, caller("b"), 10)
    error = refusal(lambda: opened.admit_call(caller("c")))
    assert error.metadata == {"quota": "tenant_calls"}
    assert error.retry_after == timedelta(milliseconds=101)
    opened.admit_call(caller("a", "beta"))


async def test_a_refused_call_costs_nothing_of_either_bucket(opened: Quotas, clock: Clock) -> None:
    calls(opened, caller("a"), 10)
    for _ in range(100):
        refusal(lambda: opened.admit_call(caller("a")))
    # Refused by its own bucket: the tenant's still has what is left for others.
    assert opened.usage("acme").calls_available == 10
    calls(opened, caller("b"), 10)
    for _ in range(100):
        refusal(lambda: opened.admit_call(caller("c")))
    # Refused by the tenant's: its own is still full once the tenant's has filled up.
    clock.now += 1
    calls(opened, caller("c"), 10)


async def test_signatures_are_counted_one_by_one_and_a_batch_is_taken_whole_or_not_at_all(
    opened: Quotas, clock: Clock
) -> None:
    opened.admit_signatures(caller("a"), 60)
    error = refusal(lambda: opened.admit_signatures(caller("a"), 60))
    assert error.metadata == {"quota": "principal_signatures"}
    assert error.retry_after == timedelta(milliseconds=401)
    opened.admit_signatures(caller("a"), 40)
    opened.admit_signatures(caller("b"), 100)
    assert refusal(lambda: opened.admit_signatures(caller("c"), 1)).metadata == {"quota": "tenant_signatures"}
    assert opened.usage("acme").refused == 61


async def test_a_batch_beyond_the_burst_is_told_how_many_it_may_have_and_not_to_come_back_later(opened: Quotas) -> None:
    error = refusal(lambda: opened.admit_signatures(caller("a"), 1000))
    assert error.retry_after is None
    assert error.metadata == {"quota": "principal_signatures", "burst": "100"}
    assert "at most 100" in error.next_step
    opened.admit_signatures(caller("a"), 100)


async def test_a_refusal_never_asks_for_more_than_a_day_of_patience(database: Database, clock: Clock) -> None:
    slow = CEILINGS.model_copy(update={"principal_signatures": _rate(1e-300, 1)})
    opened = await reopened(database, clock, slow)
    opened.admit_signatures(caller("a"), 1)
    assert refusal(lambda: opened.admit_signatures(caller("a"), 1)).retry_after == timedelta(days=1, milliseconds=1)


def _rate(per_second: float, burst: int) -> Any:
    return type(CEILINGS.tenant_calls)(per_second=per_second, burst=burst)


async def test_many_names_neither_take_memory_nor_anybodys_bucket_nor_give_anybody_a_new_one(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "MAX_PRINCIPALS", 0)
    wide = CEILINGS.model_copy(update={"tenant_calls": _rate(1e6, 10**7)})
    opened = await reopened(database, clock, wide)
    calls(opened, caller("victim"), 10)
    attackers = [caller(f"attacker-{number}") for number in range(1000)]
    taken = 0
    for one in attackers * 12:
        try:
            opened.admit_call(one)
        except QuotaExceededError:
            continue
        taken += 1
    held = opened._tenants["acme"]._principals
    assert len(held) == quotas.MIN_PRINCIPALS
    # 99 of their own beside the victim's, and one that all the others share.
    assert taken == 100 * 10
    assert refusal(lambda: opened.admit_call(caller("victim"))).metadata == {"quota": "principal_calls"}
    # Another tenant's callers have their share.
    opened.admit_call(caller("a", "beta"))


async def test_a_caller_who_has_been_away_makes_room_for_others(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "MAX_PRINCIPALS", 0)
    opened = await reopened(database, clock, CEILINGS.model_copy(update={"tenant_calls": _rate(1e6, 10**7)}))
    for number in range(100):
        calls(opened, caller(f"early-{number}"), 10)
    clock.now += 2
    for number in range(100):
        calls(opened, caller(f"late-{number}"), 10)
    assert set(opened._tenants["acme"]._principals) == {caller(f"late-{number}").subject for number in range(100)}


async def test_keys_are_refused_from_the_limit_on(opened: Quotas) -> None:
    opened.require_key("acme", 2)
    with pytest.raises(FailedPreconditionError) as caught:
        opened.require_key("acme", 3)
    assert caught.value.reason == "QUOTA_KEYS"


async def test_limits_start_at_the_ceilings_and_hold_over_restarts(database: Database, clock: Clock) -> None:
    opened, audit = await reopened(database, clock), Recording()
    assert opened.limits("acme") == opened.ceilings("acme") == CEILINGS.ceilings("acme")
    changed = await opened.change("acme", LimitsUpdate(tenant_calls=Rate(2.5, 3), keys=1), audit)
    assert (changed.tenant_calls, changed.keys) == (Rate(2.5, 3), 1)
    assert audit.details[0]["to"] == limits_document(changed)
    again = await reopened(database, clock)
    assert again.limits("acme") == changed
    assert again.limits("beta") == CEILINGS.ceilings("beta")


async def test_a_lowered_limit_holds_at_once_for_callers_who_are_known_already(opened: Quotas, clock: Clock) -> None:
    calls(opened, caller("a"), 2)
    await opened.change("acme", LimitsUpdate(principal_calls=Rate(1, 3)), Recording())
    opened.admit_call(caller("a"))
    assert refusal(lambda: opened.admit_call(caller("a"))).retry_after == timedelta(milliseconds=1001)


async def test_changing_a_limit_gives_nobody_back_what_was_used(opened: Quotas) -> None:
    calls(opened, caller("a"), 10)
    await opened.change("acme", LimitsUpdate(principal_calls=Rate(4, 10)), Recording())
    refusal(lambda: opened.admit_call(caller("a")))


async def test_what_a_tenant_has_not_set_follows_its_ceilings_and_the_rest_is_cut_to_them(
    database: Database, clock: Clock
) -> None:
    opened = await reopened(database, clock)
    await opened.change("acme", LimitsUpdate(tenant_calls=Rate(8, 20)), Recording())
    lower = CEILINGS.model_copy(update={"tenant_calls": _rate(9, 5), "keys": 2})
    assert (await reopened(database, clock, lower)).limits("acme").tenant_calls == Rate(8, 5)
    higher = CEILINGS.model_copy(update={"tenant_calls": _rate(90, 50), "keys": 9})
    limits = (await reopened(database, clock, higher)).limits("acme")
    assert (limits.tenant_calls, limits.keys) == (Rate(8, 20), 9)


async def test_a_limit_above_its_ceiling_is_refused_by_its_name_and_not_recorded(opened: Quotas) -> None:
    audit = Recording()
    with pytest.raises(FailedPreconditionError) as caught:
        await opened.change("acme", LimitsUpdate(principal_signatures=Rate(1, 101)), audit)
    assert caught.value.reason == "QUOTA_CEILING"
    assert caught.value.metadata == {"field": "limits.principal_signatures.burst", "ceiling": "100"}
    assert audit.details == []


async def test_a_change_that_cannot_be_recorded_does_not_take_effect(database: Database, clock: Clock) -> None:
    opened, audit = await reopened(database, clock), Recording()
    audit.error = UnavailableError("no log")
    with pytest.raises(UnavailableError):
        await opened.change("acme", LimitsUpdate(keys=1), audit)
    assert opened.limits("acme").keys == 3
    assert (await reopened(database, clock)).limits("acme").keys == 3


class Mark:
    """An ``Alongside``: a mark of the number of keys."""

    def write(self, connection: Connection, answer: Limits) -> None:
        connection.execute(marks.insert(), {"name": "test", "value": answer.keys})


async def test_what_belongs_to_a_change_becomes_durable_with_it_or_neither_does(
    database: Database, opened: Quotas
) -> None:
    await opened.change("acme", LimitsUpdate(keys=2), Recording(), Mark())
    assert await database.run(lambda connection: connection.execute(select(marks.c.value)).scalars().all()) == [2]
    # The mark is there already, so this transaction fails.
    with pytest.raises(UnavailableError):
        await opened.change("acme", LimitsUpdate(keys=1), Recording(), Mark())
    assert opened.limits("acme").keys == 2
    assert (await QuotaTable(database).read())["acme"] == LimitsUpdate(keys=2)


async def test_a_change_goes_to_its_end_when_its_caller_hangs_up(database: Database, opened: Quotas) -> None:
    audit = Recording()
    audit.go.clear()
    asking = asyncio.create_task(opened.change("acme", LimitsUpdate(keys=1), audit))
    await audit.reached.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    audit.go.set()
    await opened.close()
    assert opened.limits("acme").keys == 1
    assert (await QuotaTable(database).read())["acme"].keys == 1


async def test_of_two_changes_decided_on_by_the_same_limits_the_second_is_refused(opened: Quotas) -> None:
    seen, first = opened.limits("acme"), Recording()
    outcomes = await asyncio.gather(
        opened.change("acme", LimitsUpdate(keys=1), first, seen=seen),
        opened.change("acme", LimitsUpdate(keys=2), Recording(), seen=seen),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], ConflictError)
    assert opened.limits("acme").keys == 1


async def test_ceilings_of_a_tenant_that_there_is_not_are_refused(database: Database, clock: Clock) -> None:
    settings = QuotaSettings.model_validate({"tenants": {"nobody": {"keys": 1}}})
    with pytest.raises(ConfigurationError, match=r"quotas\.tenants\.nobody"):
        await reopened(database, clock, settings)


RATES = st.builds(Rate, st.floats(1e-300, 1e6), st.integers(1, 10**7))
LIMITS = st.builds(Limits, RATES, RATES, RATES, RATES, st.integers(0, 10**6))
UPDATES = st.builds(
    LimitsUpdate,
    *[st.none() | RATES] * 4,
    st.none() | st.integers(0, 10**6),
)


@given(UPDATES)
def test_limits_are_read_as_they_were_written_without_a_fraction_in_json(update: LimitsUpdate) -> None:
    text = json.dumps(limits_document(update))
    assert update_of_document(json.loads(text, parse_float=lambda number: pytest.fail(number))) == update


@given(LIMITS, LIMITS)
def test_limits_that_are_capped_are_within_the_ceilings_and_nothing_else_is(limits: Limits, ceilings: Limits) -> None:
    cut = capped(limits, ceilings)
    require_within(cut, ceilings)
    assert not raises(limits, cut)
    assert (cut == limits) is not raises(ceilings, limits)


@given(LIMITS, UPDATES, UPDATES)
def test_two_updates_are_as_both_together(limits: Limits, first: LimitsUpdate, second: LimitsUpdate) -> None:
    assert second.on(first.on(limits)) == second.after(first).on(limits)


@pytest.mark.parametrize(
    ("update", "raised"),
    [
        (LimitsUpdate(), False),
        (LimitsUpdate(keys=3), False),
        (LimitsUpdate(keys=2, tenant_calls=Rate(9, 19)), False),
        (LimitsUpdate(keys=4), True),
        (LimitsUpdate(tenant_calls=Rate(10.5, 1)), True),
        (LimitsUpdate(tenant_signatures=Rate(1, 201)), True),
        (LimitsUpdate(keys=1, principal_calls=Rate(6, 1)), True),
    ],
)
def test_a_change_raises_something_where_any_number_is_higher(update: LimitsUpdate, raised: bool) -> None:
    limits = CEILINGS.ceilings("acme")
    assert raises(limits, update.on(limits)) is raised


def test_settings_have_generous_ceilings_and_take_others_for_a_tenant(tmp_path: Path) -> None:
    file = tmp_path / "sealkeeper.toml"
    file.write_text(
        f"{GOOD}\n[quotas]\ntenant_calls = {{ per_second = 5000, burst = 10000 }}\n[quotas.tenants.acme]\nkeys = 50\n"
    )
    found = load_settings(file).quotas
    assert found.ceilings("acme").tenant_calls == found.ceilings("beta").tenant_calls == Rate(5000, 10_000)
    assert (found.ceilings("acme").keys, found.ceilings("beta").keys) == (50, 1000)
    assert found.ceilings("beta").principal_signatures == Rate(50_000, 100_000)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keys = -1", "quotas.keys: "),
        ("tenant_calls = { per_second = 0.5, burst = 1 }", "tenant_calls.per_second: must be at least 1"),
        ("tenant_signatures = { per_second = 0, burst = 1 }", "quotas.tenant_signatures.per_second: "),
        ("tenant_signatures = { per_second = nan, burst = 1 }", "quotas.tenant_signatures.per_second: "),
        ("tenant_signatures = { per_second = 1, burst = 0 }", "quotas.tenant_signatures.burst: "),
        ("tenants.acme.tenant_calls = { per_second = 1 }", "quotas.tenants.acme.tenant_calls.burst: is missing"),
        ("calls = 1", "quotas.calls: there is no such setting"),
    ],
)
def test_a_bad_ceiling_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "sealkeeper.toml"
    file.write_text(f"{GOOD}\n[quotas]\n{text}\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file)
    assert said in str(caught.value)
