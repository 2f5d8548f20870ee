"""Tokens on calls: fetched with the first, renewed in time, told clearly where there are none; over TLS only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from sealkeeper.client import AsyncClient, Client, Connection
from sealkeeper.client.call_tokens import CallTokens
from sealkeeper.client.errors import ClientError
from sealkeeper.client.identity_operations import who_am_i
from sealkeeper.client.retry import RetryPolicy
from sealkeeper.client.token_source import FileToken, Token, TokenSource, TokenUnavailableError
from sealkeeper.server.errors import UnauthenticatedError
from sealkeeper.server.status import status_of
from sealkeeper.v1 import identity_pb2, log_pb2
from tests.client.tls_folder import TlsFolder

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Port(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # it has arguments in its stubs only
    """The gateway's port for tokens: remembers them, after it has refused with what is in ``errors``."""

    def __init__(self, tls: TlsFolder) -> None:
        self.tls = tls
        self.errors: list[Exception] = []
        self.seen: list[str] = []
        self.endpoint = ""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        def look(context: grpc.ServicerContext) -> None:
            self.seen.append(str(dict(context.invocation_metadata()).get("authorization", "")))
            if self.errors:
                code, text, trailers = status_of(self.errors.pop(0))
                context.set_trailing_metadata(trailers)
                context.abort(code, text)

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            look(context)
            return identity_pb2.WhoAmIResponse(principal=identity_pb2.Principal(subject="me")).SerializeToString()

        def stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            look(context)
            yield log_pb2.ListEntriesResponse(entries=[log_pb2.LogEntry(log_index=0)]).SerializeToString()

        if details.method.endswith("/ListEntries"):
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(answer)

    @contextmanager
    def serving(self) -> Iterator[None]:
        server = grpc.server(ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers((self,))
        pair = (self.tls.key.read_bytes(), self.tls.certificate.read_bytes())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        self.endpoint = f"127.0.0.1:{port}"
        server.start()
        try:
            yield
        finally:
            server.stop(0).wait()

    def connection(self, tokens: TokenSource) -> Connection:
        return Connection(self.endpoint, "acme", self.tls.ca, tokens=tokens)


class Numbered:
    """Tokens 1, 2, 3 and so on."""

    def __init__(self, *, renewable: bool = True, lifetime: timedelta | None = None) -> None:
        self.renewable = renewable
        self.count = 0
        self.renewals: list[bool] = []
        self.failure: Exception | None = None
        self._lifetime = lifetime

    def fetch(self, *, renew: bool = False) -> Token:
        if self.failure is not None:
            raise self.failure
        self.count += 1
        self.renewals.append(renew)
        return Token(f"token-{self.count}", None if self._lifetime is None else NOW + self._lifetime)

    def changed(self) -> bool:
        return False


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    one = Port(TlsFolder.make(tmp_path_factory.mktemp("tls")))
    with one.serving():
        yield one


@pytest.fixture(autouse=True)
def fresh(port: Port) -> None:
    port.seen.clear()
    port.errors.clear()


def unexpected(_: float) -> None:
    raise AssertionError("it waited")


async def test_calls_share_a_token_that_is_fetched_with_the_first(port: Port) -> None:
    source = Numbered()
    with Client(port.connection(source)) as client:
        assert source.count == 0
        for _ in range(3):
            assert client.call(who_am_i()).principal.subject == "me"
        assert [one.log_index for one in client.entries("logs/transparency")] == [0]
    assert (port.seen, source.count) == (["Bearer token-1"] * 4, 1)
    async with AsyncClient(port.connection(source)) as other:
        await other.call(who_am_i())
        assert [one.log_index async for one in other.entries("logs/transparency")] == [0]
    assert port.seen[4:] == ["Bearer token-2"] * 2


def test_calls_at_once_fetch_one_token(port: Port) -> None:
    source = Numbered()
    with Client(port.connection(source)) as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: client.call(who_am_i()), range(32)))
    assert (set(port.seen), source.count) == ({"Bearer token-1"}, 1)


@pytest.mark.parametrize("reason", ["TOKEN_REPLAYED", "TOKEN_EXPIRED"])
async def test_a_call_whose_token_is_refused_is_tried_once_more_with_another(port: Port, reason: str) -> None:
    once = RetryPolicy(attempts=1)
    with Client(port.connection(source := Numbered()), retry=once) as client:
        client.call(who_am_i())
        port.errors = [UnauthenticatedError("no", reason=reason)]
        client.call(who_am_i())
        port.errors = [UnauthenticatedError("no", reason=reason)]
        assert len(list(client.entries("logs/transparency"))) == 1
    assert port.seen == [f"Bearer token-{number}" for number in (1, 1, 2, 2, 3)]
    assert source.renewals == [False, True, True]
    async with AsyncClient(port.connection(Numbered()), retry=once) as other:
        port.errors = [UnauthenticatedError("no", reason=reason)]
        await other.call(who_am_i())
        port.errors = [UnauthenticatedError("no", reason=reason)]
        assert len([one async for one in other.entries("logs/transparency")]) == 1
    assert port.seen[5:] == [f"Bearer token-{number}" for number in (1, 2, 2, 3)]


async def test_it_is_not_tried_a_third_time(port: Port) -> None:
    connection = port.connection(Numbered())
    refusals: list[Exception] = [UnauthenticatedError("no", reason="TOKEN_REPLAYED") for _ in range(8)]
    with Client(connection) as client:
        for call in (lambda: client.call(who_am_i()), lambda: list(client.entries("logs/transparency"))):
            port.errors = refusals[:2]
            with pytest.raises(ClientError) as caught:
                call()
            assert caught.value.reason == "TOKEN_REPLAYED"
    async with AsyncClient(connection) as other:
        port.errors = refusals[:2]
        with pytest.raises(ClientError):
            await other.call(who_am_i())
    assert len(port.seen) == 6


@pytest.mark.parametrize(("reason", "renewable"), [("TOKEN_EXPIRED", False), ("UNAUTHENTICATED", True)])
def test_it_is_not_tried_again_where_another_token_would_not_help(port: Port, reason: str, renewable: bool) -> None:
    port.errors = [UnauthenticatedError("no", reason=reason)]
    with Client(port.connection(Numbered(renewable=renewable))) as client, pytest.raises(ClientError) as caught:
        client.call(who_am_i())
    assert (caught.value.reason, len(port.seen)) == (reason, 1)


async def test_a_call_without_a_token_fails_at_once_and_says_why(port: Port) -> None:
    source = Numbered()
    source.failure = TokenUnavailableError("the agent is away", next_step="start it")
    with Client(port.connection(source), sleep=unexpected) as client:
        for call in (lambda: client.call(who_am_i()), lambda: list(client.entries("logs/transparency"))):
            with pytest.raises(TokenUnavailableError, match="agent is away") as caught:
                call()
            assert (caught.value.reason, caught.value.next_step) == ("TOKEN_UNAVAILABLE", "start it")
        source.failure = None
        assert client.call(who_am_i()).principal.subject == "me"
    source.failure = TokenUnavailableError("the agent is away", next_step="start it")
    async with AsyncClient(port.connection(source)) as other:
        with pytest.raises(TokenUnavailableError, match="agent is away"):
            await other.call(who_am_i())
        with pytest.raises(TokenUnavailableError, match="agent is away"):
            [one async for one in other.entries("logs/transparency")]
    assert port.seen == ["Bearer token-1"]


def test_a_fault_while_a_token_is_fetched_is_told_without_what_it_was_about(port: Port) -> None:
    source = Numbered()
    source.failure = ValueError("the secret token abc.def")
    connection = port.connection(source)
    with Client(connection, sleep=unexpected) as client, pytest.raises(TokenUnavailableError) as caught:
        client.call(who_am_i())
    assert "ValueError" in str(caught.value)
    assert "abc" not in str(caught.value)


def test_a_source_that_takes_too_long_does_not_hold_the_call_up(port: Port) -> None:
    ended = threading.Event()

    class Slow(Numbered):
        def fetch(self, *, renew: bool = False) -> Token:
            ended.wait(60)
            return super().fetch(renew=renew)

    try:
        with Client(port.connection(Slow()), timeout=0.3) as client, pytest.raises(ClientError) as caught:
            client.call(who_am_i())
    finally:
        ended.set()
    assert caught.value.reason == "DEADLINE_EXCEEDED"


def test_a_token_file_is_read_again_when_it_has_changed(port: Port, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first.token.x\n")
    with Client(port.connection(FileToken(path)), sleep=unexpected) as client:
        client.call(who_am_i())
        (tmp_path / "new").write_text("second.token.x\n")
        (tmp_path / "new").replace(path)
        client.call(who_am_i())
        path.unlink()
        with pytest.raises(TokenUnavailableError, match="token: No such file"):
            client.call(who_am_i())
    assert port.seen == ["Bearer first.token.x", "Bearer second.token.x"]


def given_by(calls: CallTokens) -> str:
    """What gRPC would be given for a call."""
    given: list[Any] = []
    calls(None, lambda metadata, error: given.append(metadata))  # type: ignore[arg-type]  # the context is not looked at
    text: str = given[0][0][1]
    return text


@pytest.mark.parametrize(("left", "count"), [(timedelta(minutes=5), 1), (timedelta(seconds=29), 2)])
def test_a_token_is_renewed_before_it_ends(left: timedelta, count: int) -> None:
    source = Numbered(lifetime=timedelta(minutes=10))
    clock: list[datetime] = [NOW, NOW + timedelta(minutes=10) - left]
    calls = CallTokens(source, lambda: clock[0])
    assert given_by(calls) == "Bearer token-1"
    clock.pop(0)
    assert given_by(calls) == f"Bearer token-{count}"


def test_a_token_that_cannot_be_renewed_is_sent_to_its_end() -> None:
    source = Numbered(renewable=False, lifetime=timedelta(0))
    calls = CallTokens(source, lambda: NOW + timedelta(hours=1))
    assert [given_by(calls), given_by(calls)] == ["Bearer token-1"] * 2


def test_a_token_does_not_go_over_plaintext() -> None:
    source = Numbered()
    connection = Connection("127.0.0.1:1", insecure=True, tokens=source)
    with Client(connection, timeout=0.3) as client, pytest.raises(ClientError):
        client.call(who_am_i())
    assert source.count == 0


def test_callers_with_a_certificate_send_no_token() -> None:
    credentials = grpc.ssl_channel_credentials()
    assert CallTokens(None).secured(credentials) is credentials


_: Callable[[], TokenSource] = Numbered
