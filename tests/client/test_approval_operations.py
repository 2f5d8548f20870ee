"""Calls about proposals: what is shown and signed is the content, and an answer of anything else is none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from sealkeeper.client.approval_operations import (
    content_of,
    decide_proposal,
    get_proposal,
    kept_proposal,
    list_proposals,
    read_approval_key,
    sign_decision,
    watch_proposals,
    withdraw_proposal,
)
from sealkeeper.client.client import AsyncClient, Client
from sealkeeper.client.connection import Connection
from sealkeeper.client.errors import ConfigurationError, CorruptAnswerError, ProposedError, UnavailableError
from sealkeeper.client.policy_operations import get_policy
from sealkeeper.server.errors import ApprovalRequiredError
from sealkeeper.v1 import approval_pb2
from sealkeeper.verify.approval import open_statement
from sealkeeper.verify.errors import VerifyError
from tests.client.proposal_answers import StreamingGateway, got, got_with_evidence, policy, proposal
from tests.verify.proposals import PROPOSAL, SECOND, Made, content, people, private_pem, spki

OTHER = "tenants/acme/proposals/p-2"


@pytest.fixture
def gateway() -> Iterator[StreamingGateway]:
    stream = [proposal(), proposal(state="APPROVED"), proposal(state="EXECUTED")]
    answers = {
        "GetProposal": got(proposal()),
        "ListProposals": approval_pb2.ListProposalsResponse(proposals=[proposal()], next_page_token="more"),
        "DecideProposal": approval_pb2.DecideProposalResponse(proposal=proposal(state="EXECUTED")),
        "WithdrawProposal": approval_pb2.WithdrawProposalResponse(proposal=proposal(state="WITHDRAWN")),
        "GetPolicy": policy(),
    }
    one = StreamingGateway(answers, stream)
    with one.serving():
        yield one


@pytest.fixture
def client(gateway: StreamingGateway) -> Iterator[Client]:
    with Client(Connection(gateway.address, insecure=True)) as one:
        yield one


def states(found: list[approval_pb2.Proposal]) -> list[int]:
    return [one.state for one in found]


def test_calls_carry_what_was_asked_for(client: Client, gateway: StreamingGateway) -> None:
    assert client.call(get_proposal(PROPOSAL, with_evidence=True)).proposal.name == PROPOSAL
    assert client.call(list_proposals("tenants/acme", "t", 7, only_open=True)).next_page_token == "more"
    assert client.call(decide_proposal(PROPOSAL, b"{}")).state == approval_pb2.PROPOSAL_STATE_EXECUTED
    assert client.call(withdraw_proposal(PROPOSAL)).state == approval_pb2.PROPOSAL_STATE_WITHDRAWN
    assert client.call(get_policy("tenants/acme")).version.number == 3
    assert gateway.requests(approval_pb2.GetProposalRequest)[0].with_evidence
    (listed,) = gateway.requests(approval_pb2.ListProposalsRequest)
    assert (listed.parent, listed.page_token, listed.page_size, listed.open) == ("tenants/acme", "t", 7, True)
    assert gateway.requests(approval_pb2.DecideProposalRequest)[0].statement == b"{}"


@pytest.mark.parametrize(
    "operation",
    [get_proposal(OTHER), decide_proposal(OTHER, b""), withdraw_proposal(OTHER)],
    ids=lambda one: one.method,
)
def test_an_answer_about_another_proposal_is_none(client: Client, operation: Any) -> None:
    with pytest.raises(CorruptAnswerError):
        client.call(operation)


@pytest.mark.parametrize("name", ["tenants/acme", PROPOSAL])
def test_a_watch_gives_each_change_and_ends_with_the_gateways_stream(client: Client, name: str) -> None:
    assert states(list(client.stream(watch_proposals(name)))) == [1, 2, 3]


@pytest.mark.parametrize("name", ["tenants/other", OTHER, "tenants/acm"])
def test_a_watch_that_gives_others_proposals_is_refused(client: Client, name: str) -> None:
    with pytest.raises(CorruptAnswerError):
        list(client.stream(watch_proposals(name)))


def test_whoever_stops_reading_a_stream_has_hung_up_and_can_go_on_calling(client: Client) -> None:
    stream = client.stream(watch_proposals(PROPOSAL))
    assert next(stream).state == approval_pb2.PROPOSAL_STATE_PENDING
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    assert client.call(get_proposal(PROPOSAL)).proposal.name == PROPOSAL


def test_a_stream_that_cannot_be_begun_raises_as_calls_do() -> None:
    with (
        Client(Connection("127.0.0.1:1", insecure=True)) as client,
        pytest.raises(UnavailableError),
    ):
        list(client.stream(watch_proposals(PROPOSAL), within=30.0))


def test_streams_are_there_with_asyncio_too(gateway: StreamingGateway) -> None:
    async def watched() -> list[approval_pb2.Proposal]:
        async with AsyncClient(Connection(gateway.address, insecure=True)) as client:
            return [one async for one in client.stream(watch_proposals(PROPOSAL))]

    assert states(asyncio.run(watched())) == [1, 2, 3]


def test_a_call_that_was_proposed_says_as_what(client: Client, gateway: StreamingGateway) -> None:
    gateway.errors = [ApprovalRequiredError("it is proposed", next_step="wait", metadata={"proposal": PROPOSAL})]
    with pytest.raises(ProposedError) as caught:
        client.call(get_proposal(PROPOSAL))
    error = caught.value
    assert (error.proposal, error.reason, error.exit_code, error.next_step) == (
        PROPOSAL,
        "APPROVAL_REQUIRED",
        4,
        "wait",
    )


def test_content_is_read_from_what_will_be_signed() -> None:
    found = content_of(proposal())
    assert (found.proposal, found.action, found.required) == (PROPOSAL, "DestroyKeyVersion", 2)


@pytest.mark.parametrize(
    "other",
    [
        {"digest": bytes(32)},
        {"name": OTHER},
        {"action": "CreateGrant"},
        {"resource": "tenants/acme/keys/release/versions/2"},
        {"proposer": "somebody"},
        {"proposer_person": "somebody"},
        {"reason": "a harmless one"},
        {"required": 1},
        {"content": b"{}"},
        {"content": b""},
    ],
    ids=lambda one: next(iter(one)),
)
def test_a_gateway_that_says_something_else_than_is_signed_is_not_believed(other: dict[str, Any]) -> None:
    with pytest.raises(CorruptAnswerError):
        content_of(proposal(**other))


def test_a_decision_is_signed_now_about_the_content_that_was_read() -> None:
    found = content_of(proposal())
    before = datetime.now(UTC)
    said = open_statement(sign_decision(found, "REJECT", "not yet", SECOND), spki(SECOND))
    assert (said.content_digest, said.proposal, said.gateway) == (found.digest, PROPOSAL, found.gateway)
    assert (said.decision, said.reason) == ("REJECT", "not yet")
    assert abs((said.time - before).total_seconds()) < 60
    with pytest.raises(VerifyError):
        sign_decision(found, "APPROVE", "line\nline", SECOND)


def test_a_proposal_is_kept_with_all_that_an_auditor_needs() -> None:
    from sealkeeper.verify.proposal_evidence import verify_proposal

    answer, kept = got_with_evidence(Made())
    assert kept_proposal(answer) == kept
    assert verify_proposal(kept_proposal(answer), people=people(), log=None).verified


def _pem(key: Any, password: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return data


@pytest.mark.parametrize(
    "key",
    [SECOND, ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)), rsa.generate_private_key(65537, 2048)],
    ids=["ec", "ed25519", "rsa"],
)
def test_approvals_are_signed_with_any_common_key(tmp_path: Path, key: Any) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(_pem(key))
    assert read_approval_key(path).public_key() == key.public_key()


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"no key",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        _pem(SECOND, b"secret"),
        _pem(x25519.X25519PrivateKey.from_private_bytes(bytes(32))),
        _pem(ec.derive_private_key(7, ec.SECP256K1())),
        _pem(rsa.generate_private_key(65537, 1024)),
    ],
    ids=["missing", "text", "rubbish", "encrypted", "x25519", "secp256k1", "rsa 1024"],
)
def test_a_key_that_cannot_sign_approvals_is_refused_by_its_setting(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "key.pem"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigurationError) as caught:
        read_approval_key(path)
    assert [one.field for one in caught.value.violations] == ["approval_key"]
    assert b"secret" not in str(caught.value).encode()


def test_without_any_key_the_next_step_says_where_to_name_one() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_approval_key(None)
    assert "approval_key" in caught.value.next_step


def test_the_key_of_the_certificate_signs_where_no_other_is_named(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(private_pem(SECOND))
    assert Connection("127.0.0.1:1", insecure=True, key=path).approval_key == path


def test_a_content_with_a_reason_of_several_lines_is_read() -> None:
    assert content_of(proposal(content(reason="one\ntwo"))).reason == "one\ntwo"
