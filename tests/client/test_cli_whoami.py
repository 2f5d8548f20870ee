"""``sealkeeper whoami`` against a gateway that answers as it is told."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.client.cli import run
from sealkeeper.server.errors import PermissionDeniedError
from sealkeeper.v1 import identity_pb2
from tests.client.answering import Gateway

SUBJECT = "https://token.actions.githubusercontent.com#repo:acme-org/app:ref:refs/heads/main"


def answer() -> identity_pb2.WhoAmIResponse:
    principal = identity_pb2.Principal(
        tenant="acme",
        subject=SUBJECT,
        role="ci",
        method=identity_pb2.AUTHENTICATION_METHOD_TOKEN,
        issuer="https://token.actions.githubusercontent.com",
        attributes={"repository": "acme-org/app", "ref": "refs/heads/main", "workflow": "a\x1b[2Jb"},
        amr=["hwk"],
    )
    principal.expire_time.FromDatetime(datetime(2026, 11, 24, 22, tzinfo=UTC))
    permissions = [
        identity_pb2.Permission(action="Sign", allowed=True, policies=["ci-may-sign-for-its-repository"]),
        identity_pb2.Permission(action="UpdatePolicy", allowed=True, policies=["a", "b"], approvals=1),
        identity_pb2.Permission(action="CreateKey"),
    ]
    return identity_pb2.WhoAmIResponse(principal=principal, permissions=permissions, policy_version=7)


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("SEALKEEPER_")]:
        monkeypatch.delenv(name)
    one = Gateway({"WhoAmI": answer()})
    with one.serving():
        yield one


def whoami(gateway: Gateway, *arguments: str) -> int:
    return run(["whoami", "--endpoint", gateway.address, "--insecure", "--tenant", "acme", *arguments])


def asked(gateway: Gateway) -> list[Any]:
    return gateway.requests(identity_pb2.WhoAmIRequest)


def test_it_says_who_one_is_and_what_one_may_do(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    assert whoami(gateway) == 0
    out = capfd.readouterr().out
    lines = out.splitlines()
    assert f"subject     {SUBJECT}" in lines
    assert "repository  acme-org/app" in lines
    assert "until       2026-11-24 22:00:00Z" in lines
    assert "Sign\tyes\t\tci-may-sign-for-its-repository" in lines
    assert "UpdatePolicy\tyes\t1\ta, b" in lines
    assert "CreateKey\tno\t\tno policy allows it" in lines
    assert "version 7" in lines[-1]
    # Attributes come from outside, and terminals obey.
    assert "\x1b" not in out
    assert asked(gateway) == [identity_pb2.WhoAmIRequest()]


def test_a_key_is_asked_for_by_its_full_name(gateway: Gateway) -> None:
    assert whoami(gateway, "--key", "release") == 0
    assert whoami(gateway, "--key", "tenants/beta/keys/own") == 0
    assert [one.key for one in asked(gateway)] == ["tenants/acme/keys/release", "tenants/beta/keys/own"]


def test_the_document_has_all_of_it(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    assert whoami(gateway, "--json") == 0
    assert json.loads(capfd.readouterr().out) == {
        "principal": {
            "tenant": "acme",
            "subject": SUBJECT,
            "role": "ci",
            "method": "TOKEN",
            "person": None,
            "issuer": "https://token.actions.githubusercontent.com",
            "attributes": {"repository": "acme-org/app", "ref": "refs/heads/main", "workflow": "a\x1b[2Jb"},
            "hardware": False,
            "acr": None,
            "amr": ["hwk"],
            "expireTime": "2026-11-24T22:00:00Z",
        },
        "permissions": [
            {"action": "Sign", "allowed": True, "policies": ["ci-may-sign-for-its-repository"], "approvals": 0},
            {"action": "UpdatePolicy", "allowed": True, "policies": ["a", "b"], "approvals": 1},
            {"action": "CreateKey", "allowed": False, "policies": [], "approvals": 0},
        ],
        "policyVersion": 7,
    }


def test_a_refusal_is_told(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    gateway.errors = [PermissionDeniedError("another tenant's")]
    assert whoami(gateway, "--json") == 1
    assert json.loads(capfd.readouterr().out)["reason"] == "PERMISSION_DENIED"


def test_an_answer_without_a_principal_is_none(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    gateway.answers = {"WhoAmI": identity_pb2.WhoAmIResponse()}
    assert whoami(gateway, "--json") == 1
    assert json.loads(capfd.readouterr().out)["reason"] == "ANSWER_CORRUPT"


def test_without_an_identity_the_ways_to_one_are_told(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["whoami", "--endpoint", "gateway.example.com:8443", "--json"]) == 2
    assert "sealkeeper login" in json.loads(capfd.readouterr().out)["next_step"]
