"""A flood of calls that are not admitted: its records are summed up, and it takes nothing from other tenants."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from sealkeeper.server.authorization import UnrestrictedAuthorizer
from sealkeeper.server.calls import CallInterceptor
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import QuotaExceededError, UnauthenticatedError
from sealkeeper.server.identity import Caller, Principal, Role
from sealkeeper.server.log import AUDIT, Sequencer, open_logs
from sealkeeper.server.settings import TelemetrySettings
from sealkeeper.server.telemetry import Telemetry
from sealkeeper.v1 import key_pb2
from tests.log.signer import signers

METHOD = "/sealkeeper.v1.KeyService/GetKey"
ONE_BY_ONE, FLOOD = 5, 30


class ByName:
    """Callers are of the tenant that they name; one of no name is nobody."""

    async def authenticate(self, caller: Caller, now: datetime) -> Principal:
        tenant = str(caller.metadata.get("tenant", ""))
        if not tenant:
            raise UnauthenticatedError("nobody", reason="CREDENTIALS_MISSING")
        return Principal(tenant, "spiffe://x/ci", Role.CI)


class UsedUp:
    """Quotas of which nothing is left, but of the quiet tenant's."""

    def admit_call(self, principal: Principal) -> None:
        if principal.tenant != "quiet":
            raise QuotaExceededError("too many calls", metadata={"quota": "tenant_calls"})

    def admit_signatures(self, principal: Principal, count: int) -> None:
        pass


@dataclass
class House:
    """A server with one method."""

    interceptor: CallInterceptor
    logs: Sequencer
    channel: Any

    async def call(self, tenant: str) -> str:
        metadata = (("tenant", tenant),) if tenant else ()
        call = self.channel.unary_unary(METHOD)(b"", timeout=30, metadata=metadata)
        return str((await call.code()).name)

    async def records(self) -> list[dict[str, Any]]:
        return [json.loads(body) async for _, bodies in self.logs.log(AUDIT).entries(0) for body in bodies]


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr("sealkeeper.server.calls._REFUSALS_AT_ONCE", ONE_BY_ONE)
    # One more in a day.
    for rate in ("_REFUSALS", "_STRANGERS"):
        monkeypatch.setattr(f"sealkeeper.server.calls.{rate}", 1 / 86_400)
    logs = await open_logs(tmp_path, signers())
    tenants = frozenset({"loud", "other", "quiet"})
    telemetry = Telemetry(TelemetrySettings(metrics_listen=None), "x")
    interceptor = CallInterceptor(ByName(), UnrestrictedAuthorizer(), tenants, logs, SteadyClock(), telemetry, UsedUp())

    async def get_key(request: key_pb2.GetKeyRequest, context: Any) -> key_pb2.GetKeyResponse:
        return key_pb2.GetKeyResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        get_key, key_pb2.GetKeyRequest.FromString, key_pb2.GetKeyResponse.SerializeToString
    )
    server = grpc.aio.server(interceptors=[interceptor])
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("sealkeeper.v1.KeyService", {"GetKey": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield House(interceptor, logs, channel)
    await server.stop(None)
    await logs.close()


async def test_a_flood_of_one_tenant_is_summed_up_in_records_of_its_own(house: House) -> None:
    assert {await house.call("loud") for _ in range(FLOOD)} == {"RESOURCE_EXHAUSTED"}
    assert {await house.call("other") for _ in range(ONE_BY_ONE)} == {"RESOURCE_EXHAUSTED"}
    assert await house.call("quiet") == "OK"
    of = [one["tenant"] for one in await house.records()]
    assert [of.count(tenant) for tenant in ("loud", "other", "quiet")] == [ONE_BY_ONE, ONE_BY_ONE, 1]
    await house.interceptor.sum_up()
    *_, last = await house.records()
    assert (last["method"], last["tenant"]) == ("Gateway/SumUpRefusals", "loud")
    assert last["details"] == {"refusals": {"QUOTA_EXCEEDED": FLOOD - ONE_BY_ONE}}
    await house.interceptor.sum_up()
    assert len(await house.records()) == len(of) + 1


async def test_a_flood_of_nobodys_takes_no_records_from_tenants(house: House) -> None:
    assert {await house.call("") for _ in range(FLOOD)} == {"UNAUTHENTICATED"}
    assert {await house.call("none") for _ in range(FLOOD)} == {"UNAUTHENTICATED"}
    assert {await house.call("other") for _ in range(ONE_BY_ONE)} == {"RESOURCE_EXHAUSTED"}
    of = [one["tenant"] for one in await house.records()]
    assert [of.count(tenant) for tenant in ("", "other")] == [ONE_BY_ONE, ONE_BY_ONE]
    await house.interceptor.sum_up()
    *_, last = await house.records()
    counts = {"CREDENTIALS_MISSING": FLOOD - ONE_BY_ONE, "TENANT_UNKNOWN": FLOOD}
    assert (last["tenant"], last["details"]) == ("", {"refusals": counts})
