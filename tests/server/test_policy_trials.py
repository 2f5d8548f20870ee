"""Trying policies: answers, cases, and how many drafts are checked at a time."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path

import pytest

from sealkeeper.client.cli.policy_cases import read_cases
from sealkeeper.server.authorization import Action, Decision
from sealkeeper.server.errors import InvalidRequestError, OverloadedError
from sealkeeper.server.policy_engine import Link, Policy, compile_policy, default_policy
from sealkeeper.server.policy_trials import (
    MAX_DRAFTS,
    MAX_DRAFTS_OF_TENANT,
    Answer,
    Case,
    Drafts,
    Places,
    answer,
    answer_of,
    run_cases,
    unused_policies,
)
from sealkeeper.server.resources import (
    KeyName,
    KeyVersionName,
    LogName,
    ProposalName,
    ProviderName,
    TenantName,
    parse_resource,
)
from tests.server.policy_house import CI, CUSTODIAN, FORBID_ALL, KEY, PARENT, PERMIT_ALL, policy_house, question

ALL = compile_policy(PERMIT_ALL)
SIGN = question(CI, Action.SIGN, labels={})


def test_an_answer_names_the_policies_that_decided() -> None:
    both = compile_policy(PERMIT_ALL + PERMIT_ALL.replace('"all"', '"also"'))
    assert answer(both, SIGN) == Answer(True, ("all", "also"))
    assert answer(compile_policy(PERMIT_ALL + FORBID_ALL), SIGN) == Answer(False, ("none",))
    nothing = compile_policy('@id("x") permit (principal, action == Sealkeeper::Action::"Verify", resource);')
    assert answer(nothing, SIGN) == Answer(False, ())


def test_an_answer_names_the_grant_that_decided() -> None:
    granted = compile_policy(default_policy()).granting(
        [Link("tenants/acme/grants/g-1", CI.subject, False, [Action.SIGN], KEY)]
    )
    labelled = question(CI, Action.SIGN, labels={"repository": "acme/app"})
    assert answer(granted, labelled) == Answer(True, ("tenants/acme/grants/g-1",))


def test_what_cannot_wait_for_approvals_that_it_needs_is_refused_as_the_call_would_be() -> None:
    strict = compile_policy(f'@approvals("2") {PERMIT_ALL}')
    assert answer(strict, SIGN) == Answer(False, ("all",), 2)
    assert answer(strict, question(CUSTODIAN, Action.IMPORT_KEY)) == Answer(True, ("all",), 2)
    assert answer_of(Decision(True, "a,b", "1", 1), Action.SIGN) == Answer(False, ("a", "b"), 1)


def test_a_policy_that_cannot_be_evaluated_is_told_of_by_its_id() -> None:
    sum_ = '@id("sum") permit (principal, action, resource) when { 9223372036854775807 + 1 > 0 };'
    found = answer(compile_policy(PERMIT_ALL + sum_), SIGN)
    assert (found.allowed, found.policies) == (False, ())
    assert len(found.errors) == 1
    assert "`sum`" in found.errors[0]
    assert "policy1" not in found.errors[0]


def test_what_is_another_tenants_is_refused_whatever_the_policy_says() -> None:
    assert answer(ALL, question(CI, Action.SIGN, KeyName("beta", "release"))) == Answer(False, ("tenant-isolation",))


@pytest.mark.parametrize(
    ("expected", "passed"),
    [
        ({"allowed": True}, True),
        ({"allowed": False}, False),
        ({"allowed": True, "policy": "all"}, True),
        ({"allowed": True, "policy": "other"}, False),
        ({"allowed": True, "approvals": 0}, True),
        ({"allowed": True, "approvals": 1}, False),
    ],
)
def test_a_case_passes_where_all_that_it_expects_is_so(expected: dict[str, object], passed: bool) -> None:
    (result,) = run_cases(ALL, [Case("x", SIGN, **expected)])  # type: ignore[arg-type]
    assert result.passed is passed


def test_policies_that_decide_no_case_are_named_in_their_order() -> None:
    policy = compile_policy(default_policy())
    results = run_cases(policy, [Case("x", question(CI, Action.VERIFY, labels={}), True)])
    unused = unused_policies(policy, results)
    assert "everybody-may-verify" not in unused
    assert unused == [name for name in policy.texts if name != "everybody-may-verify"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("tenants/acme", TenantName("acme")),
        ("tenants/acme/keys/release", KEY),
        ("tenants/acme/keys/release/versions/2", KeyVersionName("acme", "release", 2)),
        ("tenants/acme/proposals/p-1", ProposalName("acme", "p-1")),
        ("tenants/acme/providers/hsm", ProviderName("acme", "hsm")),
        ("logs/audit", LogName("audit")),
    ],
)
def test_names_of_every_kind_are_read(text: str, name: object) -> None:
    assert parse_resource(text, "resource") == name


@pytest.mark.parametrize(
    "text", ["", "acme", "tenants", "tenants/", "tenants/acme/", "tenants/acme/shoes/1", "logs/x", "x" * 100_000]
)
def test_other_names_are_refused_by_their_field(text: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        parse_resource(text, "cases[3].request.resource")
    assert raised.value.violations[0].field == "cases[3].request.resource"
    assert len(str(raised.value)) < 400


def test_places_are_few_and_one_a_tenant_and_free_again_afterwards() -> None:
    places = Places(2, "simulations")
    with places.one("acme"):
        with pytest.raises(OverloadedError), places.one("acme"):
            pass
        with places.one("beta"), pytest.raises(OverloadedError) as raised, places.one("gamma"):
            pass
        assert raised.value.retry_after is not None
        with places.one("beta"):
            pass
    with pytest.raises(KeyError), places.one("acme"):
        raise KeyError
    with places.one("acme"):
        pass


async def test_drafts_are_checked_a_few_at_a_time_and_those_beyond_are_refused(tmp_path: Path) -> None:
    async with policy_house(tmp_path) as house:
        drafts = Drafts(house.policies)
        text = default_policy()
        tenants = [f"t{place // MAX_DRAFTS_OF_TENANT}" for place in range(MAX_DRAFTS + 3)]
        found = await asyncio.gather(*(drafts.compiled(one, text) for one in tenants), return_exceptions=True)
        assert sum(isinstance(one, OverloadedError) for one in found) == 3
        assert (await drafts.compiled("acme", text)).texts


async def test_the_drafts_of_one_tenant_leave_places_to_the_others(tmp_path: Path) -> None:
    async with policy_house(tmp_path) as house:
        drafts, text = Drafts(house.policies), default_policy()
        found = await asyncio.gather(
            *(drafts.compiled("acme", text) for _ in range(MAX_DRAFTS)),
            *(drafts.compiled("beta", text) for _ in range(MAX_DRAFTS - MAX_DRAFTS_OF_TENANT)),
            return_exceptions=True,
        )
        refused = [isinstance(one, OverloadedError) for one in found]
        assert refused == [False] * MAX_DRAFTS_OF_TENANT + [True] * (MAX_DRAFTS - MAX_DRAFTS_OF_TENANT) + [False] * 2


async def test_a_caller_who_hangs_up_does_not_make_room_before_its_draft_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with policy_house(tmp_path) as house:
        compiled, go, begun = house.policies.compiled, asyncio.Event(), asyncio.Semaphore(0)

        async def held(text: str, field: str = "text") -> Policy:
            begun.release()
            await go.wait()
            return await compiled(text, field)

        monkeypatch.setattr(house.policies, "compiled", held)
        drafts = Drafts(house.policies)
        tasks = [
            asyncio.create_task(drafts.compiled(tenant, default_policy()))
            for tenant in ("acme", "beta")
            for _ in range(MAX_DRAFTS_OF_TENANT)
        ]
        for _ in tasks:
            await begun.acquire()
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with pytest.raises(OverloadedError):
            await drafts.compiled("gamma", default_policy())
        go.set()
        await drafts._checks.close()
        assert (await drafts.compiled("acme", default_policy())).texts


def test_the_file_of_cases_for_the_default_policy_has_every_role_and_every_policy() -> None:
    path = Path(__file__).with_name("default_policy_cases.toml")
    cases = read_cases(path.read_text("utf-8"), PARENT)
    assert len(cases) >= 40
    assert len({one.name for one in cases}) == len(cases)
    assert {one.request.principal.role for one in cases} == {"admin", "custodian", "ci", "verifier"}
    named = {one["policy"] for one in tomllib.loads(path.read_text("utf-8"))["case"] if "policy" in one}
    assert named == set(compile_policy(default_policy()).texts)
    assert {one.request.action for one in cases} == {str(action) for action in Action}
