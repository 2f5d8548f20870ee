"""What can stand between the gateway and a transit server: a balancer, a standby, a network that loses answers."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, TypeAlias

LOSE = "lose"
"""Pass the request on, and close the connection instead of answering."""


@dataclass(frozen=True)
class Reply:
    """An answer that does not come from the server behind."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def errors(cls, status: int, *texts: str, **headers: str) -> Reply:
        """As Vault and OpenBao say that something is wrong."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, json.dumps({"errors": texts}).encode(), named)


Decide: TypeAlias = Callable[[str, str], "Reply | str | None"]


@dataclass
class Front:
    """A front on loopback.

    Attributes:
        port: of plaintext.
        seen: method and path of each request.
        decide: what to do with one: ``None`` passes it on.
    """

    port: int
    seen: list[tuple[str, str]] = field(default_factory=list)
    decide: Decide = lambda _method, _path: None

    def count(self, method: str, part: str) -> int:
        """How many requests there were by a method with a part in their path."""
        return sum(one == method and part in path for one, path in self.seen)


@contextmanager
def front(behind: int = 0) -> Iterator[Front]:
    """A front before a plaintext server on loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            made.seen.append((self.command, self.path))
            decided = made.decide(self.command, self.path)
            reply = decided if isinstance(decided, Reply) else self.passed_on(body)
            if decided == LOSE:
                self.close_connection = True
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

        def passed_on(self, body: bytes) -> Reply:
            connection = HTTPConnection("127.0.0.1", behind, timeout=10)
            wanted = {name: value for name, value in self.headers.items() if name.startswith(("X-Vault", "Content-T"))}
            connection.request(self.command, self.path, body or None, wanted)
            response = connection.getresponse()
            reply = Reply(response.status, response.read())
            connection.close()
            return reply

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made = Front(server.server_port)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
