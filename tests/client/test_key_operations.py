"""Calls about imports, standby versions, ceremonies and providers, against a gRPC server that answers as it is told."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from sealkeeper.client import Client, Connection, operations
from sealkeeper.client.client import AsyncClient
from sealkeeper.client.errors import CorruptAnswerError, InvalidRequestError
from sealkeeper.client.operations import crc32c
from sealkeeper.client.retry import RetryPolicy
from sealkeeper.server.errors import UnavailableError as ServerUnavailableError
from sealkeeper.v1 import key_import_pb2, key_pb2, provider_pb2, resources_pb2
from tests.client.answering import Gateway

PARENT = "tenants/acme"
KEY = f"{PARENT}/keys/release"
VERSION = f"{KEY}/versions/1"
IMPORT = f"{PARENT}/keyImports/i-1"
P256 = resources_pb2.PUBLIC_KEY_DETAILS_PKIX_ECDSA_P256_SHA_256
KWP = resources_pb2.WRAP_METHOD_RSA_OAEP_SHA256_AES_256_KWP


def key_import(**other: Any) -> key_import_pb2.KeyImport:
    members: dict[str, Any] = {
        "name": IMPORT,
        "state": key_import_pb2.KEY_IMPORT_STATE_OPEN,
        "key": KEY,
        "algorithm": P256,
        "provider": "vault",
        "wrapping_key": b"spki",
        "wrapping_key_crc32c": crc32c(b"spki"),
        "wrap_methods": [KWP],
    }
    return key_import_pb2.KeyImport(**{**members, **other})


def version(**other: Any) -> resources_pb2.KeyVersion:
    members: dict[str, Any] = {"name": VERSION, "public_key": b"public", "public_key_crc32c": crc32c(b"public")}
    return resources_pb2.KeyVersion(**{**members, **other})


def ceremony(**other: Any) -> key_pb2.GetKeyCeremonyResponse:
    members: dict[str, Any] = {"record": b"{}", "log_index": 1, "tree_size": 2, "hashes": [bytes(32)]}
    return key_pb2.GetKeyCeremonyResponse(**{**members, **other})


ANSWERS: dict[str, Any] = {
    "BeginKeyImport": key_import_pb2.BeginKeyImportResponse(key_import=key_import()),
    "FinishKeyImport": key_import_pb2.FinishKeyImportResponse(version=version()),
    "CancelKeyImport": key_import_pb2.CancelKeyImportResponse(key_import=key_import()),
    "GetKeyImport": key_import_pb2.GetKeyImportResponse(key_import=key_import()),
    "ListKeyImports": key_import_pb2.ListKeyImportsResponse(key_imports=[key_import(), key_import()]),
    "AddStandbyVersion": key_pb2.AddStandbyVersionResponse(version=version(provider="aws", standby=True)),
    "GetKeyEvidence": key_pb2.GetKeyEvidenceResponse(evidence=resources_pb2.KeyEvidence(exportable=False)),
    "GetKeyCeremony": ceremony(),
    "ListProviders": provider_pb2.ListProvidersResponse(providers=[provider_pb2.Provider(name="x")]),
    "GetProvider": provider_pb2.GetProviderResponse(provider=provider_pb2.Provider(name="x")),
}
PERIOD = timedelta(hours=1)
# What is called, what goes out, and what comes back.
CALLS: list[tuple[Callable[[Any], Any], Any, Any]] = [
    (
        lambda client: client.begin_key_import(
            PARENT, "release", algorithm="PKIX_ECDSA_P256_SHA_256", provider="vault", labels={"a": "b"}, request_id="r"
        ),
        key_import_pb2.BeginKeyImportRequest(
            parent=PARENT, key_id="release", algorithm=P256, provider="vault", labels={"a": "b"}, request_id="r"
        ),
        key_import(),
    ),
    (
        lambda client: client.finish_key_import(
            IMPORT, "RSA_OAEP_SHA256_AES_256_KWP", b"wrapped", b"public", publish_period=PERIOD, request_id="r"
        ),
        key_import_pb2.FinishKeyImportRequest(
            name=IMPORT,
            wrap_method=KWP,
            wrapped_key=b"wrapped",
            wrapped_key_crc32c=crc32c(b"wrapped"),
            public_key=b"public",
            publish_period=Duration(seconds=3600),
            request_id="r",
        ),
        ANSWERS["FinishKeyImport"],
    ),
    (
        lambda client: client.cancel_key_import(IMPORT),
        key_import_pb2.CancelKeyImportRequest(name=IMPORT),
        key_import(),
    ),
    (lambda client: client.get_key_import(IMPORT), key_import_pb2.GetKeyImportRequest(name=IMPORT), key_import()),
    (
        lambda client: client.list_key_imports(PARENT),
        key_import_pb2.ListKeyImportsRequest(parent=PARENT, page_size=500),
        [key_import(), key_import()],
    ),
    (
        lambda client: client.add_standby_version(KEY, "aws", failover="MANUAL", publish_period=PERIOD, request_id="r"),
        key_pb2.AddStandbyVersionRequest(
            name=KEY,
            provider="aws",
            failover=resources_pb2.FAILOVER_MANUAL,
            publish_period=Duration(seconds=3600),
            request_id="r",
        ),
        ANSWERS["AddStandbyVersion"],
    ),
    (
        lambda client: client.get_key_evidence(VERSION),
        key_pb2.GetKeyEvidenceRequest(name=VERSION),
        resources_pb2.KeyEvidence(exportable=False),
    ),
    (lambda client: client.get_key_ceremony(VERSION), key_pb2.GetKeyCeremonyRequest(name=VERSION), ceremony()),
    (
        lambda client: client.list_providers(PARENT),
        provider_pb2.ListProvidersRequest(parent=PARENT),
        [provider_pb2.Provider(name="x")],
    ),
    (
        lambda client: client.get_provider("p"),
        provider_pb2.GetProviderRequest(name="p"),
        provider_pb2.Provider(name="x"),
    ),
]


@pytest.fixture
def served() -> Iterator[tuple[Gateway, Connection]]:
    gateway = Gateway(ANSWERS)
    with gateway.serving():
        yield gateway, Connection(gateway.address, "acme", insecure=True)


def listed(found: Any) -> Any:
    return list(found) if not hasattr(found, "DESCRIPTOR") else found


@pytest.mark.parametrize(("call", "request_", "answer"), CALLS)
def test_each_call_asks_for_what_it_was_given_and_gives_what_came(
    served: tuple[Gateway, Connection], call: Callable[[Any], Any], request_: Any, answer: Any
) -> None:
    gateway, connection = served
    with Client(connection) as client:
        assert listed(call(client)) == answer
    assert gateway.requests(type(request_)) == [request_]


@pytest.mark.parametrize(("call", "request_", "answer"), CALLS)
def test_each_call_does_the_same_with_asyncio(
    served: tuple[Gateway, Connection], call: Callable[[Any], Any], request_: Any, answer: Any
) -> None:
    gateway, connection = served

    async def ask() -> Any:
        async with AsyncClient(connection) as client:
            made = call(client)
            return listed(await made) if inspect.isawaitable(made) else [one async for one in made]

    assert asyncio.run(ask()) == answer
    assert gateway.requests(type(request_)) == [request_]


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.begin_key_import(PARENT, "release"),
        lambda client: client.finish_key_import(IMPORT, "RSA_OAEP_SHA256", b"wrapped", b"public"),
        lambda client: client.add_standby_version(KEY, "aws"),
        lambda client: client.cancel_key_import(IMPORT),
    ],
)
def test_what_changes_something_is_tried_again_as_the_same_request(
    served: tuple[Gateway, Connection], call: Callable[[Client], Any]
) -> None:
    gateway, connection = served
    gateway.errors = [ServerUnavailableError("away"), ServerUnavailableError("away")]
    with Client(connection, retry=RetryPolicy(random=lambda: 0.0), sleep=lambda _: None) as client:
        call(client)
    assert len(gateway.asked) == 3
    assert len(set(gateway.asked)) == 1


def begin(**other: Any) -> Any:
    asked: dict[str, Any] = {"algorithm": "", "provider": "", "standby": False, "labels": {}, "request_id": None}
    return operations.begin_key_import(PARENT, "release", **{**asked, **other})


def finish(method: str = "RSA_OAEP_SHA256", wrapped: bytes = b"wrapped", public: bytes = b"public") -> Any:
    return operations.finish_key_import(IMPORT, method, wrapped, public, publish_period=None, request_id=None)


def standby(failover: str = "AUTOMATIC") -> Any:
    return operations.add_standby_version(KEY, "aws", failover=failover, publish_period=None, request_id=None)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: finish(wrapped=b"x" * (16 * 1024 + 1)), "wrapped_key"),
        (lambda: finish(wrapped=b""), "wrapped_key"),
        (lambda: finish(public=b"x" * 4097), "public_key"),
        (lambda: finish(public=b""), "public_key"),
        (lambda: finish(method="RSA_PKCS1"), None),
        (lambda: begin(algorithm="DSA"), None),
        (lambda: standby("SOMETIMES"), None),
        (lambda: standby("UNSPECIFIED"), None),
    ],
)
def test_what_no_gateway_takes_is_refused_before_it_is_sent(make: Callable[[], Any], field: str | None) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        make()
    assert [one.field for one in caught.value.violations] == ([field] if field else [])


def test_the_longest_wrapped_key_is_sent() -> None:
    assert finish(wrapped=b"x" * 16 * 1024, public=b"x" * 4096).method == "FinishKeyImport"


@pytest.mark.parametrize(
    "spoiled",
    [
        {"wrapping_key_crc32c": crc32c(b"spki") ^ 1},
        {"wrapping_key": b"", "wrapping_key_crc32c": crc32c(b"")},
        {"wrap_methods": []},
        {"key": f"{PARENT}/keys/other"},
        {"algorithm": resources_pb2.PUBLIC_KEY_DETAILS_PKIX_ED25519},
        {"provider": "other"},
        {"standby": True},
    ],
)
def test_an_import_that_is_damaged_or_another_than_was_asked_for_is_not_given_out(spoiled: dict[str, Any]) -> None:
    operation = begin(algorithm="PKIX_ECDSA_P256_SHA_256", provider="vault")
    with pytest.raises(CorruptAnswerError):
        operation.check(key_import_pb2.BeginKeyImportResponse(key_import=key_import(**spoiled)))


@pytest.mark.parametrize(
    "check",
    [
        lambda one: operations.get_key_import(IMPORT).check(key_import_pb2.GetKeyImportResponse(key_import=one)),
        lambda one: operations.cancel_key_import(IMPORT).check(key_import_pb2.CancelKeyImportResponse(key_import=one)),
        lambda one: operations.list_key_imports(PARENT, "", 1).check(
            key_import_pb2.ListKeyImportsResponse(key_imports=[key_import(), one])
        ),
    ],
)
def test_a_wrapping_key_that_was_damaged_is_not_given_out(check: Callable[[Any], Any]) -> None:
    check(key_import())
    with pytest.raises(CorruptAnswerError):
        check(key_import(wrapping_key=b"spkj"))


@pytest.mark.parametrize("spoiled", [{"public_key": b"other"}, {"public_key_crc32c": 1}])
def test_a_version_with_another_public_key_than_was_given_is_not_given_out(spoiled: dict[str, Any]) -> None:
    made = version(**{"public_key_crc32c": crc32c(spoiled.get("public_key", b"public")), **spoiled})
    with pytest.raises(CorruptAnswerError):
        finish().check(key_import_pb2.FinishKeyImportResponse(version=made))


@pytest.mark.parametrize("spoiled", [{"provider": "other"}, {"standby": False}])
def test_a_version_that_does_not_stand_by_where_it_should_is_not_given_out(spoiled: dict[str, Any]) -> None:
    made = version(**{"provider": "aws", "standby": True, **spoiled})
    with pytest.raises(CorruptAnswerError):
        standby().check(key_pb2.AddStandbyVersionResponse(version=made))


@pytest.mark.parametrize("spoiled", [{"record": b""}, {"record": b"x" * 65_536}, {"hashes": [bytes(32)] * 64}])
def test_a_ceremony_longer_than_any_is_not_given_out(spoiled: dict[str, Any]) -> None:
    with pytest.raises(CorruptAnswerError):
        operations.get_key_ceremony(VERSION).check(ceremony(**spoiled))
