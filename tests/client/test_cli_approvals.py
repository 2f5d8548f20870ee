"""``sealkeeper approvals`` against a gateway that answers as told: what is shown is what is signed."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from sealkeeper.client.cli import proposal_listing, run
from sealkeeper.client.cli.options import Options
from sealkeeper.server.errors import (
    AlreadyExistsError,
    ApprovalRequiredError,
    PermissionDeniedError,
    SealkeeperError,
    UnavailableError,
)
from sealkeeper.v1 import approval_pb2, gate_pb2, key_pb2
from sealkeeper.verify.approval import Statement, open_statement
from tests.client.proposal_answers import (
    DIGEST,
    POLICY,
    StreamingGateway,
    action,
    approval,
    got,
    got_with_evidence,
    impact,
    moment,
    policy,
    proposal,
)
from tests.verify.proposals import (
    OTHER_CA_KEY,
    PROPOSAL,
    SECOND,
    START,
    THIRD,
    VERSION,
    Made,
    Said,
    authority,
    canonical,
    content,
    log_verifier,
    pem,
    private_pem,
    spki,
)

SUBJECT = "https://login.example#248289"
COMMAND = [sys.executable, "-m", "sealkeeper.client.cli"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with keys, in which nothing is set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("SEALKEEPER_")]:
        monkeypatch.delenv(name)
    (tmp_path / "second.key").write_bytes(private_pem(SECOND))
    (tmp_path / "third.pem").write_bytes(pem(THIRD))
    (tmp_path / "people.pem").write_bytes(authority().public_bytes(Encoding.PEM))
    (tmp_path / "others.pem").write_bytes(authority(OTHER_CA_KEY).public_bytes(Encoding.PEM))
    (tmp_path / "audit.vkey").write_text(log_verifier().vkey() + "\n")
    return tmp_path


@pytest.fixture
def gateway() -> Iterator[StreamingGateway]:
    stands = proposal(state="EXECUTED", approvals=[approval(), approval("third")], outcome=VERSION)
    answers: dict[str, Any] = {
        "GetProposal": got(proposal(approvals=[approval()], impact=impact())),
        "ListProposals": approval_pb2.ListProposalsResponse(
            proposals=[proposal(approvals=[approval(), approval("third", withdraw_time=moment(START))])]
        ),
        "DecideProposal": approval_pb2.DecideProposalResponse(proposal=stands),
        "WithdrawProposal": approval_pb2.WithdrawProposalResponse(proposal=proposal(state="WITHDRAWN")),
        "GetPolicy": policy(),
    }
    one = StreamingGateway(answers)
    with one.serving():
        yield one


def command(gateway: StreamingGateway, *arguments: str) -> int:
    place = ["--insecure", "--endpoint", gateway.address, "--tenant", "acme"]
    return run([*place, "--approval-key", "second.key", "approvals", *arguments])


def shown(gateway: StreamingGateway, found: approval_pb2.Proposal, capfd: pytest.CaptureFixture[str]) -> str:
    gateway.answers["GetProposal"] = got(found)
    assert command(gateway, "show", "p-1") == 0
    return capfd.readouterr().out


def statement(gateway: StreamingGateway) -> Statement:
    (asked,) = gateway.requests(approval_pb2.DecideProposalRequest)
    assert asked.name == PROPOSAL
    return open_statement(asked.statement, spki(SECOND))


def signed_nothing(gateway: StreamingGateway) -> bool:
    return not gateway.requests(approval_pb2.DecideProposalRequest)


def test_a_list_has_a_line_for_each_open_proposal(gateway: StreamingGateway, capfd: pytest.CaptureFixture[str]) -> None:
    assert command(gateway, "list") == 0
    assert capfd.readouterr().out.splitlines()[1:] == [
        f"p-1\tPENDING\tDestroyKeyVersion\t{VERSION}\tfirst\t1/2\t2026-12-01 10:00:00Z"
    ]
    assert command(gateway, "list", "--all", "--json") == 0
    (document,) = json.loads(capfd.readouterr().out)
    assert (document["name"], document["standing"], document["required"]) == (PROPOSAL, 1, 2)
    assert document["approvals"][1]["withdrawTime"] == "2026-11-24T10:00:00Z"
    assert [one.open for one in gateway.requests(approval_pb2.ListProposalsRequest)] == [True, False]


def test_a_list_goes_on_page_by_page(gateway: StreamingGateway, capfd: pytest.CaptureFixture[str]) -> None:
    first = approval_pb2.ListProposalsResponse(proposals=[proposal()], next_page_token="next")
    last = approval_pb2.ListProposalsResponse(proposals=[proposal()])
    pages = iter([first, last])

    class Pages:
        def SerializeToString(self) -> bytes:  # noqa: N802  # named by protobuf
            return next(pages).SerializeToString()

    gateway.answers["ListProposals"] = Pages()
    assert command(gateway, "list", "--json") == 0
    assert len(json.loads(capfd.readouterr().out)) == 2
    assert [one.page_token for one in gateway.requests(approval_pb2.ListProposalsRequest)] == ["", "next"]


def test_destroying_is_shown_with_who_asks_and_with_what_breaks(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    out = shown(gateway, proposal(approvals=[approval()], impact=impact()), capfd)
    assert f"{PROPOSAL}  PENDING" in out
    assert "proposed by first, spiffe://sealkeeper.example/tenants/acme/roles/custodian/first, as custodian" in out
    assert "reason: it was replaced" in out
    assert f"The private key of {VERSION} is destroyed 7 days after it is approved." in out
    assert "gone for good" in out
    assert "only if the key has not changed since (etag e1)" in out
    assert "1234 signatures, the last one at 2026-11-24 09:00:00Z" in out
    assert "56 of them for PRODUCTION" in out
    assert "newest: app-2.whl sha256:" in out
    assert "in production: shop\\x1b[2J.img" in out
    assert "Needs 2 approvals; it has 1." in out
    assert "APPROVE 2026-11-24 11:00:00Z by second" in out
    assert "\x1b" not in out


def test_compromising_says_which_signatures_will_be_refused(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    def compromise(time: str | None) -> str:
        found = action("CompromiseKeyVersion", {"compromiseTime": time, "etag": ""})
        found.impact.CopyFrom(impact())
        return shown(gateway, found, capfd)

    out = compromise("2026-11-23T10:00:00.000Z")
    assert "becomes COMPROMISED: all that it has signed from 2026-11-23 10:00:00.000Z on is refused" in out
    assert "some or all of them WILL BE REFUSED" in out
    lines = out.splitlines()
    assert sum(one.endswith("WILL BE REFUSED") and "newest" in one for one in lines) == 1
    assert not any("production: shop" in one and one.endswith("WILL BE REFUSED") for one in lines)
    assert "none of them will be refused" in compromise("2026-11-24T10:00:00.000Z")
    assert "all that it has ever signed is refused" in compromise(None)


def test_a_version_that_signed_nothing_breaks_nothing(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "it has signed nothing" in shown(gateway, proposal(impact=approval_pb2.Impact()), capfd)


def test_an_import_shows_the_fingerprints_to_compare(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    parameters = {
        "keyImport": "tenants/acme/keyImports/i1",
        "key": "tenants/acme/keys/release",
        "wrapMethod": "RSA_OAEP_SHA256_AES_256_KWP",
        "wrappedKeyDigest": "sha256:" + "cd" * 32,
        "publicKeyFingerprint": "sha256:" + "ef" * 32,
        "algorithm": "PKIX_ECDSA_P256_SHA_256",
        "provider": "main",
        "publishPeriodSeconds": 5400,
        "standby": False,
        "labels": {"repository": "acme/app"},
    }
    out = shown(gateway, action("ImportKey", parameters), capfd)
    assert "becomes a version of tenants/acme/keys/release;\nit signs 1 hour 30 minutes after that" in out
    assert all(str(one) in out for one in list(parameters.values())[:7])
    assert "repository=acme/app, if the key is new" in out
    assert "Compare the public key" in out


def test_another_policy_is_shown_as_the_difference_to_the_one_in_force(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    text = POLICY.replace("forbid", "permit") + "// \x1b[1A\n"
    out = shown(gateway, action("UpdatePolicy", {"base": 3, "text": text}, resource="tenants/acme"), capfd)
    assert "  -forbid (principal, action, resource);\n" in out
    assert "  +permit (principal, action, resource);\n" in out
    assert "  +// \\x1b[1A\n" in out
    assert "WARNING" not in out


@pytest.mark.parametrize(
    ("base", "text", "said"),
    [
        (2, POLICY, "WARNING: it was made from version 2, and 3 is in force: it will be refused"),
        (3, POLICY, "The text is the one that is in force, version 3."),
        (3, POLICY.replace("\n", "\r\n", 1), '  +@id("a")\\r\n'),
        (3, POLICY.replace("\n@id", "\n//\u2028@id"), '  +//\\u2028@id("b")\n'),
    ],
)
def test_a_policy_that_says_nothing_new_or_is_too_late_is_told(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str], base: int, text: str, said: str
) -> None:
    assert said in shown(gateway, action("UpdatePolicy", {"base": base, "text": text}), capfd)


def test_where_the_policy_in_force_may_not_be_read_the_new_one_is_shown_whole(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = gateway.service

    def refuse(details: Any) -> Any:
        gateway.errors = [PermissionDeniedError("no")] if details.method.endswith("/GetPolicy") else []
        return service(details)

    monkeypatch.setattr(gateway, "service", refuse)
    out = shown(gateway, action("UpdatePolicy", {"base": 3, "text": POLICY}), capfd)
    assert "This is the whole of it:" in out
    assert all(f"  {line}\n" in out for line in POLICY.splitlines())


GATE = "tenants/acme/gates/production"
GATE_POLICY = "gate: v1\nmode: enforce\n"


def gate_version(text: str = GATE_POLICY, number: int = 3) -> gate_pb2.GetGateVersionResponse:
    digest = sha256(text.encode()).digest()
    version = gate_pb2.GateVersion(name=f"{GATE}/versions/{number}", number=number, text=text, digest=digest)
    return gate_pb2.GetGateVersionResponse(version=version)


def test_another_policy_of_a_gate_is_shown_as_the_difference_to_the_one_in_force(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    gateway.answers["GetGateVersion"] = gate_version()
    text = GATE_POLICY.replace("enforce", "audit") + "# \x1b[1A\n"
    out = shown(gateway, action("UpdateGate", {"base": 3, "text": text}, resource=GATE), capfd)
    assert f"Another policy decides at {GATE} which artifacts may run." in out
    assert "  -mode: enforce\n" in out
    assert "  +mode: audit\n" in out
    assert "  +# \\x1b[1A\n" in out
    assert "WARNING" not in out
    out = shown(gateway, action("UpdateGate", {"base": 2, "text": text}, resource=GATE), capfd)
    assert "WARNING: it was made from version 2, and 3 is in force: it will be refused" in out


def test_the_policy_of_a_new_gate_is_shown_whole(gateway: StreamingGateway, capfd: pytest.CaptureFixture[str]) -> None:
    gateway.answers["GetGateVersion"] = gate_version()
    out = shown(gateway, action("UpdateGate", {"base": 0, "text": GATE_POLICY}, resource=GATE), capfd)
    assert f"There is a new gate, {GATE}." in out
    assert "  gate: v1\n  mode: enforce\n" in out


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"digest": DIGEST}, f"the artifact with the digest {DIGEST}\nin ALL environments"),
        ({"pattern": "ghcr.io/acme/*\x1b[1A"}, "EVERY artifact whose name fits ghcr.io/acme/*\\x1b[1A"),
        ({"digest": DIGEST, "environment": "staging"}, f"{DIGEST}\nin staging, although its policy refuses it"),
    ],
)
def test_an_exception_is_shown_with_what_it_lets_run_where_and_for_how_long(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str], what: dict[str, str], said: str
) -> None:
    parameters = {"digest": "", "pattern": "", "environment": "", "lifetimeSeconds": 7200, **what}
    out = shown(gateway, action("CreateGateException", parameters, resource=GATE), capfd)
    assert f"For 2 hours from the approval on, {GATE} lets run" in out
    assert said in out
    assert "its verdict stays FAILED" in out


def test_raised_limits_are_shown_in_words(gateway: StreamingGateway, capfd: pytest.CaptureFixture[str]) -> None:
    limits = {"tenant_calls": {"per_second": "100.5", "burst": 200}, "keys": 50}
    before = {"tenant_calls": {"per_second": "10", "burst": 20}, "keys": 40}
    parameters = {"limits": limits, "before": before}
    out = shown(gateway, action("RaiseQuota", parameters, resource="tenants/acme"), capfd)
    assert "calls of all callers together: 100.5 a second, 200 at once; when it was proposed, 10 a second, 20" in out
    assert "keys: at most 50; when it was proposed, at most 40" in out


@pytest.mark.parametrize(
    ("name", "said"), [("BreakGlass", "EMERGENCY: for 4 hours"), ("CreateGrant", "For 4 hours from the approval on")]
)
def test_a_grant_is_shown_with_who_may_do_what_and_for_how_long(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    parameters = {"subject": SUBJECT, "actions": ["Sign", "RotateKey"], "lifetimeSeconds": 14_400}
    out = shown(gateway, action(name, parameters, resource="tenants/acme/keys/release"), capfd)
    assert said in out
    assert SUBJECT in out
    assert "may do Sign, RotateKey\nwith tenants/acme/keys/release" in out


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("LaunchRocket", {"target": "moon\x1b[2J", "count": 3}),
        ("DestroyKeyVersion", {"destroyDelaySeconds": 604800, "etag": "", "target": "moon\x1b[2J", "count": 3}),
        ("DestroyKeyVersion", {"destroyDelaySeconds": {"target": "moon\x1b[2J", "count": 3}, "etag": ""}),
        ("CreateGrant", {"target": "moon\x1b[2J", "count": 3}),
        ("CompromiseKeyVersion", {"compromiseTime": "0001-01-01T00:00:00+10:00", "etag": '"count": 3moon\x1b[2J'}),
    ],
    ids=["action", "member", "type", "missing", "time"],
)
def test_what_is_not_understood_is_shown_whole_with_a_warning(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str], name: str, parameters: dict[str, Any]
) -> None:
    # Control characters are escaped twice: by JSON, and so that the terminal does not obey.
    out = shown(gateway, action(name, parameters), capfd)
    assert "WARNING: this client does not" in out
    assert "count" in out
    assert "moon\\u001b[2J" in out
    assert "\x1b" not in out


def test_show_as_json_has_the_parameters_and_the_content(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(gateway, "show", "p-1", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert document["parameters"] == {"destroyDelaySeconds": 604800, "etag": "e1"}
    assert document["impact"]["productionSignatures"] == 56
    assert document["digest"].startswith("sha256:")


def test_approving_shows_the_proposal_and_signs_what_was_shown(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(gateway, "approve", "p-1", "--reason", "reviewed", "--yes") == 0
    out = capfd.readouterr().out
    assert "is destroyed 7 days after" in out
    assert out.splitlines()[-1] == f"{PROPOSAL} is EXECUTED, 2 of 2 approvals, {VERSION}"
    said = statement(gateway)
    assert (said.decision, said.reason, said.proposal) == ("APPROVE", "reviewed", PROPOSAL)
    assert said.content_digest == gateway.answers["GetProposal"].proposal.digest
    assert len(gateway.requests(approval_pb2.GetProposalRequest)) == 1


def test_approving_as_json_prints_one_document_and_shows_the_proposal_beside_it(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(gateway, "approve", "p-1", "--yes", "--json") == 0
    found = capfd.readouterr()
    assert json.loads(found.out)["state"] == "EXECUTED"
    assert "is destroyed 7 days after" in found.err


def test_a_proposal_is_named_by_its_full_name_as_well(gateway: StreamingGateway) -> None:
    assert command(gateway, "approve", PROPOSAL, "--yes") == 0
    assert statement(gateway).proposal == PROPOSAL


def test_rejecting_signs_the_reason(gateway: StreamingGateway) -> None:
    assert command(gateway, "reject", "p-1", "--reason", "still in use", "--yes") == 0
    assert (statement(gateway).decision, statement(gateway).reason) == ("REJECT", "still in use")


@pytest.mark.parametrize(
    "arguments",
    [
        ("approve", "p-1"),
        ("reject", "p-1", "--reason", "no"),
        ("reject", "p-1", "--yes"),
        ("reject", "p-1", "--reason", "", "--yes"),
        ("approve", "p-1", "--reason", "one\ntwo", "--yes"),
        ("approve", "p-1", "--reason", "x" * 1025, "--yes"),
        ("approve", "p-1", "--yes", "--approval-key", "third.pem"),
    ],
    ids=["approve unasked", "reject unasked", "no reason", "empty reason", "two lines", "long", "no private key"],
)
def test_nothing_is_asked_or_signed_where_the_usage_is_wrong(
    gateway: StreamingGateway, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        assert command(gateway, *arguments) == 2
    assert gateway.asked == []


@pytest.mark.parametrize(
    "found",
    [
        proposal(digest=bytes(32)),
        proposal(reason="something harmless"),
        proposal(content=canonical(content()) + b" "),
        proposal(state="REJECTED"),
        proposal(state="APPROVED"),
    ],
    ids=["digest", "reason", "spelling", "rejected", "approved"],
)
def test_what_cannot_be_shown_as_it_is_or_waits_no_more_is_not_signed(
    gateway: StreamingGateway, found: approval_pb2.Proposal
) -> None:
    gateway.answers["GetProposal"] = got(found)
    assert command(gateway, "approve", "p-1", "--yes") == 1
    assert signed_nothing(gateway)


def test_an_approval_whose_answer_was_lost_is_found_to_be_there(
    gateway: StreamingGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = iter([UnavailableError("gone"), AlreadyExistsError("twice", reason="APPROVAL_EXISTS")])
    service = gateway.service

    def once_lost(details: Any) -> Any:
        if details.method.endswith("/DecideProposal"):
            error: SealkeeperError | None = next(answered, None)
            gateway.errors = [error] if error else []
        elif asked := gateway.requests(approval_pb2.DecideProposalRequest):
            found = proposal(state="APPROVED", approvals=[approval(statement=asked[0].statement)])
            gateway.answers["GetProposal"] = got(found)
        return service(details)

    monkeypatch.setattr(gateway, "service", once_lost)
    assert command(gateway, "approve", "p-1", "--yes") == 0


def test_who_has_approved_before_is_told(gateway: StreamingGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    service = gateway.service

    def refuse(details: Any) -> Any:
        if details.method.endswith("/DecideProposal"):
            gateway.errors = [AlreadyExistsError("twice", reason="APPROVAL_EXISTS")]
        return service(details)

    monkeypatch.setattr(gateway, "service", refuse)
    assert command(gateway, "approve", "p-1", "--yes") == 1


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 130)])
def test_on_a_terminal_one_is_asked_first(gateway: StreamingGateway, answer: bytes, code: int) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    place = ["--insecure", "--endpoint", gateway.address, "--tenant", "acme", "--approval-key", "second.key"]
    try:
        done = subprocess.run(
            [*COMMAND, *place, "approvals", "approve", "p-1"],
            stdin=theirs,
            capture_output=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == code, done.stderr
    assert b"Have you read it, and shall it be done?" in done.stderr
    assert b"is destroyed 7 days after" in done.stdout
    assert signed_nothing(gateway) == (code != 0)


def test_withdrawing_says_what_the_proposal_is_now(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command(gateway, "withdraw", "p-1") == 0
    assert capfd.readouterr().out == f"{PROPOSAL} is WITHDRAWN, 0 of 2 approvals\n"
    assert command(gateway, "withdraw", "p-1", "--json") == 0
    assert json.loads(capfd.readouterr().out)["state"] == "WITHDRAWN"


@pytest.mark.parametrize(
    ("state", "code"), [("EXECUTED", 0), ("FAILED", 1), ("REJECTED", 1), ("WITHDRAWN", 1), ("EXPIRED", 1)]
)
def test_a_watch_of_one_ends_when_it_is_closed(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str], state: str, code: int
) -> None:
    gateway.stream = [proposal(), proposal(state="APPROVED"), proposal(state=state), proposal()]
    assert command(gateway, "watch", "p-1") == code
    states = [line.split("\t")[1] for line in capfd.readouterr().out.splitlines()]
    assert states == ["PENDING", "APPROVED", state]


def test_a_watch_of_all_goes_on_until_the_gateway_ends_it(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    gateway.stream = [proposal(state="EXECUTED"), proposal()]
    assert command(gateway, "watch", "--json") == 3
    *documents, last = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [one["state"] for one in documents] == ["EXECUTED", "PENDING"]
    assert last["exit_code"] == 3


def test_a_proposal_is_kept_for_auditors_and_verified_without_the_gateway(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    made = Made(said=[Said(SECOND, "second"), Said(THIRD, "third", certified=False)])
    gateway.answers["GetProposal"], kept = got_with_evidence(made)
    assert command(gateway, "show", "p-1", "--evidence", "kept.json") == 0
    assert (folder / "kept.json").read_bytes() == kept.encode()
    assert gateway.requests(approval_pb2.GetProposalRequest)[0].with_evidence
    capfd.readouterr()
    known = ["--ca", "people.pem", "--key", "third=third.pem"]
    assert run(["approvals", "verify", "kept.json", *known, "--audit-key", "audit.vkey"]) == 0
    found = capfd.readouterr()
    assert f"verified: DestroyKeyVersion of {VERSION}" in found.out
    assert "approved by third" in found.out
    assert found.err == ""
    assert run(["approvals", "verify", "kept.json", *known]) == 0
    assert "the log's signature was not checked" in capfd.readouterr().err
    assert run(["approvals", "verify", "kept.json", *known, "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["verified"], document["logVerified"]) == (True, False)
    assert [one["person"] for one in document["approvers"]] == ["second", "third"]
    assert document["proposer"]["person"] == "first"


def test_the_evidence_alone_goes_to_standard_output(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    gateway.answers["GetProposal"], kept = got_with_evidence(Made())
    assert command(gateway, "show", "p-1", "--evidence", "-") == 0
    assert capfd.readouterr().out.encode() == kept.encode()


def test_a_proposal_of_people_whom_nobody_vouches_for_is_refused_at_its_step(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    (folder / "kept.json").write_bytes(Made().kept().encode())
    assert run(["approvals", "verify", "kept.json", "--ca", "others.pem"]) == 1
    assert "refused at signers" in capfd.readouterr().out
    assert run(["approvals", "verify", "kept.json", "--ca", "others.pem", "--json"]) == 1
    document = json.loads(capfd.readouterr().out)
    assert document["verified"] is False
    assert document["steps"][-1]["name"] == "signers"


@pytest.mark.parametrize(
    "arguments",
    [
        ("kept.json",),
        ("missing.json", "--ca", "people.pem"),
        ("people.pem", "--ca", "people.pem"),
        ("kept.json", "--ca", "third.pem"),
        ("kept.json", "--key", "third.pem"),
        ("kept.json", "--key", "third=people.pem"),
        ("kept.json", "--ca", "people.pem", "--audit-key", "third.pem"),
    ],
)
def test_an_audit_with_wrong_input_is_no_verdict(
    capfd: pytest.CaptureFixture[str], folder: Path, arguments: tuple[str, ...]
) -> None:
    (folder / "kept.json").write_bytes(Made().kept().encode())
    assert run(["approvals", "verify", *arguments]) == 2
    assert "verified" not in capfd.readouterr().out


def test_ids_are_completed_from_what_is_open_and_from_nothing_where_nobody_answers(
    gateway: StreamingGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = proposal_listing.open_ids
    assert complete("p") == []

    def reachable(timeout: float) -> Options:
        return Options(endpoint=gateway.address, tenant="acme", insecure=True, timeout=timeout)

    monkeypatch.setattr(proposal_listing, "Options", reachable)
    assert complete("p") == ["p-1"]
    assert complete("q") == []


def test_any_command_that_was_proposed_says_so_with_an_exit_code_of_its_own(
    gateway: StreamingGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    error = ApprovalRequiredError(
        "DestroyKeyVersion needs 1 approval", next_step="have it approved", metadata={"proposal": PROPOSAL}
    )
    gateway.answers["SetKeyVersionState"] = key_pb2.SetKeyVersionStateResponse()
    place = ["--insecure", "--endpoint", gateway.address, "--tenant", "acme"]
    asked = [*place, "keys", "set-state", "release/1", "DESTROY_SCHEDULED", "--yes"]
    gateway.errors = [error]
    assert run(asked) == 4
    found = capfd.readouterr()
    assert (found.out, found.err.splitlines()) == (
        "",
        ["proposed: DestroyKeyVersion needs 1 approval", "  next: have it approved"],
    )
    gateway.errors = [error]
    assert run([*asked, "--json"]) == 4
    document = json.loads(capfd.readouterr().out)
    assert (document["proposal"], document["reason"], document["exit_code"]) == (PROPOSAL, "APPROVAL_REQUIRED", 4)


def test_help_names_the_exit_code_of_what_was_proposed(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    assert "4 proposed: waits for approval" in " ".join(capfd.readouterr().out.split())
