"""Connections that end in time, and go to exactly the addresses that were checked."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError


class _Socket(socket.socket):
    """A socket whose timeout is that of all that is done until it is set anew.

    The usual one is that of each step: who sends a byte now and then would hold up a reader without end.
    """

    _end = float("inf")

    def settimeout(self, value: float | None) -> None:
        self._end = float("inf") if value is None else time.monotonic() + value
        super().settimeout(value)

    def _shorten(self) -> None:
        if self._end == float("inf"):
            return
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        super().settimeout(left)

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        self._shorten()
        received: int = super().recv_into(*arguments, **options)
        return received

    def send(self, *arguments: Any, **options: Any) -> int:
        self._shorten()
        sent: int = super().send(*arguments, **options)
        return sent

    def sendall(self, *arguments: Any, **options: Any) -> None:
        self._shorten()
        super().sendall(*arguments, **options)


class _SSLSocket(_Socket, ssl.SSLSocket):
    pass


class _PinnedConnection(HTTPConnection):
    """Connects to one of given addresses, whatever the host's name leads to by now.

    Args:
        addresses: which were checked; none where a proxy is connected to, which is no registry's choice.
    """

    def __init__(self, *arguments: Any, addresses: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._addresses = addresses

    def _new_conn(self) -> socket.socket:
        if not self._addresses:
            return _total(super()._new_conn(), self.timeout)
        end = time.monotonic() + (self.timeout or 0)
        failure: OSError | None = None
        for left_over, address in zip(range(len(self._addresses), 0, -1), self._addresses, strict=True):
            left = end - time.monotonic()
            if left <= 0:
                break
            try:
                # One that is silent leaves time for the others.
                connected = socket.create_connection((address, self.port), left / left_over)
            except OSError as error:
                failure = error
                continue
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return _total(connected, max(end - time.monotonic(), 0.001))
        if failure is None or isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(self, "no connection in time")
        raise NewConnectionError(self, "no connection")


class _PinnedTLSConnection(_PinnedConnection, HTTPSConnection):
    pass


class HTTPPool(HTTPConnectionPool):
    """Connections to one host, without TLS."""

    ConnectionCls = _PinnedConnection


class TLSPool(HTTPSConnectionPool):
    """Connections to one host, with TLS."""

    ConnectionCls = _PinnedTLSConnection


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """TLS that trusts the system's CAs, or those of a PEM file instead.

    Raises:
        OSError: the file cannot be read, or has no certificate.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.sslsocket_class = _SSLSocket
    return context


def _total(connected: socket.socket, timeout: Any) -> socket.socket:
    wrapped = _Socket(connected.family, connected.type, connected.proto, fileno=connected.detach())
    wrapped.settimeout(timeout)
    return wrapped
