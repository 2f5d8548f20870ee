"""A whole gateway in this process, with a clock that tests set and a collector that looks at its spans."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from sealkeeper.client import Client, ClientError
from sealkeeper.client.errors import UnavailableError
from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.gateway import Gateway
from tests.e2e.running import P256, PARENT, TENANT
from tests.server.house import House, audit_records

HOUR = 3600 * 10**9
YEAR = 365 * 24 * HOUR


@pytest.fixture
async def house(tmp_path: Path) -> House:
    return await House.make(tmp_path / "gateway")


def foreign_records(client: Client) -> int:
    return sum(not one.body for one in client.entries("logs/audit"))


async def test_a_clock_that_goes_back_stops_signing_and_changes_nothing_else(house: House) -> None:
    async with house.running() as gateway:
        await house.create_key(gateway)
        await house.sign(gateway)
        house.ahead = -5 * 10**9
        await house.sign(gateway)
        house.ahead = -HOUR
        with pytest.raises(UnavailableError) as caught:
            await house.sign(gateway)
        assert caught.value.reason == "CLOCK_WENT_BACK"
        assert "--accept-clock" in caught.value.next_step
        records = await house.ask(gateway, "admin", audit_records)
        house.ahead = 0
        await house.sign(gateway)
    times = [one["time"] for one in records]
    assert times == sorted(times)
    assert records[-1]["outcome"] == "CLOCK_WENT_BACK"


async def test_hours_of_reading_count_too_when_the_clock_goes_back(house: House) -> None:
    async with house.running() as gateway:
        await house.create_key(gateway)
        house.ahead = HOUR
        await house.ask(gateway, "admin", audit_records)
        house.ahead = 60 * 10**9
        with pytest.raises(UnavailableError, match="behind"):
            await house.sign(gateway)


async def test_a_key_can_be_switched_off_whatever_the_clock_says(house: House) -> None:
    async with house.running() as gateway:
        await house.create_key(gateway)
        house.ahead = -HOUR
        version = f"{PARENT}/keys/release/versions/1"
        await house.ask(gateway, "custodian", lambda client: client.set_key_version_state(version, "COMPROMISED"))
        house.ahead = 0
        with pytest.raises(ClientError) as caught:
            await house.sign(gateway)
        assert caught.value.reason == "KEY_VERSION_NOT_ACTIVE"


async def test_a_clock_that_was_far_ahead_locks_nobody_out_and_is_accepted_once_an_operator_says_so(
    house: House,
) -> None:
    async with house.running() as gateway:
        await house.create_key(gateway)
        house.ahead = 2 * YEAR
        with pytest.raises(ClientError):
            await house.sign(gateway)
    house.ahead = 0
    async with house.running() as gateway:
        before = await house.ask(gateway, "admin", foreign_records)
        with pytest.raises(UnavailableError) as caught:
            await house.sign(gateway)
        assert caught.value.reason == "CLOCK_WENT_BACK"
    async with house.running(accept_clock=True) as gateway:
        await house.sign(gateway)
        # That it was accepted is the gateway's own record, of which a tenant sees that it is there.
        assert await house.ask(gateway, "admin", foreign_records) == before + 1
    async with house.running() as gateway:
        await house.sign(gateway)


async def test_a_provider_whose_keys_are_still_there_cannot_be_left_out_of_the_settings(house: House) -> None:
    settings = house.directory / "sealkeeper.toml"
    text = settings.read_text()
    folder = house.directory / "other"
    settings.write_text(text + _second_provider(text, folder))

    def create(client: Client) -> Any:
        return client.create_key(PARENT, "release", P256, provider="other")

    async with house.running() as gateway:
        await house.ask(gateway, "custodian", create)
    settings.write_text(text)
    with pytest.raises(ConfigurationError, match="other"):
        async with house.running():
            pass


def _second_provider(text: str, folder: Path) -> str:
    uri = next(line for line in text.splitlines() if line.startswith("uri")).split('"')[1]
    return f'\n[providers.other]\nuri = "software://{folder}?{uri.partition("?")[2]}"\n'


async def test_health_says_so_when_a_key_store_hangs(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealkeeper.server.gateway._CHECK_TIMEOUT", 0.1)
    monkeypatch.setattr("sealkeeper.server.gateway._CHECK_INTERVAL", 0.1)
    async with house.running() as gateway:
        answers = watch_health(house, gateway)
        assert await anext(answers) == health_pb2.HealthCheckResponse.SERVING

        async def hang() -> None:
            await asyncio.Event().wait()

        [provider] = gateway._providers.values()
        monkeypatch.setattr(provider, "check", hang)
        assert await anext(answers) == health_pb2.HealthCheckResponse.NOT_SERVING
        monkeypatch.undo()
        assert await anext(answers) == health_pb2.HealthCheckResponse.SERVING
        await answers.aclose()


async def watch_health(house: House, gateway: Gateway) -> AsyncGenerator[Any, None]:
    connection = house.connection(gateway, "verifier")
    files = (connection.ca, connection.key, connection.certificate)
    ca, key, certificate = (path.read_bytes() for path in files if path is not None)
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    async with grpc.aio.secure_channel(gateway.address, credentials) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        async for answer in stub.Watch(health_pb2.HealthCheckRequest()):
            yield answer.status


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.spans += [span for one in request.resource_spans for part in one.scope_spans for span in part.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def attributes(span: Span) -> dict[str, str]:
    return {one.key: one.value.string_value for one in span.attributes}


async def test_every_call_and_every_operation_of_a_provider_has_a_span_that_says_for_whom(house: House) -> None:
    collector, server = Collector(), grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    settings = house.directory / "sealkeeper.toml"
    telemetry = f'[telemetry]\notlp_endpoint = "127.0.0.1:{port}"\notlp_insecure = true\n'
    settings.write_text(settings.read_text().replace("[telemetry]\n", telemetry))
    async with house.running() as gateway:
        await house.create_key(gateway)
        await asyncio.gather(*(house.sign(gateway) for _ in range(8)))
        with pytest.raises(ClientError):
            await house.sign(gateway, f"{PARENT}/keys/release/versions/2")
    server.stop(0)
    calls = [one for one in collector.spans if one.name == "SigningService/Sign"]
    assert [attributes(one)["tenant"] for one in calls] == [TENANT] * 9
    version = f"{PARENT}/keys/release/versions/1"
    served = {one.span_id for one in calls if attributes(one)["outcome"] == "OK"}
    assert len(served) == 8
    assert all(attributes(one)["key_version"] == version for one in calls if one.span_id in served)
    [refused] = [one for one in calls if one.span_id not in served]
    assert attributes(refused)["outcome"] == "KEY_VERSION_NOT_FOUND"
    assert attributes(refused)["key_version"].endswith("/versions/2")
    signing = [one for one in collector.spans if attributes(one).get("key_version") == version and one not in calls]
    signing = [one for one in signing if one.name == "provider sign"]
    assert {attributes(one)["outcome"] for one in signing} == {"OK"}
    assert {attributes(one)["tenant"] for one in signing} == {TENANT}
    # Each call is the parent of the operation that served it, or linked to it.
    found = {one.parent_span_id for one in signing} | {link.span_id for one in signing for link in one.links}
    assert served <= found
    assert {one.kind for one in calls} == {Span.SPAN_KIND_SERVER}
    assert refused.status.code == Status.STATUS_CODE_ERROR
