"""Calls about grants and break-glass, against a gRPC server that answers as it is told, and their commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from sealkeeper.client import Client, Connection
from sealkeeper.client.cli import run
from sealkeeper.client.errors import CorruptAnswerError, ProposedError
from sealkeeper.client.grant_operations import break_glass, create_grant, get_grant, list_grants, revoke_grant
from sealkeeper.client.operations import Operation
from sealkeeper.client.retry import RetryPolicy
from sealkeeper.server.errors import ApprovalRequiredError, NotFoundError, UnavailableError
from sealkeeper.v1 import grant_pb2
from tests.client.answering import Gateway

PARENT = "tenants/acme"
KEY = f"{PARENT}/keys/release"
NAME = f"{PARENT}/grants/g1"
SUBJECT = "https://issuer.example#repo:acme/app"
ADA = "https://issuer.example#ada"
HOUR = timedelta(hours=1)
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def grant(**other: Any) -> grant_pb2.Grant:
    members: dict[str, Any] = {
        "name": NAME,
        "state": grant_pb2.GRANT_STATE_ACTIVE,
        "subject": SUBJECT,
        "resource": KEY,
        "actions": ["Sign"],
        "reason": "a release",
        "created_by": ADA,
        "proposal": f"{PARENT}/proposals/p1",
        "create_time": START,
        "expire_time": START + HOUR,
    }
    return grant_pb2.Grant(**{**members, **other})


BROKEN = grant(break_glass=True, subject=ADA, resource=PARENT, actions=["ListKeys", "Sign"])
ENDED = grant(state=grant_pb2.GRANT_STATE_REVOKED, revoke_time=START, revoked_by=ADA)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    made = Gateway(
        {
            "CreateGrant": grant_pb2.CreateGrantResponse(grant=grant()),
            "BreakGlass": grant_pb2.BreakGlassResponse(grant=BROKEN),
            "RevokeGrant": grant_pb2.RevokeGrantResponse(grant=ENDED),
            "GetGrant": grant_pb2.GetGrantResponse(grant=grant()),
            "ListGrants": grant_pb2.ListGrantsResponse(grants=[grant(), BROKEN, ENDED]),
        }
    )
    monkeypatch.setenv("NO_COLOR", "1")
    with made.serving():
        yield made


def client(gateway: Gateway, **options: Any) -> Client:
    return Client(Connection(gateway.address, "acme", insecure=True), **options)


def command(gateway: Gateway, *arguments: str) -> int:
    return run(["--endpoint", gateway.address, "--insecure", "--tenant", "acme", *arguments])


CALLS: list[tuple[Operation[Any], Any, Any]] = [
    (
        create_grant(PARENT, SUBJECT, KEY, lifetime=HOUR, reason="a release", request_id="r"),
        grant_pb2.CreateGrantRequest(
            parent=PARENT,
            subject=SUBJECT,
            key=KEY,
            lifetime=Duration(seconds=3600),
            reason="a release",
            request_id="r",
        ),
        grant(),
    ),
    (
        break_glass(PARENT, ["Sign", "ListKeys"], lifetime=HOUR, reason="the pipeline is down"),
        grant_pb2.BreakGlassRequest(
            resource=PARENT,
            actions=["Sign", "ListKeys"],
            lifetime=Duration(seconds=3600),
            reason="the pipeline is down",
        ),
        BROKEN,
    ),
    (revoke_grant(NAME), grant_pb2.RevokeGrantRequest(name=NAME), ENDED),
    (get_grant(NAME), grant_pb2.GetGrantRequest(name=NAME), grant()),
    (
        list_grants(PARENT, "", 7),
        grant_pb2.ListGrantsRequest(parent=PARENT, page_size=7),
        grant_pb2.ListGrantsResponse(grants=[grant(), BROKEN, ENDED]),
    ),
]


@pytest.mark.parametrize(("operation", "request_", "answer"), CALLS)
def test_each_call_asks_for_what_it_was_given_and_gives_what_came(
    gateway: Gateway, operation: Operation[Any], request_: Any, answer: Any
) -> None:
    with client(gateway) as one:
        assert one.call(operation) == answer
    assert gateway.requests(type(request_)) == [request_]


def test_a_grant_is_asked_for_again_as_the_same_request(gateway: Gateway) -> None:
    gateway.errors = [UnavailableError("away"), UnavailableError("away")]
    with client(gateway, retry=RetryPolicy(random=lambda: 0.0), sleep=lambda _: None) as one:
        one.call(create_grant(PARENT, SUBJECT, KEY, lifetime=HOUR, reason="a release"))
    assert len(gateway.asked) == 3
    assert len(set(gateway.asked)) == 1


def test_what_waits_for_approval_says_which_proposal_it_is(gateway: Gateway) -> None:
    proposal = f"{PARENT}/proposals/p1"
    gateway.errors = [ApprovalRequiredError("proposed", metadata={"proposal": proposal})]
    with client(gateway) as one, pytest.raises(ProposedError) as caught:
        one.call(break_glass(PARENT, ["Sign"], lifetime=HOUR, reason="the pipeline is down"))
    assert caught.value.proposal == proposal


def created(**other: Any) -> Callable[[], Any]:
    operation = create_grant(PARENT, SUBJECT, KEY, lifetime=HOUR, reason="a release")
    return lambda: operation.check(grant_pb2.CreateGrantResponse(grant=grant(**other)))


def broken(**other: Any) -> Callable[[], Any]:
    operation = break_glass(PARENT, ["Sign", "ListKeys"], lifetime=HOUR, reason="the pipeline is down")
    members: dict[str, Any] = {"break_glass": True, "resource": PARENT, "actions": ["ListKeys", "Sign"]}
    return lambda: operation.check(grant_pb2.BreakGlassResponse(grant=grant(**{**members, **other})))


@pytest.mark.parametrize(
    "check",
    [
        created(subject=ADA),
        created(resource=PARENT),
        created(actions=["Sign", "RotateKey"]),
        created(break_glass=True),
        broken(resource=KEY),
        broken(actions=["Sign"]),
        broken(break_glass=False),
        lambda: get_grant(NAME).check(grant_pb2.GetGrantResponse(grant=grant(name=f"{PARENT}/grants/g2"))),
        lambda: revoke_grant(NAME).check(grant_pb2.RevokeGrantResponse(grant=grant())),
    ],
)
def test_a_grant_that_is_another_than_was_asked_for_is_not_given_out(check: Callable[[], Any]) -> None:
    with pytest.raises(CorruptAnswerError):
        check()


def test_the_command_makes_a_grant_with_what_it_was_told(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--subject", SUBJECT, "--for", "1h", "--reason", "a release", "--action", "sign")
    assert command(gateway, "grants", "create", "release", *arguments) == 0
    [asked] = gateway.requests(grant_pb2.CreateGrantRequest)
    assert (asked.parent, asked.key, asked.subject, list(asked.actions)) == (PARENT, KEY, SUBJECT, ["Sign"])
    assert (asked.lifetime.seconds, asked.reason) == (3600, "a release")
    text = capsys.readouterr().out
    assert f"{NAME} is ACTIVE" in text
    assert "until 2026-03-01 13:00:00Z" in text


def test_the_command_breaks_the_glass_for_a_key_or_for_all_and_says_what_waits(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--action", "Sign", "--action", "ListKeys", "--for", "1h", "--reason", "the pipeline is down", "--json")
    assert command(gateway, "break-glass", "--tenant-wide", *common) == 0
    assert json.loads(capsys.readouterr().out)["breakGlass"] is True
    proposal = f"{PARENT}/proposals/p1"
    gateway.errors = [ApprovalRequiredError("proposed", metadata={"proposal": proposal})]
    assert command(gateway, "break-glass", "release", *common) == 4
    document = json.loads(capsys.readouterr().out)
    assert (document["reason"], document["proposal"]) == ("APPROVAL_REQUIRED", proposal)
    asked = gateway.requests(grant_pb2.BreakGlassRequest)
    assert [one.resource for one in asked] == [PARENT, KEY]
    assert [list(one.actions) for one in asked] == [["Sign", "ListKeys"]] * 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("break-glass", "--action", "Sign", "--for", "1h", "--reason", "the pipeline is down"),
        (
            "break-glass",
            "release",
            "--tenant-wide",
            "--action",
            "Sign",
            "--for",
            "1h",
            "--reason",
            "the pipeline is down",
        ),
        ("break-glass", "release", "--for", "1h", "--reason", "the pipeline is down"),
        ("break-glass", "release", "--action", "UpdatePolicy", "--for", "1h", "--reason", "the pipeline is down"),
        ("grants", "create", "release", "--subject", SUBJECT, "--for", "an hour", "--reason", "a release"),
        ("grants", "create", "release", "--subject", SUBJECT, "--for", "1h"),
        ("grants", "create", "release", "--for", "1h", "--reason", "a release"),
        ("grants", "create", "release", "--subject", SUBJECT, "--for", "1h", "--reason", "x", "--action", "RotateKey"),
    ],
)
def test_what_is_missing_or_unknown_is_wrong_usage_and_nothing_is_asked_for(
    gateway: Gateway, arguments: tuple[str, ...]
) -> None:
    assert command(gateway, *arguments) == 2
    assert gateway.asked == []


def test_grants_are_listed_those_in_force_alone_unless_all_are_asked_for(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(gateway, "grants", "list", "--json") == 0
    assert [one["state"] for one in json.loads(capsys.readouterr().out)] == ["ACTIVE", "ACTIVE"]
    assert command(gateway, "grants", "list", "--all") == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[1] for row in rows] == ["STATE", "ACTIVE", "ACTIVE", "REVOKED"]
    assert [row[3] for row in rows] == ["KEY", "release", "all keys", "release"]
    assert rows[2][6] == "break-glass"


def test_all_pages_are_listed(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    pages = [
        grant_pb2.ListGrantsResponse(grants=[grant(name=f"{PARENT}/grants/g{number}")], next_page_token=token)
        for number, token in ((1, "second"), (2, ""))
    ]

    class Paged(dict[str, Any]):
        def __getitem__(self, method: str) -> Any:
            return pages.pop(0)

    gateway.answers = Paged()
    assert command(gateway, "grants", "list", "--json") == 0
    names = [one["name"] for one in json.loads(capsys.readouterr().out)]
    assert names == [f"{PARENT}/grants/g1", f"{PARENT}/grants/g2"]
    assert [one.page_token for one in gateway.requests(grant_pb2.ListGrantsRequest)] == ["", "second"]


def test_a_grant_is_shown_and_ended_by_its_id_or_by_its_name(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(gateway, "grants", "show", "g1", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["name"], document["expireTime"]) == (NAME, "2026-03-01T13:00:00Z")
    assert document["proposal"] == f"{PARENT}/proposals/p1"
    assert command(gateway, "grants", "revoke", NAME) == 0
    text = capsys.readouterr().out
    assert f"{NAME} is REVOKED" in text
    assert f"ended 2026-03-01 12:00:00Z by {ADA}" in text
    assert [one.name for one in gateway.requests(grant_pb2.RevokeGrantRequest)] == [NAME]
    gateway.errors = [NotFoundError("there is none", reason="GRANT_NOT_FOUND")]
    assert command(gateway, "grants", "show", "g2") == 2
