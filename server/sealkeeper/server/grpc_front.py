"""The gRPC port.

Several of gRPC's servers share it (``SO_REUSEPORT``): each takes in one call in a turn of the event loop. With one
alone, calls wait in the kernel while the batches that they could join go ahead half empty. Measured at 128 connections,
eight servers spend a third less on a signature than one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import grpc

from sealkeeper.server.calls import CallInterceptor
from sealkeeper.server.errors import ConfigurationError

TRANSPORT_LIMIT = 32 * 1024 * 1024
"""Bytes of a message that gRPC takes in: above ``calls.MAX_REQUEST``, so that what is somewhat too long gets an answer
of ours, and not far above, since that much memory goes to any caller who sends it."""

_SERVERS = 8
_OPTIONS = [
    ("grpc.so_reuseport", 1),
    ("grpc.max_receive_message_length", TRANSPORT_LIMIT),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.max_metadata_size", 16 * 1024),
]


class GrpcFront:
    """Serves gRPC.

    Args:
        interceptor: that every call goes through.
        max_concurrent_calls: of all servers together. It refuses further ones, since gRPC would without a record.
    """

    def __init__(self, interceptor: CallInterceptor, max_concurrent_calls: int) -> None:
        interceptor.admit_at_most(max_concurrent_calls)
        self._servers = [grpc.aio.server(interceptors=[interceptor], options=_OPTIONS) for _ in range(_SERVERS)]

    def add(self, register: Callable[[grpc.aio.Server], None]) -> None:
        """Add a service, with a function that adds it to one server."""
        for server in self._servers:
            register(server)

    async def listen(self, address: str, credentials: Callable[[], grpc.ServerCredentials | None], setting: str) -> str:
        """Listen, and answer when ``serve`` is called.

        Args:
            address: ``host:port``; 0 for any port.
            credentials: makes those of one server's port; ``None`` for plaintext.
            setting: that names the address.

        Returns:
            The address, with the port that was taken where 0 was asked for.

        Raises:
            ConfigurationError: the address cannot be listened on.
        """
        host, _, port = address.rpartition(":")
        try:
            await asyncio.to_thread(_require_free, host.strip("[]"), int(port))
            for server in self._servers:
                made = credentials()
                if made is None:
                    port = str(server.add_insecure_port(f"{host}:{port}"))
                else:
                    port = str(server.add_secure_port(f"{host}:{port}", made))
        except (OSError, RuntimeError):
            raise ConfigurationError(
                f"{setting} = {address!r} cannot be listened on",
                next_step="end what listens there, or set another port",
            ) from None
        return f"{host}:{port}"

    async def serve(self) -> None:
        """Begin to answer."""
        for server in self._servers:
            await server.start()

    async def stop(self, grace: float) -> None:
        """Take no more calls, and finish those under way for ``grace`` seconds."""
        await asyncio.gather(*(server.stop(grace) for server in self._servers))


def _require_free(host: str, port: int) -> None:
    """Refuse a port that somebody listens on: sharing it would be allowed to another gateway of the same user."""
    for family, kind, protocol, _, name in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as probe:
            # As servers do; what has been closed a moment ago is no listener.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(name)
