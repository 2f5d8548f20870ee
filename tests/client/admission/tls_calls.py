"""Files of TLS for a webhook on loopback, and requests to it as the API server makes them."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp

from sealkeeper.client.admission.clock import Clock
from sealkeeper.client.admission.settings import TlsPaths, WebhookSettings
from sealkeeper.client.admission.tls_context import ReloadedTls
from sealkeeper.client.admission.webhook import Webhook
from sealkeeper.server.local_ca import LocalCa, host_names
from tests.client.admission.deciding import ScriptedDecider, StoppedClock
from tests.client.admission.reviews import as_bytes

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """A CA, and what it issues, as files in a folder."""

    folder: Path
    ca: LocalCa

    @classmethod
    def make(cls, folder: Path, name: str = "ca") -> Authority:
        made = cls(folder, LocalCa.create(f"{name}.example", datetime.now(UTC)))
        made.ca.pair.write(folder / f"{name}.crt", folder / f"{name}.key")
        return made

    def serve(self) -> TlsPaths:
        """A certificate of the webhook, in the place where it is looked for."""
        paths = TlsPaths(self.folder / "tls.crt", self.folder / "tls.key")
        pair = self.ca.issue_server(host_names(["127.0.0.1", "localhost"]), datetime.now(UTC), DAY)
        pair.write(paths.certificate, paths.key)
        return paths

    def call(self, ca: Path, name: str = "caller") -> ssl.SSLContext:
        """TLS of a caller with a certificate of this CA."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        self.ca.issue_client("spiffe://ca.example/api-server", datetime.now(UTC), DAY).write(certificate, key)
        context = caller(ca)
        context.load_cert_chain(certificate, key)
        return context


def caller(ca: Path) -> ssl.SSLContext:
    """TLS of a caller who trusts a CA."""
    return ssl.create_default_context(cafile=ca)


@dataclass
class Served:
    """A webhook that is being served on loopback, and a client of it."""

    webhook: Webhook
    decider: ScriptedDecider
    clock: StoppedClock
    client: aiohttp.ClientSession
    tls: ssl.SSLContext
    paths: TlsPaths

    def url(self, path: str, port: str = "") -> str:
        return f"https://{port or self.webhook.address}{path}"

    async def post(self, path: str, body: Any, **more: Any) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else as_bytes(body)
        headers = {"Content-Type": "application/json", **more.pop("headers", {})}
        async with self.client.post(self.url(path), data=data, headers=headers, ssl=self.tls, **more) as response:
            return response.status, json.loads(await response.read())

    async def review(self, document: Any, path: str = "/validate?timeout=10s") -> dict[str, Any]:
        """The response in the review that comes back."""
        status, answer = await self.post(path, document)
        assert status == 200
        assert (answer["kind"], answer["apiVersion"]) == ("AdmissionReview", "admission.k8s.io/v1")
        response: dict[str, Any] = answer["response"]
        assert response["uid"] == document["request"]["uid"]
        return response

    async def get(self, path: str) -> tuple[int, str]:
        async with self.client.get(self.url(path), ssl=self.tls) as response:
            return response.status, await response.text()


@asynccontextmanager
async def served(
    settings: WebhookSettings,
    decider: ScriptedDecider,
    folder: Path,
    client_ca: Path | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Served]:
    """Serve a webhook."""
    authority = Authority.make(folder)
    paths = replace(authority.serve(), client_ca=client_ca)
    clock = StoppedClock()
    decider.clock = clock
    of_clock: Clock = clock
    webhook = Webhook(replace(settings, tls=paths), decider, ReloadedTls(paths), of_clock)
    await webhook.start()
    try:
        async with aiohttp.ClientSession() as client:
            yield Served(webhook, decider, clock, client, tls or caller(folder / "ca.crt"), paths)
    finally:
        await webhook.close()
