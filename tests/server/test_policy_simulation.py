"""Simulations: which records are replayed, what of them changes, and that nobody waits for them."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.server import policy_simulation
from sealkeeper.server.audit import AuditRecord, caller_document
from sealkeeper.server.authorization import Action
from sealkeeper.server.errors import OverloadedError
from sealkeeper.server.identity import Method, Principal, Role
from sealkeeper.server.log import AUDIT, Sequencer, Submission
from sealkeeper.server.log.opening import open_logs
from sealkeeper.server.policy_engine import Facts, Policy, compile_policy, default_policy
from sealkeeper.server.policy_simulation import Change, Progress, Simulations, question_of
from sealkeeper.server.policy_trials import Answer
from sealkeeper.server.resources import ResourceName
from tests.log.signer import signers
from tests.server.policy_house import (
    CI,
    CUSTODIAN,
    FORBID_ALL,
    KEY,
    PERMIT_ALL,
    START,
    VERIFIER,
    PolicyHouse,
    policy_house,
)

JOB = Principal(
    "acme",
    "https://issuer.example#repo:acme/app",
    Role.CI,
    method=Method.TOKEN,
    issuer="https://issuer.example",
    attributes=(("ref_protected", "true"), ("repository", "acme/app")),
    amr=("pop",),
)
FOREIGN = Principal("beta", "spiffe://beta.example/x", Role.CI)
NO_ONE = compile_policy(FORBID_ALL)
DEFAULT = compile_policy(default_policy())


def record(
    principal: Principal = CI, action: str = Action.SIGN, resource: object = KEY, time: datetime = START, **other: Any
) -> bytes:
    members = {"action": action, "address": "192.0.2.7", "caller": caller_document(principal), **other}
    return AuditRecord(
        time, "X/Y", principal.tenant, principal.subject, principal.role, str(resource), **members
    ).encode()


class Bench:
    """A log, and what simulates over it."""

    def __init__(self, logs: Sequencer, house: PolicyHouse) -> None:
        self.logs = logs
        self.house = house
        self.simulations = Simulations(logs.log(AUDIT), house.policies, house.authorizer, house.clock.now)

    async def add(self, *records: bytes) -> None:
        await self.logs.submit(Submission(audit=records))

    async def run(self, draft: Policy = NO_ONE, records: int = 1000) -> Progress:
        found = [one async for one in self.simulations.run("acme", draft, records)]
        assert found[-1].ended
        assert found[-1].done == found[-1].total
        return found[-1]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    logs = await open_logs(tmp_path / "logs", signers())
    async with policy_house(tmp_path) as house:
        yield Bench(logs, house)
    await logs.close()


async def test_what_a_draft_decides_otherwise_is_told_alike_ones_counted_together(bench: Bench) -> None:
    later = START + timedelta(minutes=5)
    await bench.add(record(), record(time=later), record(), record(VERIFIER, Action.VERIFY), record(VERIFIER))
    found = await bench.run()
    assert (found.done, found.skipped) == (5, 0)
    sign = Change(
        CI.subject, "Sign", str(KEY), Answer(True, ("ci-with-a-certificate-may-sign",)), Answer(False, ("none",))
    )
    verify = Change(
        VERIFIER.subject, "Verify", str(KEY), Answer(True, ("everybody-may-verify",)), Answer(False, ("none",))
    )
    assert found.changes == {sign: (3, later), verify: (1, START)}


async def test_a_draft_that_is_the_policy_in_force_changes_nothing(bench: Bench) -> None:
    await bench.add(record(), record(CUSTODIAN, Action.IMPORT_KEY), record(JOB))
    assert (await bench.run(DEFAULT)).changes == {}


async def test_another_number_of_approvals_is_a_change_and_another_policy_alone_is_none(bench: Bench) -> None:
    await bench.add(record(CUSTODIAN, Action.COMPROMISE_KEY_VERSION), record())
    renamed = compile_policy(
        default_policy().replace("ci-with-a-certificate-may-sign", "renamed").replace('"1"', '"2"')
    )
    found = await bench.run(renamed)
    assert [(one.action, one.before.approvals, one.after.approvals) for one in found.changes] == [
        ("CompromiseKeyVersion", 1, 2)
    ]


async def test_the_newest_records_of_the_tenant_are_replayed_and_others_records_are_not(bench: Bench) -> None:
    await bench.add(*(record(resource=f"tenants/acme/keys/k{number}") for number in range(400)))
    await bench.add(*(record(FOREIGN, resource="tenants/beta/keys/x") for _ in range(700)))
    await bench.add(record(resource="tenants/acme/keys/last"))
    found = await bench.run(records=3)
    assert {one.resource for one in found.changes} == {f"tenants/acme/keys/{one}" for one in ("last", "k399", "k398")}
    assert found.done == 3
    assert (await bench.run()).done == 401


async def test_progress_is_told_and_never_goes_back(bench: Bench) -> None:
    await bench.add(*(record() for _ in range(1000)))
    seen = [(one.done, one.total, one.ended) async for one in bench.simulations.run("acme", NO_ONE, 900)]
    assert seen == sorted(seen)
    assert len(seen) > 3
    assert all(done <= total for done, total, _ in seen)
    assert seen[-1] == (900, 900, True)


async def test_no_more_of_the_log_is_looked_at_than_may_be(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_simulation, "MAX_LOOKED_AT", 300)
    await bench.add(*(record() for _ in range(1000)))
    assert (await bench.run()).done == 300


async def test_an_empty_log_is_soon_over(bench: Bench) -> None:
    assert (await bench.run()).done == 0


@pytest.mark.parametrize(
    "change",
    [
        {"action": ""},
        {"action": "Fly"},
        {"role": "king"},
        {"resource": "somewhere"},
        {"address": "nowhere"},
        {"caller": {"method": "charm"}},
        {"caller": {"attributes": ["x"]}},
        {"caller": 7},
        {"time": "yesterday"},
        {"subject": 7},
    ],
)
async def test_a_record_that_tells_no_question_is_skipped_and_counted(bench: Bench, change: dict[str, Any]) -> None:
    broken = json.dumps({**json.loads(record()), **change}).encode()
    await bench.add(broken, record())
    found = await bench.run()
    assert (found.done, found.skipped, len(found.changes)) == (2, 1, 1)


async def test_records_that_are_nobodys_or_no_json_are_passed_over(bench: Bench) -> None:
    await bench.add(b"{", b"[]", b"\xff", AuditRecord(START, "X/Y").encode(), record())
    assert (await bench.run()).done == 1


def test_a_record_tells_the_question_that_was_asked() -> None:
    def facts(resource: ResourceName) -> Facts:
        assert resource == KEY
        return Facts({"a": "b"})

    for one in (JOB, CI, CUSTODIAN):
        found = question_of(record(one), facts)
        assert found is not None
        assert (found.principal, found.action, found.resource) == (one, Action.SIGN, KEY)
        assert (found.address, found.now, found.facts) == ("192.0.2.7", START, Facts({"a": "b"}))


async def test_labels_are_those_that_keys_have_now(bench: Bench) -> None:
    await bench.add(record(JOB))
    allowed = compile_policy(PERMIT_ALL)
    assert [one.before.allowed for one in (await bench.run(allowed)).changes] == [False]
    await bench.house.put_key({"repository": "acme/app"})
    assert (await bench.run(allowed)).changes == {}


async def test_grants_in_force_count_on_both_sides_and_those_that_ended_on_none(bench: Bench) -> None:
    await bench.house.put_key({"repository": "acme/app"})
    await bench.add(record())
    draft = compile_policy('@id("x") permit (principal, action == Sealkeeper::Action::"Verify", resource);')
    await bench.house.grant(CI, Action.SIGN)
    assert (await bench.run(draft)).changes == {}
    assert [one.before.policies for one in (await bench.run()).changes] == [
        (str(next(iter(bench.house.grants._of("acme").values())).name),)
    ]
    bench.house.now += timedelta(hours=2)
    assert (await bench.run()).changes == {}


async def test_the_time_and_address_of_a_record_are_those_that_it_tells(bench: Bench) -> None:
    await bench.add(record(), record(time=START + timedelta(hours=3)), record(address=""))
    early = compile_policy(
        '@id("x") permit (principal, action, resource) when { context.now < datetime("2026-03-01T13:00:00Z") && '
        'context has address && context.address.isInRange(ip("192.0.2.0/24")) };'
    )
    assert [count for count, _ in (await bench.run(early)).changes.values()] == [2]


async def test_changes_beyond_those_told_apart_are_counted_by_action(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_simulation, "MAX_CHANGES", 2)
    await bench.add(*(record(resource=f"tenants/acme/keys/k{number}") for number in range(10)))
    found = await bench.run()
    assert sum(count for count, _ in found.changes.values()) == 10
    assert [(one.subject, one.resource, seen[0]) for one, seen in found.changes.items()][-1] == ("", "", 8)


async def test_a_tenant_simulates_once_at_a_time_and_one_that_was_given_up_makes_room(bench: Bench) -> None:
    await bench.add(*(record() for _ in range(600)))
    async with aclosing(bench.simulations.run("acme", NO_ONE, 600)) as first:
        await anext(first)
        with pytest.raises(OverloadedError):
            await anext(bench.simulations.run("acme", NO_ONE, 600))
        assert (await anext(bench.simulations.run("beta", NO_ONE, 600))).ended
    assert (await bench.run()).done == 600


async def test_records_are_decided_again_in_another_thread_than_calls_are_answered_in(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, threads = bench.house.authorizer.facts, set[int]()

    def seen(resource: ResourceName) -> Facts:
        threads.add(threading.get_ident())
        return facts(resource)

    monkeypatch.setattr(bench.house.authorizer, "facts", seen)
    await bench.add(*(record() for _ in range(512)))
    assert (await bench.run()).done == 512
    assert threads
    assert threading.get_ident() not in threads
