"""A gateway that never answers is given up when the time is over, in streams as in calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from sealkeeper.client import AsyncClient, Client, Connection
from sealkeeper.client.errors import UnavailableError
from sealkeeper.v1 import log_pb2, log_pb2_grpc

LOG = "logs/transparency"


class Silent(log_pb2_grpc.LogServiceServicer):
    """Sends one entry, and then nothing until the call has ended."""

    def ListEntries(self, request: Any, context: Any) -> Iterator[log_pb2.ListEntriesResponse]:  # noqa: N802
        ended = threading.Event()
        context.add_callback(ended.set)
        yield log_pb2.ListEntriesResponse(entries=[log_pb2.LogEntry(log_index=request.start_index)])
        ended.wait(60)

    def GetCheckpoint(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError

    def GetInclusionProof(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError

    def GetConsistencyProof(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError


@pytest.fixture
def silent() -> Iterator[Connection]:
    server = grpc.server(ThreadPoolExecutor(2))
    log_pb2_grpc.add_LogServiceServicer_to_server(Silent(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Connection(f"127.0.0.1:{port}", "acme", insecure=True)
    server.stop(0).wait()


def test_a_stream_that_stops_is_given_up_in_time(silent: Connection) -> None:
    with Client(silent, timeout=0.3) as client, pytest.raises(UnavailableError) as caught:
        list(client.entries(LOG, 7))
    assert caught.value.reason == "DEADLINE_EXCEEDED"


async def test_so_does_the_async_client(silent: Connection) -> None:
    async with AsyncClient(silent, timeout=0.3) as client:
        with pytest.raises(UnavailableError) as caught:
            [one async for one in client.entries(LOG, 7)]
    assert caught.value.reason == "DEADLINE_EXCEEDED"
