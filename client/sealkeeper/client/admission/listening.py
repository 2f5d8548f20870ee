"""Listen for HTTP from strangers: connections are bounded in number, and each must soon come to the point."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from sealkeeper.client.admission.clock import Clock

FIRST_REQUEST = 10.0
"""Seconds from a connection to the end of the headers of its first request."""
_HANDSHAKE, _GOODBYE = 5.0, 2.0
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Silence:
    """Ends connections that ask nothing: aiohttp waits for the first request of one as long as it takes.

    Args:
        clock: that silence is measured by.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._silent: dict[Any, asyncio.Task[None]] = {}

    def begin(self, protocol: Any) -> None:
        """A connection has been made."""
        self._silent[protocol] = asyncio.create_task(self._end(protocol))

    @web.middleware
    async def middleware(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """For the application whose connections these are: a request has come."""
        task = self._silent.pop(request.protocol, None)
        if task is not None:
            task.cancel()
        return await handler(request)

    def close(self) -> None:
        """Wait for nothing any more."""
        for task in self._silent.values():
            task.cancel()
        self._silent.clear()

    async def _end(self, protocol: Any) -> None:
        await self._clock.until(self._clock.now() + FIRST_REQUEST)
        del self._silent[protocol]
        protocol.force_close()


class BoundedSite(web.BaseSite):
    """A site of aiohttp's that turns away connections beyond a number, and ends silent ones.

    Args:
        runner: which has been set up.
        host: to listen on.
        port: 0 for any.
        context: of TLS; ``None`` for plaintext.
        silence: whose middleware the application has.
        most: connections at once.
    """

    __slots__ = ("_host", "_most", "_port", "_silence")

    def __init__(
        self,
        runner: web.AppRunner,
        host: str,
        port: int,
        context: ssl.SSLContext | None,
        silence: Silence,
        most: int,
    ) -> None:
        super().__init__(runner, ssl_context=context)
        self._host = host
        self._port = port
        self._silence = silence
        self._most = most

    @property
    def name(self) -> str:
        """Where it listens."""
        return f"{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be listened on.
            OverflowError: there is no such port.
        """
        await super().start()
        within = (_HANDSHAKE, _GOODBYE) if self._ssl_context is not None else (None, None)
        self._server = await asyncio.get_running_loop().create_server(
            self._accepted,
            self._host,
            self._port,
            ssl=self._ssl_context,
            backlog=self._backlog,
            ssl_handshake_timeout=within[0],
            ssl_shutdown_timeout=within[1],
        )

    async def stop(self) -> None:
        """Stop listening."""
        self._silence.close()
        await super().stop()

    def _accepted(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        # What shakes hands is not counted yet: that takes five seconds at most.
        if server is None or len(server.connections) >= self._most:
            return _TurnedAway()
        protocol = server()
        self._silence.begin(protocol)
        return protocol


class _TurnedAway(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
