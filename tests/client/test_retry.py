"""When the client tries again, against a real gRPC server that refuses as it is told."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import grpc
import pytest

from sealkeeper.client import Client, Connection, message_content
from sealkeeper.client.client import AsyncClient
from sealkeeper.client.errors import ClientError, CorruptAnswerError, InvalidRequestError, UnavailableError
from sealkeeper.client.operations import crc32c
from sealkeeper.client.retry import RetryPolicy
from sealkeeper.server.errors import InvalidRequestError as ServerInvalidRequestError
from sealkeeper.server.errors import OverloadedError, PermissionDeniedError
from sealkeeper.server.errors import UnavailableError as ServerUnavailableError
from sealkeeper.server.status import status_of
from sealkeeper.v1 import signing_pb2, signing_pb2_grpc
from tests.verify.signed import signed

KEY = "tenants/acme/keys/release"


class Servicer(signing_pb2_grpc.SigningServiceServicer):
    """Refuses with what is in ``errors``, then answers; remembers request ids."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.ids: list[str] = []
        self.spoil = ""

    def Sign(self, request: signing_pb2.SignRequest, context: Any) -> signing_pb2.SignResponse:  # noqa: N802
        self.ids.append(request.request_id)
        if self.errors:
            code, text, trailers = status_of(self.errors.pop(0))
            context.set_trailing_metadata(trailers)
            context.abort(code, text)
        bundle, signature = signed().key_bundle, self._signature()
        answer = signing_pb2.Signature(
            bundle=bundle,
            bundle_crc32c=crc32c(bundle) ^ (self.spoil == "bundle"),
            signature=signature,
            signature_crc32c=crc32c(signature) ^ (self.spoil == "signature"),
            content_crc32c_verified=self.spoil != "content",
        )
        return signing_pb2.SignResponse(signature=answer, key_version=f"{KEY}/versions/1")

    def SignBatch(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError

    def Verify(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError

    def GetPublicKey(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError

    def _signature(self) -> bytes:
        from sealkeeper.verify.bundle import parse_bundle

        return b"another" if self.spoil == "other" else parse_bundle(signed().key_bundle).signature


@pytest.fixture
def served() -> Iterator[tuple[Servicer, Connection]]:
    servicer, server = Servicer(), grpc.server(ThreadPoolExecutor(2))
    signing_pb2_grpc.add_SigningServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, Connection(f"127.0.0.1:{port}", "acme", insecure=True)
    server.stop(0).wait()


def test_what_is_unavailable_is_tried_again_with_the_same_request_id(served: tuple[Servicer, Connection]) -> None:
    servicer, connection = served
    waits: list[float] = []
    servicer.errors = [ServerUnavailableError("away"), OverloadedError("much", retry_after=timedelta(seconds=2))]
    with Client(connection, retry=RetryPolicy(random=lambda: 1.0), sleep=waits.append) as client:
        client.sign(KEY, message_content(b"the artifact"))
    assert len(servicer.ids) == 3
    assert len(set(servicer.ids)) == 1
    assert waits == [pytest.approx(0.1), pytest.approx(2.2)]


async def test_the_async_client_does_the_same(served: tuple[Servicer, Connection]) -> None:
    servicer, connection = served
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    servicer.errors = [ServerUnavailableError("away")]
    async with AsyncClient(connection, retry=RetryPolicy(random=lambda: 1.0), sleep=sleep) as client:
        await client.sign(KEY, message_content(b"the artifact"))
    assert (len(servicer.ids), len(set(servicer.ids))) == (2, 1)
    assert waits == [pytest.approx(0.1)]


@pytest.mark.parametrize(
    "error",
    [
        PermissionDeniedError("no"),
        ServerInvalidRequestError.of("key", "bad"),
        OverloadedError("no word of when"),
        ValueError("internal"),
    ],
)
def test_nothing_else_is_tried_again(served: tuple[Servicer, Connection], error: Exception) -> None:
    servicer, connection = served
    servicer.errors = [error]
    with Client(connection) as client, pytest.raises(ClientError) as caught:
        client.sign(KEY, message_content(b"the artifact"))
    assert len(servicer.ids) == 1
    if isinstance(caught.value, InvalidRequestError):
        assert caught.value.violations[0].field == "key"


def test_tries_end_with_the_deadline_and_with_their_number(served: tuple[Servicer, Connection]) -> None:
    servicer, connection = served
    servicer.errors = [ServerUnavailableError("away", retry_after=timedelta(hours=1))]
    with Client(connection) as client, pytest.raises(UnavailableError):
        client.sign(KEY, message_content(b"the artifact"))
    servicer.errors = [ServerUnavailableError("away") for _ in range(20)]
    with Client(connection, sleep=lambda _: None) as client, pytest.raises(UnavailableError):
        client.sign(KEY, message_content(b"the artifact"))
    assert len(servicer.ids) == 1 + RetryPolicy().attempts


@pytest.mark.parametrize("spoil", ["bundle", "signature", "content", "other"])
def test_a_damaged_answer_is_not_given_out(served: tuple[Servicer, Connection], spoil: str) -> None:
    servicer, connection = served
    servicer.spoil = spoil
    with Client(connection) as client, pytest.raises(CorruptAnswerError):
        client.sign(KEY, message_content(b"the artifact"))
