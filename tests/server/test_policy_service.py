"""PolicyService in this process: what is checked, authorized, proposed and answered."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.client.cli.policy_cases import read_cases
from sealkeeper.client.policy_operations import run_policy_cases
from sealkeeper.server import calls
from sealkeeper.server.audit import AuditRecord, caller_document
from sealkeeper.server.authorization import Action
from sealkeeper.server.calls import Call
from sealkeeper.server.errors import (
    ApprovalRequiredError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    SealkeeperError,
)
from sealkeeper.server.identity import Principal
from sealkeeper.server.key_changes import CallAudit
from sealkeeper.server.log import AUDIT, Sequencer, Submission
from sealkeeper.server.log.opening import open_logs
from sealkeeper.server.policy_engine import default_policy, schema_text
from sealkeeper.server.policy_service import PolicyService
from sealkeeper.server.policy_simulation import Simulations
from sealkeeper.server.policy_trials import Drafts
from sealkeeper.server.resources import ResourceName
from sealkeeper.v1 import policy_pb2
from tests.log.signer import signers
from tests.server.policy_house import (
    ADMIN,
    CI,
    CUSTODIAN,
    FORBID_ALL,
    HOUR,
    KEY,
    PARENT,
    PERMIT_ALL,
    START,
    VERIFIER,
    PolicyHouse,
    policy_house,
)

CASES = Path(__file__).with_name("default_policy_cases.toml")


class Proposals:
    """A ``Proposer``: has everything approved."""

    def __init__(self) -> None:
        self.proposed: list[tuple[Action, str, str, str]] = []

    async def require(
        self, call: Call, action: Action, resource: ResourceName, parameters: Mapping[str, Any], reason: str, /
    ) -> object:
        assert call.decision is not None
        assert call.decision.approvals > 0
        self.proposed.append((action, str(resource), json.dumps(parameters, sort_keys=True), reason))
        raise ApprovalRequiredError("others must approve first", metadata={"proposal": f"{resource}/proposals/p-1"})


class Desk:
    """The service, and what it speaks to."""

    def __init__(self, house: PolicyHouse, logs: Sequencer) -> None:
        self.house = house
        self.logs = logs
        self.proposals = Proposals()
        self.drafts = Drafts(house.policies)
        simulations = Simulations(logs.log(AUDIT), house.policies, house.authorizer, house.clock.now)
        self.service = PolicyService(
            house.policies, house.authorizer, self.drafts, simulations, self.proposals, self._audit
        )

    def _audit(self) -> CallAudit:
        return CallAudit(calls.current_call(), self.logs, self.house.clock)

    async def ask(self, method: str, who: Principal = ADMIN, parent: str = PARENT, **members: Any) -> Any:
        """What the interceptor does."""
        self.house.call(who, f"PolicyService/{method}")
        request = getattr(policy_pb2, f"{method}Request")(parent=parent, **members)
        return await getattr(self.service, method)(request, None)

    async def simulate(self, who: Principal = ADMIN, **members: Any) -> list[policy_pb2.SimulatePolicyResponse]:
        self.house.call(who, "PolicyService/SimulatePolicy")
        request = policy_pb2.SimulatePolicyRequest(parent=PARENT, **members)
        return [one async for one in self.service.SimulatePolicy(request, None)]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    logs = await open_logs(tmp_path / "logs", signers())
    async with policy_house(tmp_path) as house:
        yield Desk(house, logs)
    await logs.close()


def access(role: str = "ci", action: str = "Sign", resource: str = str(KEY), **other: Any) -> policy_pb2.AccessRequest:
    principal = {"subject": "spiffe://x/y", "role": role, **other.pop("principal", {})}
    return policy_pb2.AccessRequest(
        principal=policy_pb2.AccessPrincipal(**principal), action=action, resource=resource, **other
    )


def case(name: str = "x", allowed: bool = True, **other: Any) -> policy_pb2.PolicyCase:
    return policy_pb2.PolicyCase(**{"name": name, "allowed": allowed, "request": access(), **other})


def fields(error: SealkeeperError) -> list[str]:
    return [one.field for one in getattr(error, "violations", ())]


async def test_the_policy_in_force_is_given_with_the_schema(desk: Desk) -> None:
    found = await desk.ask("GetPolicy", CUSTODIAN)
    assert found.schema == schema_text()
    assert found.version.text == default_policy()
    assert (found.version.name, found.version.number) == ("tenants/acme/policyVersions/1", 1)
    assert (found.version.author, found.version.proposal, len(found.version.digest)) == ("", "", 32)


async def test_versions_before_are_given_by_number_and_others_are_not_there(desk: Desk) -> None:
    await desk.house.put_policy(PERMIT_ALL)
    assert (await desk.ask("GetPolicy")).version.number == 2
    assert (await desk.ask("GetPolicy", number=1)).version.text == default_policy()
    with pytest.raises(NotFoundError) as raised:
        await desk.ask("GetPolicy", number=3)
    assert raised.value.reason == "POLICY_VERSION_NOT_FOUND"
    with pytest.raises(InvalidRequestError) as bad:
        await desk.ask("GetPolicy", number=-1)
    assert fields(bad.value) == ["number"]


async def test_versions_are_listed_newest_first_page_by_page_without_texts(desk: Desk) -> None:
    for _ in range(4):
        await desk.house.put_policy(PERMIT_ALL)
    seen, token = [], ""
    while True:
        page = await desk.ask("ListPolicyVersions", page_size=2, page_token=token)
        seen += page.versions
        token = page.next_page_token
        if not token:
            break
    assert [one.number for one in seen] == [5, 4, 3, 2, 1]
    assert {one.text for one in seen} == {""}
    assert len({one.digest for one in seen}) == 2
    for bad in ("x", "MTow", token + "MTo5OQ=="):
        with pytest.raises(InvalidRequestError) as raised:
            await desk.ask("ListPolicyVersions", page_token=bad)
        assert fields(raised.value) == ["page_token"]


async def test_a_change_is_proposed_and_nothing_is_changed_by_it(desk: Desk) -> None:
    with pytest.raises(ApprovalRequiredError):
        await desk.ask("UpdatePolicy", text=PERMIT_ALL, base=1, reason="for a test")
    parameters = json.dumps({"base": 1, "text": PERMIT_ALL})
    assert desk.proposals.proposed == [(Action.UPDATE_POLICY, PARENT, parameters, "for a test")]
    assert desk.house.policies.in_force("acme").version.number == 1


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"text": "permit", "base": 1}, "text"),
        ({"text": "", "base": 1}, "text"),
        ({"text": PERMIT_ALL}, "base"),
        ({"text": PERMIT_ALL, "base": -1}, "base"),
        ({"text": PERMIT_ALL, "base": 1, "reason": "x" * 1025}, "reason"),
    ],
)
async def test_what_is_wrong_is_not_even_proposed(desk: Desk, members: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        await desk.ask("UpdatePolicy", **members)
    assert fields(raised.value) == [field]
    assert desk.proposals.proposed == []


async def test_a_change_of_a_version_that_is_no_longer_in_force_is_not_proposed(desk: Desk) -> None:
    await desk.house.put_policy(default_policy() + "\n")
    with pytest.raises(ConflictError):
        await desk.ask("UpdatePolicy", text=PERMIT_ALL, base=1)
    assert desk.proposals.proposed == []


@pytest.mark.parametrize(
    ("method", "members", "allowed"),
    [
        ("GetPolicy", {}, (ADMIN, CUSTODIAN)),
        ("ListPolicyVersions", {}, (ADMIN, CUSTODIAN)),
        ("TestPolicy", {"cases": [case()]}, (ADMIN, CUSTODIAN)),
        ("ExplainDecision", {"request": access()}, (ADMIN, CUSTODIAN)),
        ("UpdatePolicy", {"text": PERMIT_ALL, "base": 1}, (ADMIN,)),
    ],
)
async def test_only_those_may_ask_whom_the_policy_lets_and_nobody_about_another_tenant(
    desk: Desk, method: str, members: dict[str, Any], allowed: tuple[Principal, ...]
) -> None:
    for who in (ADMIN, CUSTODIAN, CI, VERIFIER):
        try:
            await desk.ask(method, who, **members)
            got = True
        except PermissionDeniedError:
            got = False
        except ApprovalRequiredError:
            got = True
        assert got is (who in allowed), who
    with pytest.raises(PermissionDeniedError):
        await desk.ask(method, ADMIN, parent="tenants/beta", **members)


async def test_only_those_may_simulate_who_may_read_the_audit_log(desk: Desk) -> None:
    with pytest.raises(PermissionDeniedError):
        await desk.simulate(CUSTODIAN, text=PERMIT_ALL)


async def test_every_case_of_the_default_policy_passes_as_policy_test_runs_it(desk: Desk) -> None:
    cases = read_cases(CASES.read_text("utf-8"), PARENT)
    response = await desk.ask("TestPolicy", cases=cases)
    found = run_policy_cases(PARENT, cases).check(response)
    assert [(one.name, list(one.decision.policies)) for one in found.results if not one.passed] == []
    assert list(found.unused_policies) == []


async def test_cases_fail_against_a_draft_that_decides_otherwise(desk: Desk) -> None:
    draft = FORBID_ALL + PERMIT_ALL
    found = await desk.ask(
        "TestPolicy", text=draft, cases=[case("a"), case("b", False), case("c", False, policy="all")]
    )
    assert [one.passed for one in found.results] == [False, True, False]
    assert list(found.results[0].decision.policies) == ["none"]
    assert list(found.unused_policies) == ["all"]


async def test_grants_do_not_count_in_cases_and_do_in_explanations(desk: Desk) -> None:
    await desk.house.put_key({"repository": "acme/app"})
    grant = await desk.house.grant(CI, Action.SIGN)
    asked = access(principal={"subject": CI.subject})
    (result,) = (await desk.ask("TestPolicy", cases=[case(request=asked)])).results
    assert not result.decision.allowed
    found = await desk.ask("ExplainDecision", request=asked)
    assert (found.decision.allowed, list(found.decision.policies)) == (True, [str(grant.name)])
    assert list(found.texts) == []
    desk.house.now += 2 * HOUR
    assert not (await desk.ask("ExplainDecision", request=asked)).decision.allowed


async def test_a_decision_is_explained_with_the_texts_of_the_policies(desk: Desk) -> None:
    found = await desk.ask("ExplainDecision", request=access())
    assert (found.decision.allowed, found.policy_version) == (True, 1)
    assert list(found.decision.policies) == ["ci-with-a-certificate-may-sign"]
    (text,) = found.texts
    assert text in default_policy()
    assert '@id("ci-with-a-certificate-may-sign")' in text
    draft = await desk.ask("ExplainDecision", request=access(), text=FORBID_ALL)
    assert (draft.decision.allowed, list(draft.texts), draft.policy_version) == (False, [FORBID_ALL], 0)


async def test_labels_are_the_keys_own_unless_others_are_given(desk: Desk) -> None:
    await desk.house.put_key({"repository": "acme/app"})
    assert not (await desk.ask("ExplainDecision", request=access())).decision.allowed
    assert (await desk.ask("ExplainDecision", request=access(labels={"team": "web"}))).decision.allowed


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (access(role="king"), "principal.role"),
        (access(principal={"subject": ""}), "principal.subject"),
        (access(principal={"subject": "x" * 2049}), "principal.subject"),
        (access(principal={"method": "charm"}), "principal.method"),
        (access(principal={"acr": "x" * 1025}), "principal.acr"),
        (access(principal={"amr": ["a"] * 33}), "principal.amr"),
        (access(principal={"amr": [""]}), "principal.amr[0]"),
        (access(principal={"attributes": {"shoe": "x"}}), "principal.attributes"),
        (access(principal={"attributes": {"ref": ""}}), "principal.attributes[ref]"),
        (access(principal={"attributes": {"ref_protected": "yes"}}), "principal.attributes[ref_protected]"),
        (access(action="Fly"), "action"),
        (access(action=""), "action"),
        (access(resource=""), "resource"),
        (access(resource="tenants/beta/keys/release"), "resource"),
        (access(resource="tenants/acme"), "resource"),
        (access(resource="logs/audit"), "resource"),
        (access(action="ListKeys"), "resource"),
        (access(labels={"A": "b"}), "labels"),
        (access(action="ListKeys", resource=PARENT, labels={"a": "b"}), "labels"),
        (access(address="here"), "address"),
        (access(time={"seconds": 2**60}), "time"),
    ],
)
async def test_every_member_of_a_question_is_checked_by_its_name(
    desk: Desk, request_: policy_pb2.AccessRequest, field: str
) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        await desk.ask("ExplainDecision", request=request_)
    assert fields(raised.value) == [f"request.{field}"]
    with pytest.raises(InvalidRequestError) as again:
        await desk.ask("TestPolicy", cases=[case(), case(request=request_)])
    assert fields(again.value) == [f"cases[1].request.{field}"]


async def test_a_resource_of_a_kind_that_the_action_does_not_take_is_refused_with_those_it_takes(desk: Desk) -> None:
    with pytest.raises(InvalidRequestError, match="is a Tenant, and Sign is asked of a Key"):
        await desk.ask("ExplainDecision", request=access(resource=PARENT))


@pytest.mark.parametrize(
    ("cases", "field"),
    [
        ([], "cases"),
        ([case()] * 1001, "cases"),
        ([case(name="")], "cases[0].name"),
        ([case(name="x" * 201)], "cases[0].name"),
        ([case(approvals=11)], "cases[0].approvals"),
        ([case(approvals=-1)], "cases[0].approvals"),
    ],
)
async def test_cases_are_checked_by_their_place(desk: Desk, cases: list[policy_pb2.PolicyCase], field: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        await desk.ask("TestPolicy", cases=cases)
    assert fields(raised.value) == [field]


async def test_a_simulation_ends_with_all_records_done_and_the_most_frequent_change_first(desk: Desk) -> None:
    def record(action: Action) -> bytes:
        who = caller_document(CI)
        return AuditRecord(
            START, "X/Y", "acme", CI.subject, "ci", str(KEY), action=action, address="::1", caller=who
        ).encode()

    other = AuditRecord(START, "X/Y", "acme", CI.subject, "ci").encode()
    await desk.logs.submit(Submission(audit=[record(Action.VERIFY), *[record(Action.SIGN)] * 3, other]))
    found = await desk.simulate(text=FORBID_ALL)
    assert [(one.action, one.count) for one in found[-1].changes] == [("Sign", 3), ("Verify", 1)]
    assert (found[-1].done, found[-1].total, found[-1].skipped) == (5, 5, 1)
    first = found[-1].changes[0]
    assert (first.before.allowed, first.after.allowed, list(first.after.policies)) == (True, False, ["none"])
    assert first.last_time.ToDatetime() == START.replace(tzinfo=None)


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"text": ""}, "text"),
        ({"text": "x"}, "text"),
        ({"text": PERMIT_ALL, "records": -1}, "records"),
        ({"text": PERMIT_ALL, "records": 100_001}, "records"),
    ],
)
async def test_a_simulation_is_checked_before_it_begins(desk: Desk, members: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        await desk.simulate(**members)
    assert fields(raised.value) == [field]


async def test_where_drafts_are_being_checked_already_another_is_refused(desk: Desk) -> None:
    desk.drafts._places._left = 0
    for method, members in (
        ("UpdatePolicy", {"text": PERMIT_ALL, "base": 1}),
        ("TestPolicy", {"text": PERMIT_ALL, "cases": [case()]}),
        ("ExplainDecision", {"text": PERMIT_ALL, "request": access()}),
    ):
        with pytest.raises(OverloadedError):
            await desk.ask(method, **members)
    with pytest.raises(OverloadedError):
        await desk.simulate(text=PERMIT_ALL)
