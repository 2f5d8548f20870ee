"""Calls about quotas, against a gRPC server that answers as it is told, and their commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from sealkeeper.client import Client, Connection
from sealkeeper.client.cli import run
from sealkeeper.client.errors import CorruptAnswerError, RefusedError
from sealkeeper.client.quota_operations import RateLimit, get_quota, update_quota
from sealkeeper.client.retry import RetryPolicy
from sealkeeper.server.errors import ApprovalRequiredError, QuotaExceededError
from sealkeeper.v1 import quota_pb2
from tests.client.answering import Gateway

PARENT = "tenants/acme"


def rate(per_second: float, burst: int) -> quota_pb2.Rate:
    return quota_pb2.Rate(per_second=per_second, burst=burst)


def limits(**other: Any) -> quota_pb2.Limits:
    members: dict[str, Any] = {
        "tenant_calls": rate(0.5, 200),
        "tenant_signatures": rate(1000, 2000),
        "principal_calls": rate(50, 100),
        "principal_signatures": rate(500, 1000),
        "keys": 10,
    }
    return quota_pb2.Limits(**{**members, **other})


def quota(**other: Any) -> quota_pb2.Quota:
    members: dict[str, Any] = {
        "name": f"{PARENT}/quota",
        "limits": limits(),
        "ceilings": limits(keys=1000),
        "keys_used": 4,
        "calls_available": 150,
        "signatures_available": 1900,
        "refused": 7,
    }
    return quota_pb2.Quota(**{**members, **other})


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    made = Gateway(
        {
            "GetQuota": quota_pb2.GetQuotaResponse(quota=quota()),
            "UpdateQuota": quota_pb2.UpdateQuotaResponse(quota=quota()),
        }
    )
    monkeypatch.setenv("NO_COLOR", "1")
    with made.serving():
        yield made


def client(gateway: Gateway, **options: Any) -> Client:
    return Client(Connection(gateway.address, "acme", insecure=True), **options)


def command(gateway: Gateway, *arguments: str) -> int:
    return run(["--endpoint", gateway.address, "--insecure", "--tenant", "acme", "quota", *arguments])


def test_the_quota_is_asked_for_and_given_as_it_came(gateway: Gateway) -> None:
    with client(gateway) as one:
        assert one.call(get_quota(PARENT)) == quota()
    assert gateway.requests(quota_pb2.GetQuotaRequest) == [quota_pb2.GetQuotaRequest(parent=PARENT)]


def test_only_limits_that_are_named_are_sent(gateway: Gateway) -> None:
    with client(gateway) as one:
        one.call(update_quota(PARENT, tenant_calls=RateLimit(0.5, 200), keys=10, reason="why"))
    [sent] = gateway.requests(quota_pb2.UpdateQuotaRequest)
    assert sent.limits == quota_pb2.Limits(tenant_calls=rate(0.5, 200), keys=10)
    assert sent.reason == "why"


def test_no_keys_at_all_is_a_limit_too() -> None:
    request = update_quota(PARENT, keys=0).request
    assert request.limits.HasField("keys")
    assert not update_quota(PARENT, tenant_calls=RateLimit(1, 1)).request.limits.HasField("keys")


@pytest.mark.parametrize(
    "answer",
    [
        quota(name="tenants/beta/quota"),
        quota_pb2.Quota(name=f"{PARENT}/quota"),
        quota(ceilings=quota_pb2.Limits(keys=1)),
    ],
)
def test_an_answer_that_is_not_the_tenants_whole_quota_is_not_given_out(answer: quota_pb2.Quota) -> None:
    with pytest.raises(CorruptAnswerError):
        get_quota(PARENT).check(quota_pb2.GetQuotaResponse(quota=answer))
    with pytest.raises(CorruptAnswerError):
        update_quota(PARENT, keys=10).check(quota_pb2.UpdateQuotaResponse(quota=answer))


@pytest.mark.parametrize(
    "asked",
    [{"keys": 11}, {"keys": 0}, {"tenant_calls": RateLimit(0.5, 100)}, {"principal_calls": RateLimit(1, 100)}],
)
def test_an_answer_with_other_limits_than_were_asked_for_is_not_given_out(asked: dict[str, Any]) -> None:
    with pytest.raises(CorruptAnswerError):
        update_quota(PARENT, **asked).check(quota_pb2.UpdateQuotaResponse(quota=quota()))


def test_a_raised_limit_that_waits_for_approval_is_a_refusal(gateway: Gateway) -> None:
    gateway.errors = [ApprovalRequiredError("others must approve first")]
    with client(gateway) as one, pytest.raises(RefusedError) as caught:
        one.call(update_quota(PARENT, keys=10))
    assert caught.value.reason == "APPROVAL_REQUIRED"


def test_a_call_beyond_the_rate_is_tried_again_when_the_gateway_says(gateway: Gateway) -> None:
    slept: list[float] = []
    gateway.errors = [QuotaExceededError("too many", retry_after=timedelta(milliseconds=201))]
    with client(gateway, retry=RetryPolicy(random=lambda: 0.0), sleep=slept.append) as one:
        one.call(get_quota(PARENT))
    assert slept == [pytest.approx(0.201)]


def test_the_command_shows_limits_ceilings_and_what_is_left(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(gateway, "show") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tenants/acme/quota"
    assert "calls, all callers\t0.5/s:200\t0.5/s:200\t150" in lines
    assert "signatures, each caller\t500/s:1000\t500/s:1000\t" in lines
    assert "keys\t10\t1000\t6" in lines
    assert lines[-1].endswith(": 7")


def test_the_command_gives_one_document(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(gateway, "show", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["limits"]["tenantCalls"] == {"perSecond": 0.5, "burst": 200}
    assert (found["ceilings"]["keys"], found["keysUsed"], found["refused"]) == (1000, 4, 7)


def test_the_command_sets_what_is_named(gateway: Gateway) -> None:
    assert command(gateway, "set", "--tenant-calls", "0.5/s:200", "--keys", "10", "--reason", "why", "--json") == 0
    [sent] = gateway.requests(quota_pb2.UpdateQuotaRequest)
    assert sent == update_quota(PARENT, tenant_calls=RateLimit(0.5, 200), keys=10, reason="why").request


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--tenant-calls", "100"),
        ("--tenant-calls", "100/s"),
        ("--tenant-calls", "-1/s:1"),
        ("--tenant-calls", "1e3/s:1"),
        ("--principal-signatures", "nan/s:1"),
        ("--keys", "-1"),
        ("--keys", "many"),
    ],
)
def test_bad_limits_are_wrong_usage_and_nothing_is_sent(gateway: Gateway, arguments: tuple[str, ...]) -> None:
    assert command(gateway, "set", *arguments) == 2
    assert gateway.asked == []
