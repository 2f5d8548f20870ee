"""What every call goes through, seen from outside: raw channels, and requests that no honest client sends."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from sealkeeper.client import message_content
from sealkeeper.client.connection import OPTIONS
from sealkeeper.client.errors import ExhaustedError, InvalidRequestError
from sealkeeper.client.operations import Operation
from sealkeeper.server.calls import MAX_REQUEST
from sealkeeper.server.grpc_front import TRANSPORT_LIMIT
from sealkeeper.v1 import key_pb2, log_pb2, resources_pb2, signing_pb2
from sealkeeper.verify.bundle import MAX_SENT_BUNDLE
from tests.e2e.running import PARENT, Running

MIB = 1024 * 1024
SIGN = "/sealkeeper.v1.SigningService/Sign"
VERIFY = "/sealkeeper.v1.SigningService/Verify"
GET_KEY = "/sealkeeper.v1.KeyService/GetKey"
LIST_ENTRIES = "/sealkeeper.v1.LogService/ListEntries"
# Field 1, two bytes long, of which one came.
BROKEN = b"\x0a\x02x"


@contextmanager
def channel(gateway: Running, role: str = "ci") -> Iterator[Any]:
    """A channel for bytes: what is sent need not be a message."""
    connection = gateway.connection(role)
    with grpc.secure_channel(connection.endpoint, connection.credentials(), OPTIONS) as made:
        yield made


def refusal(call: Any) -> tuple[str, str, str]:
    """Code, reason and text of what a raw call is refused with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    info = error_details_pb2.ErrorInfo()
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            assert (status.code, status.message) == (error.code().value[0], error.details())
            for detail in status.details:
                detail.Unpack(info)
    return error.code().name, info.reason, error.details()


def records(gateway: Running, start: int) -> list[dict[str, Any]]:
    """Audit records from an index on, without those of the reading itself."""
    with gateway.client("admin") as admin:
        bodies = [json.loads(one.body) for one in admin.entries("logs/audit", start) if one.body]
    return [one for one in bodies if not one["method"].startswith("LogService/") or one["outcome"] != "OK"]


@pytest.mark.parametrize("method", [SIGN, VERIFY, GET_KEY, LIST_ENTRIES])
def test_an_undecodable_request_is_refused_without_internals_and_recorded(gateway: Running, method: str) -> None:
    start = gateway.tree_size("audit")
    with channel(gateway) as raw:
        found = refusal(lambda: list(raw.unary_stream(method)(BROKEN, timeout=10)))
    assert found[:2] == ("INVALID_ARGUMENT", "REQUEST_MALFORMED")
    assert "Error" not in found[2]
    assert "class" not in found[2]
    [record] = records(gateway, start)
    assert (f"/sealkeeper.v1.{record['method']}", record["outcome"]) == (method, "REQUEST_MALFORMED")
    assert (record["role"], record["tenant"]) == ("ci", "acme")


def test_text_that_is_not_utf_8_is_undecodable_too(gateway: Running) -> None:
    with channel(gateway) as raw:
        found = refusal(lambda: raw.unary_unary(GET_KEY)(b"\x0a\x01\xff", timeout=10))
    assert found[:2] == ("INVALID_ARGUMENT", "REQUEST_MALFORMED")


def test_a_call_that_ends_without_a_request_is_refused_and_recorded(gateway: Running) -> None:
    start = gateway.tree_size("audit")
    with channel(gateway) as raw:
        found = refusal(lambda: raw.stream_unary(GET_KEY)(iter(()), timeout=10))
    assert found[:2] == ("INVALID_ARGUMENT", "REQUEST_MALFORMED")
    assert [one["outcome"] for one in records(gateway, start)] == ["REQUEST_MALFORMED"]


def test_a_request_above_the_limit_is_refused_naming_the_limit_and_recorded(gateway: Running) -> None:
    start = gateway.tree_size("audit")
    with channel(gateway) as raw:
        found = refusal(lambda: raw.unary_unary(SIGN)(bytes(MAX_REQUEST + 1), timeout=30))
    assert found[:2] == ("INVALID_ARGUMENT", "REQUEST_TOO_LARGE")
    assert str(MAX_REQUEST) in found[2]
    [record] = records(gateway, start)
    assert (record["method"], record["outcome"]) == ("SigningService/Sign", "REQUEST_TOO_LARGE")


def test_what_the_transport_cuts_off_is_recorded_as_well(gateway: Running) -> None:
    start = gateway.tree_size("audit")
    with channel(gateway) as raw:
        found = refusal(lambda: raw.unary_unary(SIGN)(bytes(TRANSPORT_LIMIT + 1), timeout=30))
        assert found[0] == "RESOURCE_EXHAUSTED"
        # The next call finds the record of the one before, which may have been made after its refusal.
        while not (found_records := records(gateway, start)):
            pass
    [record] = found_records
    assert (record["method"], record["role"]) == ("SigningService/Sign", "ci")
    assert record["outcome"] in ("REQUEST_MALFORMED", "CANCELLED")


def test_verify_takes_the_largest_bundle_together_with_the_largest_message(gateway: Running, key: str) -> None:
    message = bytes(4 * MIB)
    with gateway.client("ci") as ci:
        bundle = ci.sign(key, message_content(message)).signature.bundle
    padded = bundle + b" " * (MAX_SENT_BUNDLE - len(bundle))
    with gateway.client("verifier") as verifier:
        assert verifier.verify(padded, key, message=message).verified
        with pytest.raises(InvalidRequestError) as caught:
            verifier.verify(padded + b" ", key, message=message)
    assert caught.value.violations[0].field == "bundle"


@pytest.mark.parametrize(
    "method",
    [
        "/sealkeeper.v1.SigningService/Nope",
        "/sealkeeper.v1.NoService/Sign",
        "/sealkeeper.v2.SigningService/Sign",
        "/grpc.health.v1.Health/Nope",
        "/nonsense",
        f"/sealkeeper.v1.SigningService/{'x' * 5000}",
    ],
)
def test_an_unknown_method_is_unimplemented_with_details_and_recorded(gateway: Running, method: str) -> None:
    start = gateway.tree_size("audit")
    with channel(gateway) as raw:
        found = refusal(lambda: raw.unary_unary(method)(b"", timeout=10))
    assert found[:2] == ("UNIMPLEMENTED", "METHOD_UNKNOWN")
    [record] = records(gateway, start)
    assert (record["method"], record["outcome"]) == ("Unknown", "METHOD_UNKNOWN")
    assert record["details"]["path"] == method[:200]
    assert (record["role"], record["tenant"]) == ("ci", "acme")


def test_an_unknown_method_that_streams_is_answered_alike(gateway: Running) -> None:
    with channel(gateway) as raw:
        found = refusal(lambda: list(raw.stream_stream("/sealkeeper.v1.KeyService/Watch")(iter([b"x"]), timeout=10)))
    assert found[:2] == ("UNIMPLEMENTED", "METHOD_UNKNOWN")


def test_calls_above_the_limit_are_refused_with_a_delay_and_recorded(own_gateway: Running) -> None:
    own_gateway.change_settings(lambda text: text.replace("[http]", "max_concurrent_calls = 1\n\n[http]"))
    requests: SimpleQueue[bytes | None] = SimpleQueue()
    with own_gateway.running():
        key = own_gateway.create_key("release")
        start = own_gateway.tree_size("audit")
        with channel(own_gateway) as raw:
            # It is under way for as long as its request does not come.
            held = raw.stream_unary(GET_KEY).future(iter(requests.get, None), timeout=60)
            with own_gateway.client("verifier") as verifier:
                error = _first_refusal(lambda: verifier.checkpoint())
            assert (error.reason, error.retry_after is not None) == ("OVERLOADED", True)
            requests.put(key_pb2.GetKeyRequest(name=key).SerializeToString())
            requests.put(None)
            assert key_pb2.GetKeyResponse.FromString(held.result()).key.name == key
        found = records(own_gateway, start)
    assert [one["outcome"] for one in found if one["method"] == "KeyService/GetKey"] == ["OK"]
    assert [one["outcome"] for one in found if one["method"] == "LogService/GetCheckpoint"] == ["OVERLOADED"]


def _first_refusal(call: Any) -> ExhaustedError:
    # The call before may still be on its way in.
    while True:
        try:
            call()
        except ExhaustedError as error:
            return error


def test_probes_are_answered_and_leave_no_record(gateway: Running) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    start = gateway.tree_size("audit")
    with channel(gateway, "verifier") as raw:
        stub = health_pb2_grpc.HealthStub(raw)
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.SERVING
    assert records(gateway, start) == []


def test_the_record_of_a_refused_request_names_fields_and_says_why(gateway: Running, key: str) -> None:
    start, content = gateway.tree_size("audit"), b"a very particular content"
    with gateway.client("ci") as ci:
        digest = resources_pb2.Digest(algorithm=resources_pb2.HashAlgorithm.HASH_ALGORITHM_SHA2_256, value=bytes(31))
        items = [signing_pb2.SignContent(digest=digest), signing_pb2.SignContent(message=content, artifact_name="\n")]
        with pytest.raises(InvalidRequestError) as caught:
            ci.sign_batch(key, items)
        with pytest.raises(InvalidRequestError):
            ci.get_key("x" * 5000)
    batch, lookup = records(gateway, start)
    assert batch["details"]["fields"] == ["items[0].digest.value", "items[1].artifact_name"]
    assert batch["details"]["refusal"] == str(caught.value)
    assert content.decode() not in json.dumps(batch)
    assert (lookup["details"]["fields"], "x" * 64 in json.dumps(lookup)) == (["name"], False)


def test_the_record_of_a_refusal_of_another_kind_says_why(gateway: Running) -> None:
    start = gateway.tree_size("audit")
    with channel(gateway) as raw:
        request = key_pb2.GetKeyRequest(name=f"{PARENT}/keys/nobody").SerializeToString()
        found = refusal(lambda: raw.unary_unary(GET_KEY)(request, timeout=10))
    [record] = records(gateway, start)
    assert record["details"] == {"refusal": found[2]}


def test_a_stream_that_is_given_up_is_recorded(gateway: Running) -> None:
    start = gateway.tree_size("audit")
    with channel(gateway) as raw:
        request = log_pb2.ListEntriesRequest(log="logs/transparency").SerializeToString()
        stream = raw.unary_stream(LIST_ENTRIES)(request, timeout=10)
        next(stream, None)
        stream.cancel()
    with gateway.client("admin") as admin:
        bodies = [json.loads(one.body) for one in admin.entries("logs/audit", start) if one.body]
    assert ("LogService/ListEntries", "ci") in [(one["method"], one["role"]) for one in bodies]


def test_a_broken_bundle_of_the_largest_size_is_an_answer(gateway: Running, key: str) -> None:
    with gateway.client("verifier") as verifier:
        answer = verifier.verify(b"[" * MAX_SENT_BUNDLE, key, digest=("SHA2_256", sha256(b"").digest()))
    assert not answer.verified


BAD_TOKENS = ["x", "1:0", "1:" + "9" * 5000, "1:٣", "1:-1", "1:2", "2:1"]


@pytest.mark.parametrize("token", BAD_TOKENS)
@pytest.mark.parametrize("method", ["ListKeys", "ListKeyVersions"])
def test_a_bad_page_token_is_refused_naming_it(gateway: Running, key: str, method: str, token: str) -> None:
    encoded = urlsafe_b64encode(token.encode()).decode()
    request: Any = (
        key_pb2.ListKeysRequest(parent=PARENT, page_token=encoded)
        if method == "ListKeys"
        else key_pb2.ListKeyVersionsRequest(parent=key, page_token=encoded)
    )
    with gateway.client("custodian") as custodian, pytest.raises(InvalidRequestError) as caught:
        custodian.call(Operation("KeyService", method, request, lambda one: one))
    assert [one.field for one in caught.value.violations] == ["page_token"]


def test_an_etag_that_is_none_is_refused_naming_it(gateway: Running, key: str) -> None:
    with gateway.client("custodian") as custodian, pytest.raises(InvalidRequestError) as caught:
        custodian.set_key_version_state(f"{key}/versions/1", "DISABLED", etag="r" * 65)
    assert [one.field for one in caught.value.violations] == ["etag"]
