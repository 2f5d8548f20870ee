"""Calls about gates, against a gRPC server that answers as it is told: what contradicts itself is not passed on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sealkeeper.client import AsyncClient, Client, Connection
from sealkeeper.client.errors import CorruptAnswerError, InvalidRequestError, ProposedError
from sealkeeper.client.gate_operations import create_gate_exception, evaluate_gate, report_gate_decisions, update_gate
from sealkeeper.client.retry import RetryPolicy
from sealkeeper.server.errors import ApprovalRequiredError
from sealkeeper.v1 import attestation_pb2, gate_pb2, signing_pb2
from tests.client.answering import Gateway

PARENT = "tenants/acme"
GATE = f"{PARENT}/gates/production"
SHA = "ab" * 32
SUBJECT = attestation_pb2.Subject(name="ghcr.io/acme/app", digest={"sha256": SHA})
TEXT = "gate: v1\n"
HOUR = timedelta(hours=1)


def decision(**other: Any) -> gate_pb2.GateDecision:
    members: dict[str, Any] = {
        "name": f"{GATE}/decisions/d1",
        "outcome": gate_pb2.GATE_OUTCOME_ALLOW,
        "passed": True,
        "mode": gate_pb2.GATE_MODE_ENFORCE,
        "subject": SUBJECT,
        "environment": "production",
    }
    return gate_pb2.GateDecision(**{**members, **other})


def version(**other: Any) -> gate_pb2.GateVersion:
    digest = hashlib.sha256(TEXT.encode()).digest()
    members = {"name": f"{GATE}/versions/2", "number": 2, "text": TEXT, "digest": digest}
    return gate_pb2.GateVersion(**{**members, **other})


def exception(**other: Any) -> gate_pb2.GateException:
    members: dict[str, Any] = {
        "name": f"{GATE}/exceptions/e1",
        "state": gate_pb2.GATE_EXCEPTION_STATE_ACTIVE,
        "digest": f"sha256:{SHA}",
    }
    return gate_pb2.GateException(**{**members, **other})


ENDED = exception(state=gate_pb2.GATE_EXCEPTION_STATE_REVOKED)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway(
        {
            "Evaluate": gate_pb2.EvaluateResponse(decision=decision()),
            "ReportDecisions": gate_pb2.ReportDecisionsResponse(names=[f"{GATE}/decisions/d2"]),
            "GetGateSnapshot": gate_pb2.GetGateSnapshotResponse(snapshot=b"{}"),
            "ListGates": gate_pb2.ListGatesResponse(gates=[version(text="")]),
            "GetGateVersion": gate_pb2.GetGateVersionResponse(version=version()),
            "ListGateVersions": gate_pb2.ListGateVersionsResponse(versions=[version(text="")]),
            "UpdateGate": gate_pb2.UpdateGateResponse(version=version()),
            "CreateGateException": gate_pb2.CreateGateExceptionResponse(exception=exception()),
            "RevokeGateException": gate_pb2.RevokeGateExceptionResponse(exception=ENDED),
            "ListGateExceptions": gate_pb2.ListGateExceptionsResponse(exceptions=[exception(), ENDED]),
            "GetGateDecision": gate_pb2.GetGateDecisionResponse(decision=decision()),
            "ListGateDecisions": gate_pb2.ListGateDecisionsResponse(decisions=[decision()]),
        }
    )
    with made.serving():
        yield made


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Client]:
    with Client(Connection(gateway.address, "acme", insecure=True), retry=RetryPolicy(attempts=1)) as made:
        yield made


def evaluate(client: Client) -> gate_pb2.EvaluateResponse:
    return client.evaluate_gate(GATE, SUBJECT, environment="production")


def exempt(client: Client, **what: str) -> gate_pb2.GateException:
    return client.create_gate_exception(GATE, **what, lifetime=HOUR, reason="a fix")


def test_every_call_gives_what_the_gateway_answers(client: Client) -> None:
    assert evaluate(client).decision == decision()
    assert client.report_gate_decisions(GATE, [decision()]) == [f"{GATE}/decisions/d2"]
    assert client.get_gate_snapshot(GATE).snapshot == b"{}"
    assert [*client.list_gates(PARENT)] == [version(text="")] == [*client.list_gate_versions(GATE)]
    assert client.get_gate_version(GATE) == version() == client.get_gate_version(f"{GATE}/versions/2")
    assert client.update_gate(GATE, TEXT, 1) == version()
    assert exempt(client, digest=f"sha256:{SHA}") == exception()
    assert client.revoke_gate_exception(exception().name) == ENDED
    assert [*client.list_gate_exceptions(GATE)] == [exception(), ENDED]
    assert client.get_gate_decision(decision().name) == decision()
    assert [*client.list_gate_decisions(GATE, outcome="DENY", after=datetime(2026, 3, 1, tzinfo=UTC))] == [decision()]


async def test_the_client_for_asyncio_gives_the_same(gateway: Gateway) -> None:
    connection = Connection(gateway.address, "acme", insecure=True)
    async with AsyncClient(connection, retry=RetryPolicy(attempts=1)) as client:
        found = await client.evaluate_gate(GATE, SUBJECT, environment="production")
        assert found.decision == decision()
        assert [one async for one in client.list_gates(PARENT)] == [version(text="")]
        assert [one async for one in client.list_gate_decisions(GATE)] == [decision()]


DENIED: dict[str, Any] = {"outcome": gate_pb2.GATE_OUTCOME_DENY, "passed": False}
REASON = gate_pb2.GateReason(code="SIGNATURES_TOO_FEW")


@pytest.mark.parametrize(
    "wrong",
    [
        decision(subject=attestation_pb2.Subject(digest={"sha256": "cd" * 32})),
        decision(environment="staging"),
        decision(name=f"{PARENT}/gates/other/decisions/d1"),
        decision(name=""),
        decision(outcome=gate_pb2.GATE_OUTCOME_UNSPECIFIED),
        decision(mode=gate_pb2.GATE_MODE_UNSPECIFIED),
        decision(**{**DENIED, "passed": True}),
        decision(passed=False),
        decision(**DENIED, mode=gate_pb2.GATE_MODE_AUDIT),
        decision(**DENIED, exception=f"{GATE}/exceptions/e1"),
        decision(reasons=[REASON]),
    ],
)
def test_a_decision_that_contradicts_itself_or_is_another_is_not_believed(
    gateway: Gateway, client: Client, wrong: gate_pb2.GateDecision
) -> None:
    gateway.answers["Evaluate"] = gate_pb2.EvaluateResponse(decision=wrong)
    with pytest.raises(CorruptAnswerError):
        evaluate(client)


@pytest.mark.parametrize(
    "right",
    [
        decision(**DENIED, reasons=[REASON]),
        decision(passed=False, reasons=[REASON], mode=gate_pb2.GATE_MODE_WARN),
        decision(passed=False, reasons=[REASON], exception=f"{GATE}/exceptions/e1"),
    ],
)
def test_a_denial_a_warning_and_an_exception_are_answers(
    gateway: Gateway, client: Client, right: gate_pb2.GateDecision
) -> None:
    gateway.answers["Evaluate"] = gate_pb2.EvaluateResponse(decision=right)
    assert evaluate(client).decision == right


@pytest.mark.parametrize(
    ("method", "answer", "call"),
    [
        (
            "Evaluate",
            gate_pb2.EvaluateResponse(decision=decision(), summary=signing_pb2.Signature(bundle=b"{}")),
            evaluate,
        ),
        (
            "ReportDecisions",
            gate_pb2.ReportDecisionsResponse(),
            lambda client: client.report_gate_decisions(GATE, [decision()]),
        ),
        (
            "GetGateSnapshot",
            gate_pb2.GetGateSnapshotResponse(snapshot=b"{}", bundle=b"{}"),
            lambda client: client.get_gate_snapshot(GATE),
        ),
        (
            "GetGateVersion",
            gate_pb2.GetGateVersionResponse(version=version(text="gate: v2\n")),
            lambda client: client.get_gate_version(GATE),
        ),
        (
            "GetGateVersion",
            gate_pb2.GetGateVersionResponse(version=version()),
            lambda client: client.get_gate_version(f"{GATE}/versions/1"),
        ),
        (
            "CreateGateException",
            gate_pb2.CreateGateExceptionResponse(exception=exception(digest="", pattern="**")),
            lambda client: exempt(client, digest=f"sha256:{SHA}"),
        ),
        (
            "RevokeGateException",
            gate_pb2.RevokeGateExceptionResponse(exception=exception()),
            lambda client: client.revoke_gate_exception(exception().name),
        ),
        (
            "GetGateDecision",
            gate_pb2.GetGateDecisionResponse(decision=decision()),
            lambda client: client.get_gate_decision(f"{GATE}/decisions/d9"),
        ),
    ],
)
def test_an_answer_that_was_not_asked_for_is_not_passed_on(
    gateway: Gateway, client: Client, method: str, answer: Any, call: Callable[[Client], Any]
) -> None:
    gateway.answers[method] = answer
    with pytest.raises(CorruptAnswerError):
        call(client)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: evaluate_gate(GATE, SUBJECT, bundles=[b"x"] * 65), "bundles"),
        (lambda: evaluate_gate(GATE, SUBJECT, bundles=[b"x" * (4 * 1024 * 1024 + 1)] * 2), "bundles"),
        (lambda: update_gate(GATE, "x" * 262_145, 0), "text"),
        (lambda: report_gate_decisions(GATE, []), "decisions"),
        (lambda: report_gate_decisions(GATE, [decision()] * 1001), "decisions"),
        (lambda: create_gate_exception(GATE, lifetime=HOUR, reason="x"), "what"),
        (lambda: create_gate_exception(GATE, digest="sha256:0", pattern="a", lifetime=HOUR, reason="x"), "what"),
    ],
)
def test_what_the_contract_does_not_allow_is_refused_before_it_is_sent(make: Callable[[], Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        make()
    assert [one.field for one in caught.value.violations] == [field]


def test_a_policy_that_waits_for_approval_is_told_as_proposed(gateway: Gateway, client: Client) -> None:
    gateway.errors.append(ApprovalRequiredError("wait", metadata={"proposal": f"{PARENT}/proposals/p1"}))
    with pytest.raises(ProposedError) as caught:
        client.update_gate(GATE, TEXT, 0)
    assert caught.value.proposal == f"{PARENT}/proposals/p1"
