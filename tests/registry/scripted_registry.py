"""A registry in this process that does what a test tells it to: with a referrers API, and with any misbehaviour.

::

    with scripted_registry() as registry:
        image = registry.push_image("acme/app", "1.0")           # its digest
        registry.replies["/v2/acme/app/manifests/1.0"] = Reply(200, b"{}", {"Content-Type": OCI_MANIFEST})
        registry.replies["/v2/acme/app/blobs/sha256:…"] = HANG    # or any function of the request's handler

``registry.seen`` has method, path and ``Authorization`` of each request, in order.
"""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

from sealkeeper.registry.manifest import OCI_INDEX, OCI_MANIFEST

_CHUNKED = f"HTTP/1.1 200 OK\r\nContent-Type: {OCI_INDEX}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """One request."""

    method: str
    path: str
    authorization: str
    headers: Mapping[str, str]
    body: bytes


Behaviour: TypeAlias = "Callable[[Handler], None]"


class ScriptedRegistry:
    """What a test sees of it."""

    def __init__(self) -> None:
        self.host = ""
        self.url = ""
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.referrers_api = True
        self.page = 1000
        self.replies: dict[str, Reply | Behaviour] = {}
        self.authorize: Callable[[Handler], Reply | None] = lambda _: None
        self.before_put: Callable[[str], Reply | None] = lambda _: None
        self.seen: list[Seen] = []
        self.over = Event()
        self.lock = Lock()

    def put_blob(self, data: bytes) -> str:
        """Keep a blob; its digest."""
        digest = sha256(data)
        self.blobs[digest] = data
        return digest

    def put_manifest(self, repository: str, document: Mapping[str, Any] | bytes, *tags: str) -> str:
        """Keep a manifest; its digest."""
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        kind = json.loads(data)["mediaType"]
        digest = sha256(data)
        for name in (digest, *tags):
            self.manifests[repository, name] = (kind, data)
        return digest

    def push_image(self, repository: str, *tags: str, layer: bytes = b"layer") -> str:
        """Keep an image; its digest."""
        return self.put_manifest(repository, image_manifest(self, layer), *tags)

    def paths(self, method: str = "GET") -> list[str]:
        """The paths that were asked for, in order."""
        return [one.path for one in self.seen if one.method == method]


def image_manifest(registry: ScriptedRegistry, layer: bytes) -> dict[str, Any]:
    """The manifest of an image of one layer, which is kept."""
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described(registry.put_blob(b"{}"), 2, "application/vnd.oci.image.config.v1+json"),
        "layers": [described(registry.put_blob(layer), len(layer), "application/vnd.oci.image.layer.v1.tar")],
    }


def described(digest: str, size: int, media_type: str, **more: Any) -> dict[str, Any]:
    """A descriptor."""
    return {"mediaType": media_type, "digest": digest, "size": size, **more}


def sha256(data: bytes) -> str:
    """Its digest."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Handler(BaseHTTPRequestHandler):
    """Of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    registry: ScriptedRegistry
    body = b""

    def _serve(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        registry = self.registry
        with registry.lock:
            seen = Seen(self.command, self.path, self.headers.get("Authorization", ""), dict(self.headers), self.body)
            registry.seen.append(seen)
        scripted = registry.replies.get(self.path) or registry.replies.get(urlsplit(self.path).path)
        if callable(scripted):
            self.close_connection = True
            with suppress(OSError):
                scripted(self)
            return
        self.reply(scripted or registry.authorize(self) or self._answer())

    do_GET = do_HEAD = do_PUT = do_POST = _serve  # noqa: N815

    def reply(self, reply: Reply) -> None:
        """Send an answer."""
        with suppress(OSError):
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in reply.headers:
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

    def _answer(self) -> Reply:
        path = urlsplit(self.path)
        parts = path.path.removeprefix("/v2/").split("/")
        if parts[-2] == "uploads" or self.path.rstrip("/").endswith("/uploads"):
            return self._upload(parse_qs(path.query))
        repository, kind, name = "/".join(parts[:-2]), parts[-2], parts[-1]
        if kind == "blobs":
            found = self.registry.blobs.get(name)
            return _unknown("BLOB_UNKNOWN") if found is None else Reply(200, found)
        if kind == "referrers" and self.registry.referrers_api:
            return self._referrers(repository, name, parse_qs(path.query))
        if kind != "manifests":
            return Reply(404, b"404 page not found\n")
        return self._put(repository, name) if self.command == "PUT" else self._manifest(repository, name)

    def _manifest(self, repository: str, name: str) -> Reply:
        found = self.registry.manifests.get((repository, name))
        if found is None:
            return _unknown("MANIFEST_UNKNOWN")
        digest = sha256(found[1])
        return Reply(200, found[1], {"Content-Type": found[0], "Docker-Content-Digest": digest, "ETag": f'"{digest}"'})

    def _put(self, repository: str, name: str) -> Reply:
        registry = self.registry
        refused = registry.before_put(name)
        if refused:
            return refused
        with registry.lock:
            current = registry.manifests.get((repository, name))
            wanted = self.headers.get("If-Match")
            if wanted and (current is None or f'"{sha256(current[1])}"' != wanted):
                return Reply(412)
            digest = registry.put_manifest(repository, self.body, name)
        headers = {"Docker-Content-Digest": digest}
        subject = json.loads(self.body).get("subject")
        if subject and registry.referrers_api:
            headers["OCI-Subject"] = subject["digest"]
        return Reply(201, b"", headers)

    def _upload(self, query: Mapping[str, list[str]]) -> Reply:
        if self.command == "POST":
            return Reply(202, b"", {"Location": f"{urlsplit(self.path).path}one?state=of%2Fit"})
        digest = self.registry.put_blob(self.body)
        return Reply(201) if digest == query["digest"][0] else Reply(400)

    def _referrers(self, repository: str, digest: str, query: Mapping[str, list[str]]) -> Reply:
        found = {}
        for (where, _), (kind, data) in sorted(self.registry.manifests.items()):
            document = json.loads(data)
            if where == repository and document.get("subject", {}).get("digest") == digest:
                found[sha256(data)] = described(
                    sha256(data),
                    len(data),
                    kind,
                    artifactType=document.get("artifactType", ""),
                    annotations=document.get("annotations", {}),
                )
        listed = list(found.values())
        start = int(query.get("last", ["0"])[0])
        headers = {"Content-Type": OCI_INDEX}
        if start + self.registry.page < len(listed):
            headers["Link"] = f'<{urlsplit(self.path).path}?last={start + self.registry.page}>; rel="next"'
        page = listed[start : start + self.registry.page]
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": page}).encode()
        return Reply(200, body, headers)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is what tests are about."""


def _unknown(code: str) -> Reply:
    return Reply(404, json.dumps({"errors": [{"code": code, "message": "secret words of the registry"}]}).encode())


def hang(handler: Handler) -> None:
    """No answer, until the test is over."""
    handler.registry.over.wait(60)


def drip(handler: Handler) -> None:
    """A header, byte by byte, without end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not handler.registry.over.wait(0.01):
        handler.wfile.write(b"x")


def endless(handler: Handler) -> None:
    """A body of chunks without end."""
    handler.wfile.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % OCI_INDEX.encode()
    )
    while not handler.registry.over.is_set():
        handler.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def endless_line(handler: Handler) -> None:
    """The length of a chunk, which does not end."""
    handler.wfile.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % OCI_INDEX.encode()
    )
    while not handler.registry.over.is_set():
        handler.wfile.write(b"0" * 0x10000)


@contextmanager
def scripted_registry(tls: tuple[Path, Path] | None = None) -> Iterator[ScriptedRegistry]:
    """A registry on loopback.

    Args:
        tls: certificate and private key, PEM files; ``None`` for plaintext.
    """
    registry = ScriptedRegistry()

    class _Handler(Handler):
        pass

    _Handler.registry = registry
    server = _Server(("127.0.0.1", 0), _Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    registry.host = f"127.0.0.1:{server.server_port}"
    registry.url = f"{'https' if tls else 'http'}://{registry.host}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield registry
    finally:
        registry.over.set()
        server.shutdown()
        thread.join(10)
        server.server_close()
