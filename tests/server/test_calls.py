"""The interceptor in this process, over real logs whose checkpoints can be held up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from sealkeeper.server import calls
from sealkeeper.server.authorization import Action, Decision
from sealkeeper.server.calls import CallInterceptor
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import NotFoundError, UnauthenticatedError
from sealkeeper.server.identity import InsecureLoopbackAuthenticator, Principal, Role
from sealkeeper.server.log import AUDIT, Sequencer, open_logs
from sealkeeper.server.resources import ResourceName, TenantName
from sealkeeper.server.settings import TelemetrySettings
from sealkeeper.server.telemetry import Telemetry
from sealkeeper.v1 import key_pb2
from tests.log.signer import Signer, signers

CI = Principal("acme", "spiffe://x/ci", Role.CI)
METHOD = "/sealkeeper.v1.KeyService/GetKey"
STREAM = "/sealkeeper.v1.KeyService/ListKeys"


class Unlimited:
    """Quotas of which there is always enough; tells of calls that have come in."""

    def __init__(self) -> None:
        self.admitted = asyncio.Event()

    def admit_call(self, principal: Principal) -> None:
        self.admitted.set()

    def admit_signatures(self, principal: Principal, count: int) -> None:
        pass


class Gate(Signer):
    """Signs while it is open; tells when somebody waits in front of it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.opened, self.reached = asyncio.Event(), asyncio.Event()
        self.opened.set()

    async def sign(self, text: bytes) -> bytes:
        self.reached.set()
        await self.opened.wait()
        return await super().sign(text)

    def close(self) -> None:
        self.opened.clear()
        self.reached.clear()


@dataclass
class House:
    """One server with one method: it waits for ``go``, and knows no key but ``there``."""

    interceptor: CallInterceptor
    logs: Sequencer
    gate: Gate
    go: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    left: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    ended: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    channel: Any = None
    quotas: Unlimited = field(default_factory=Unlimited)
    denied: bool = False
    forbidden: bool = False

    def decide(
        self, principal: Principal, action: Action, resource: ResourceName, address: str, now: datetime
    ) -> Decision:
        """As ``Authorizer`` has it."""
        return Decision(not self.forbidden, "a-policy", "1")

    def require_allowed(self, principal: Principal) -> None:
        if self.denied:
            raise UnauthenticatedError("denied", reason="IDENTITY_DENIED", next_step="none")

    async def list_keys(
        self, request: key_pb2.ListKeysRequest, context: Any
    ) -> AsyncIterator[key_pb2.ListKeysResponse]:
        """A stream, unlike the contract's: an answer, and another once ``go`` is set."""
        calls.current_call().authorize(Action.LIST_KEYS, TenantName("acme"))
        yield key_pb2.ListKeysResponse()
        await self.go.wait()
        yield key_pb2.ListKeysResponse()

    async def get_key(self, request: key_pb2.GetKeyRequest, context: Any) -> key_pb2.GetKeyResponse:
        context.add_done_callback(lambda _: self.ended.put_nowait(request.name))
        self.entered.put_nowait(request.name)
        try:
            await self.go.wait()
        finally:
            self.left.put_nowait(request.name)
        if request.name.startswith("nowhere"):
            raise NotFoundError("there is no such key", reason="KEY_NOT_FOUND")
        return key_pb2.GetKeyResponse()

    def call(self, name: str) -> Any:
        """Start a call."""
        return self.channel.unary_unary(METHOD)(key_pb2.GetKeyRequest(name=name).SerializeToString(), timeout=30)

    async def outcomes(self) -> list[str]:
        return [json.loads(body)["outcome"] async for _, bodies in self.logs.log(AUDIT).entries(0) for body in bodies]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    gate = Gate(AUDIT)
    logs = await open_logs(tmp_path, {**signers(), AUDIT: gate})
    made: House
    quotas = Unlimited()
    telemetry = Telemetry(TelemetrySettings(metrics_listen=None), "x")
    authorizer: Any = SimpleNamespace(decide=lambda *asked: made.decide(*asked))
    interceptor = CallInterceptor(
        InsecureLoopbackAuthenticator(CI),
        authorizer,
        frozenset({"acme"}),
        logs,
        SteadyClock(),
        telemetry,
        quotas,
        lambda principal: made.require_allowed(principal),
    )
    made = House(interceptor, logs, gate, quotas=quotas)
    handler = grpc.unary_unary_rpc_method_handler(
        made.get_key, key_pb2.GetKeyRequest.FromString, key_pb2.GetKeyResponse.SerializeToString
    )
    stream = grpc.unary_stream_rpc_method_handler(
        made.list_keys, key_pb2.ListKeysRequest.FromString, key_pb2.ListKeysResponse.SerializeToString
    )
    server = grpc.aio.server(interceptors=[interceptor])
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("sealkeeper.v1.KeyService", {"GetKey": handler, "ListKeys": stream})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as made.channel:
        yield made
    made.go.set()
    gate.opened.set()
    await server.stop(1)
    await logs.close()
    await asyncio.to_thread(telemetry.close)


async def code(call: Any) -> str:
    return str((await call.code()).name)


async def test_calls_are_refused_while_their_requests_are_too_large_together(house: House) -> None:
    house.interceptor.admit_at_most(100, size=150)
    first = house.call("x" * 100)
    await house.entered.get()
    assert await code(house.call("y" * 100)) == "RESOURCE_EXHAUSTED"
    small = house.call("z")
    await house.entered.get()
    house.go.set()
    assert [await code(first), await code(small), await code(house.call("y" * 100))] == ["OK"] * 3
    assert sorted(await house.outcomes()) == ["OK", "OK", "OK", "OVERLOADED"]


async def test_refusals_keep_nobody_out(house: House) -> None:
    house.interceptor.admit_at_most(1)
    first = house.call("first")
    await house.entered.get()
    house.gate.close()
    refused = house.call("refused")
    await house.gate.reached.wait()
    first.cancel()
    assert await house.left.get() == "first"
    # The one that was under way has gone; the refused one still waits for its record.
    following = house.call("following")
    assert await house.entered.get() == "following"
    house.go.set()
    house.gate.opened.set()
    assert [await code(refused), await code(following)] == ["RESOURCE_EXHAUSTED", "OK"]


@pytest.mark.parametrize(("name", "outcome"), [("there", "CANCELLED"), ("nowhere", "KEY_NOT_FOUND")])
async def test_nobody_escapes_the_log_by_hanging_up_before_the_record_is_durable(
    house: House, name: str, outcome: str
) -> None:
    house.go.set()
    house.gate.close()
    before = house.call("before")
    await house.gate.reached.wait()
    # The logs are busy with the call before, so the record of this one waits for its turn.
    call = house.call(name)
    assert [await house.left.get(), await house.left.get()] == ["before", name]
    call.cancel()
    assert await house.ended.get() == name
    house.gate.opened.set()
    assert [await code(before), await code(house.call("after"))] == ["OK", "OK"]
    assert await house.outcomes() == ["OK", outcome, "OK"]


async def test_a_caller_who_is_denied_while_the_request_is_held_back_does_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_KNOWN_FOR", 0.0)
    house.go.set()
    held = house.channel.stream_unary(METHOD)(timeout=30)
    await house.quotas.admitted.wait()
    house.denied = True
    await held.write(key_pb2.GetKeyRequest(name="there").SerializeToString())
    await held.done_writing()
    assert await code(held) == "UNAUTHENTICATED"
    assert house.entered.empty()
    assert await house.outcomes() == ["IDENTITY_DENIED"]


async def test_a_caller_who_is_denied_meanwhile_gets_nothing_more_of_a_stream(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_KNOWN_FOR", 0.0)
    stream = house.channel.unary_stream(STREAM)(b"", timeout=30)
    assert await stream.read() == b""
    house.denied = True
    house.go.set()
    assert await code(stream) == "UNAUTHENTICATED"
    assert await house.outcomes() == ["OK", "IDENTITY_DENIED"]


async def test_a_caller_who_may_not_any_more_gets_nothing_more_of_a_stream(house: House) -> None:
    stream = house.channel.unary_stream(STREAM)(b"", timeout=30)
    assert await stream.read() == b""
    house.forbidden = True
    house.go.set()
    assert await code(stream) == "PERMISSION_DENIED"
    assert await house.outcomes() == ["OK", "PERMISSION_DENIED"]
