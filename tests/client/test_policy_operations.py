"""``sealkeeper policy`` and its calls, against a gRPC server that answers as it is told."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from sealkeeper.client import Client, Connection
from sealkeeper.client.cli import run
from sealkeeper.client.errors import CorruptAnswerError, ProposedError
from sealkeeper.client.policy_operations import get_policy, run_policy_cases, simulate_policy, update_policy
from sealkeeper.client.retry import RetryPolicy
from sealkeeper.server.errors import ApprovalRequiredError
from sealkeeper.v1 import policy_pb2
from tests.client.answering import Gateway

PARENT = "tenants/acme"
OLD = '@id("a")\npermit (principal, action, resource);\n'
NEW = '@id("a")\nforbid (principal, action, resource);\n'
CASE = '[[case]]\nname = "{}"\nprincipal = {{ role = "ci" }}\naction = "Sign"\nresource = "k"\nexpect = "{}"\n'


class Streaming(Gateway):
    """Answers SimulatePolicy with a stream."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if not details.method.endswith("/SimulatePolicy"):
            return super().service(details)

        def answer(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            self.asked.append(("SimulatePolicy", request))
            for one in self.answers["SimulatePolicy"]:
                yield one.SerializeToString()

        return grpc.unary_stream_rpc_method_handler(answer)


def version(number: int = 3, text: str = OLD, **other: Any) -> policy_pb2.PolicyVersion:
    name = f"{PARENT}/policyVersions/{number}"
    members = {"name": name, "number": number, "text": text, "digest": hashlib.sha256(text.encode()).digest()}
    return policy_pb2.PolicyVersion(**{**members, **other})


def decision(allowed: bool, *policies: str, **other: Any) -> policy_pb2.AccessDecision:
    return policy_pb2.AccessDecision(allowed=allowed, policies=policies, **other)


def change(**other: Any) -> policy_pb2.PolicyChange:
    members = {
        "subject": "spiffe://x/ci",
        "action": "Sign",
        "resource": f"{PARENT}/keys/release",
        "before": decision(True, "a"),
        "after": decision(False, "b"),
        "count": 3,
    }
    return policy_pb2.PolicyChange(**{**members, **other})


def result(name: str, passed: bool, allowed: bool) -> policy_pb2.PolicyCaseResult:
    return policy_pb2.PolicyCaseResult(name=name, passed=passed, decision=decision(allowed, "a"))


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    found = Streaming(
        {
            "GetPolicy": policy_pb2.GetPolicyResponse(version=version(), schema="entity Key;\n"),
            "ListPolicyVersions": policy_pb2.ListPolicyVersionsResponse(versions=[version(author="ada"), version(1)]),
            "UpdatePolicy": policy_pb2.UpdatePolicyResponse(version=version(4, NEW)),
            "TestPolicy": policy_pb2.TestPolicyResponse(results=[result("x", True, True)], unused_policies=["rest"]),
            "ExplainDecision": policy_pb2.ExplainDecisionResponse(
                decision=decision(True, "a", approvals=1), texts=[OLD], policy_version=3
            ),
            "SimulatePolicy": [
                policy_pb2.SimulatePolicyResponse(done=5, total=9),
                policy_pb2.SimulatePolicyResponse(done=9, total=9, skipped=1, changes=[change()]),
            ],
        }
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("SEALKEEPER_")]:
        monkeypatch.delenv(name)
    (tmp_path / "new.cedar").write_text(NEW)
    (tmp_path / "cases.toml").write_text(CASE.format("x", "allow"))
    with found.serving():
        yield found


def command(gateway: Gateway, *arguments: str) -> int:
    return run(["--insecure", "--endpoint", gateway.address, "--tenant", "acme", "policy", *arguments])


def client(gateway: Gateway) -> Client:
    return Client(Connection(gateway.address, "acme", insecure=True), retry=RetryPolicy(attempts=1))


def test_the_policy_is_shown_as_it_is_or_its_schema(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(gateway, "show") == 0
    assert capsys.readouterr().out == OLD
    assert command(gateway, "show", "--schema") == 0
    assert capsys.readouterr().out == "entity Key;\n"
    assert command(gateway, "show", "-o", "out.cedar") == 0
    assert Path("out.cedar").read_text() == OLD
    assert command(gateway, "show", "--version", "3", "--json") == 0
    assert json.loads(capsys.readouterr().out)["text"] == OLD
    assert [one.number for one in gateway.requests(policy_pb2.GetPolicyRequest)] == [0, 0, 0, 3]


def test_control_characters_of_a_policy_do_not_reach_the_terminal(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "// \x1b[2J\n"
    gateway.answers["GetPolicy"] = policy_pb2.GetPolicyResponse(version=version(3, text))
    assert command(gateway, "show") == 0
    assert "\x1b" not in capsys.readouterr().out


def test_versions_are_listed_with_who_proposed_them(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(gateway, "list") == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("\t")[0] for row in rows] == ["VERSION", "3", "1"]
    assert "ada" in rows[1]
    assert "the gateway" in rows[2]


def test_proposing_shows_the_difference_first_and_names_the_version_that_it_was_made_from(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(gateway, "propose", "new.cedar", "--reason", "because") == 0
    captured = capsys.readouterr()
    assert "-permit (principal, action, resource);" in captured.err
    assert "+forbid (principal, action, resource);" in captured.err
    (asked,) = gateway.requests(policy_pb2.UpdatePolicyRequest)
    assert (asked.parent, asked.text, asked.base, asked.reason) == (PARENT, NEW, 3, "because")


def test_the_difference_is_in_colour_on_terminals_and_without_their_control_characters(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealkeeper.client.cli.policy_drafts.coloured", lambda stream: True)
    Path("new.cedar").write_text(NEW + "// \x1b[2J\n")
    assert command(gateway, "propose", "new.cedar") == 0
    told = capsys.readouterr().err
    assert "\x1b[31m-permit (principal, action, resource);\x1b[0m" in told
    assert "\x1b[32m+forbid (principal, action, resource);\x1b[0m" in told
    assert "\x1b[2J" not in told


def test_what_waits_for_approval_ends_with_its_own_code(gateway: Gateway) -> None:
    with client(gateway) as one:
        gateway.errors = [ApprovalRequiredError("wait", metadata={"proposal": f"{PARENT}/proposals/p-1"})]
        with pytest.raises(ProposedError) as raised:
            one.call(update_policy(PARENT, NEW, 3))
    assert (raised.value.exit_code, raised.value.proposal) == (4, f"{PARENT}/proposals/p-1")


def test_a_test_says_which_cases_pass_and_which_policies_none_is_about(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(gateway, "test", "cases.toml", "--policy", "new.cedar") == 0
    captured = capsys.readouterr()
    assert "1 passed, 0 failed" in captured.out
    assert "rest" in captured.err
    (asked,) = gateway.requests(policy_pb2.TestPolicyRequest)
    assert (asked.text, [one.name for one in asked.cases]) == (NEW, ["x"])


def test_a_case_that_fails_ends_with_1_and_says_what_is(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.answers["TestPolicy"] = policy_pb2.TestPolicyResponse(results=[result("x", False, False)])
    assert command(gateway, "test", "cases.toml") == 1
    assert "is: denied by a" in capsys.readouterr().out
    assert command(gateway, "test", "cases.toml", "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["passed"], document["cases"][0]["passed"], document["cases"][0]["policies"]) == (
        False,
        False,
        ["a"],
    )


def test_a_file_of_cases_that_is_wrong_ends_with_2_and_names_the_member(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("cases.toml").write_text(CASE.format("x", "perhaps"))
    assert command(gateway, "test", "cases.toml", "--json") == 2
    document = json.loads(capsys.readouterr().out)
    assert document["reason"] == "CASES_INVALID"
    assert document["violations"][0]["field"] == "case[0] (x).expect"
    assert gateway.asked == []


@pytest.mark.parametrize("content", [b"", b"\xff", b"x" * (256 * 1024 + 1)])
def test_a_draft_that_cannot_be_one_is_refused_before_anything_is_asked(gateway: Gateway, content: bytes) -> None:
    Path("new.cedar").write_bytes(content)
    for words in (["propose", "new.cedar"], ["simulate", "--policy", "new.cedar"]):
        assert command(gateway, *words) == 2
    assert gateway.asked == []


def test_an_explanation_names_the_policies_and_shows_them(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--role", "ci", "--action", "Sign", "--resource", "release", "--subject", "s", "--method", "token"]
    more = ["--attribute", "repository=acme/app", "--label", "team=web", "--amr", "otp", "--time", "2026-03-01T12:00Z"]
    assert command(gateway, "explain", *words, *more) == 0
    captured = capsys.readouterr().out
    assert "allowed with 1 approval by a (version 3)" in captured
    assert "permit (principal, action, resource);" in captured
    (asked,) = gateway.requests(policy_pb2.ExplainDecisionRequest)
    request = asked.request
    assert (request.action, request.resource) == ("Sign", f"{PARENT}/keys/release")
    assert (dict(request.principal.attributes), dict(request.labels)) == ({"repository": "acme/app"}, {"team": "web"})
    assert (list(request.principal.amr), request.time.ToJsonString()) == (["otp"], "2026-03-01T12:00:00Z")


@pytest.mark.parametrize("option", ["--attribute", "--label"])
def test_a_pair_that_is_none_is_refused_by_its_option(
    gateway: Gateway, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert command(gateway, "explain", "--role", "ci", "--action", "Sign", option, "x", "--json") == 2
    assert json.loads(capsys.readouterr().out)["violations"][0]["field"] == option


def test_a_simulation_tells_changes_and_fails_on_them_where_asked(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["simulate", "--policy", "new.cedar", "--records", "50"]
    assert command(gateway, *words) == 0
    captured = capsys.readouterr().out
    assert "9 records, 1 of them without a question to decide again; 3 would be decided otherwise" in captured
    assert "\tallowed\tdenied\t" in captured
    assert command(gateway, *words, "--fail-on-change", "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["records"], document["skipped"], document["changes"][0]["count"]) == (9, 1, 3)
    gateway.answers["SimulatePolicy"] = [policy_pb2.SimulatePolicyResponse(done=2, total=2)]
    assert command(gateway, *words, "--fail-on-change") == 0
    assert gateway.requests(policy_pb2.SimulatePolicyRequest)[0].records == 50


def test_a_simulation_that_breaks_off_is_not_taken_for_one_without_changes(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    for answers in ([], [policy_pb2.SimulatePolicyResponse(done=5, total=9)]):
        gateway.answers["SimulatePolicy"] = answers
        assert command(gateway, "simulate", "--policy", "new.cedar", "--json") == 1
        assert json.loads(capsys.readouterr().out)["reason"] == "ANSWER_CORRUPT"
    with client(gateway) as one:
        assert len(list(one.stream(simulate_policy(PARENT, NEW)))) == 1


@pytest.mark.parametrize(
    "answer",
    [
        policy_pb2.GetPolicyResponse(),
        policy_pb2.GetPolicyResponse(version=version(2)),
        policy_pb2.GetPolicyResponse(version=version(digest=bytes(32))),
    ],
)
def test_another_policy_than_was_asked_for_is_refused(gateway: Gateway, answer: policy_pb2.GetPolicyResponse) -> None:
    gateway.answers["GetPolicy"] = answer
    with client(gateway) as one, pytest.raises(CorruptAnswerError):
        one.call(get_policy(PARENT, 3))


@pytest.mark.parametrize(
    "results",
    [
        [],
        [result("y", True, True)],
        [result("x", True, True), result("x", True, True)],
        [result("x", True, False)],
        [result("x", False, True)],
    ],
)
def test_results_that_are_not_those_of_the_cases_are_refused(
    gateway: Gateway, results: list[policy_pb2.PolicyCaseResult]
) -> None:
    gateway.answers["TestPolicy"] = policy_pb2.TestPolicyResponse(results=results)
    with client(gateway) as one, pytest.raises(CorruptAnswerError):
        one.call(run_policy_cases(PARENT, [policy_pb2.PolicyCase(name="x", allowed=True)]))
