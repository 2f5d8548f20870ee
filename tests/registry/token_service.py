"""A token service in this process, whose tokens Debian's ``docker-registry`` believes."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

ISSUER = "tests"
SERVICE = "registry of the tests"


@dataclass
class TokenService:
    """What a test sees of it.

    Attributes:
        realm: its URL.
        accounts: that it knows, with passwords.
        refresh_tokens: that it takes.
        asked: method and parameters of each request.
    """

    directory: Path
    realm: str = ""
    accounts: dict[str, str] = field(default_factory=dict)
    refresh_tokens: set[str] = field(default_factory=set)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def answer(self, method: str, parameters: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """Status and document."""
        self.asked.append((method, parameters))
        known = parameters.get("refresh_token") in self.refresh_tokens
        if authorization.startswith("Basic "):
            name, _, password = base64.b64decode(authorization[6:]).decode().partition(":")
            known = self.accounts.get(name) == password
        if not known or parameters.get("service") != SERVICE:
            return 401, {"details": "secret words of the service"}
        return 200, {
            ("token" if method == "GET" else "access_token"): self._token(parameters["scope"]),
            "expires_in": 300,
        }

    def _token(self, scope: str) -> str:
        kind, name, actions = scope.split(":")
        now = int(time.time())
        certificate = x509.load_pem_x509_certificate((self.directory / "server.pem").read_bytes())
        chain = [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]
        claims = {
            "iss": ISSUER,
            "aud": SERVICE,
            "sub": "ci",
            "jti": "1",
            "iat": now,
            "nbf": now - 10,
            "exp": now + 300,
            "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }
        return jwt.encode(claims, (self.directory / "server.key").read_text(), "ES256", headers={"x5c": chain})


@contextmanager
def token_service(directory: Path) -> Iterator[TokenService]:
    """A token service on loopback that signs with ``server.key`` of the directory."""
    service = TokenService(directory)

    class _Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            text = self.rfile.read(length).decode() if length else urlsplit(self.path).query
            parameters = {name: values[0] for name, values in parse_qs(text).items()}
            status, document = service.answer(self.command, parameters, self.headers.get("Authorization", ""))
            self._reply(status, document)

        do_GET = do_POST = _serve  # noqa: N815

        def _reply(self, status: int, document: Mapping[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    service.realm = f"http://127.0.0.1:{server.server_port}/token"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
