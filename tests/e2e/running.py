"""A live gateway in a process of its own, and clients of every role."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sealkeeper.client import Client, Connection
from sealkeeper.client.retry import RetryPolicy
from sealkeeper.server.identity import Role, spiffe_id
from sealkeeper.server.initialise import Plan, initialise
from sealkeeper.server.local_ca import LocalCa
from sealkeeper.verify import TrustRoot
from tests.policies import one_is_enough, with_first_policy

TENANT = "acme"
DOMAIN = "sealkeeper.example"
PARENT = f"tenants/{TENANT}"
ANY_PORT = "127.0.0.1:0"
P256 = "PKIX_ECDSA_P256_SHA_256"
NO_RETRY = RetryPolicy(attempts=1)
_LIFETIME = timedelta(days=1)


@dataclass
class Running:
    """A gateway's folder, and its process while it runs."""

    directory: Path
    process: subprocess.Popen[bytes] | None = None
    addresses: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(
        cls, directory: Path, provider_uri: str | None = None, *, policy: str | None = None, **environment: str
    ) -> Running:
        """Make a gateway's folder, by default with a policy that asks for no approvals."""
        plan = Plan(directory, DOMAIN, TENANT, provider_uri, environment, ANY_PORT, ANY_PORT, ANY_PORT)
        asyncio.run(initialise(plan))
        made = cls(directory)
        made.change_settings(with_first_policy(directory, TENANT, policy or one_is_enough()))
        return made

    @property
    def settings(self) -> Path:
        return self.directory / "sealkeeper.toml"

    @property
    def logs(self) -> Path:
        return self.directory / "state" / "logs"

    def change_settings(self, change: Callable[[str], str]) -> None:
        self.settings.write_text(change(self.settings.read_text()))

    def start(self, **environment: str) -> None:
        with (self.directory / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sealkeeper.client.cli", "serve", str(self.directory)],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **environment},
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log_lines()
        self.addresses = json.loads(line)["serving"]

    def log_lines(self) -> str:
        return (self.directory / "gateway.log").read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it, and wait until it has ended."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None
        return code

    @contextmanager
    def running(self, **environment: str) -> Iterator[Running]:
        self.start(**environment)
        try:
            yield self
        finally:
            if self.process is not None:
                self.stop()

    def connection(self, role: str, tenant: str = TENANT) -> Connection:
        folder = self.directory / "clients" / role
        return Connection(
            self.addresses["grpc"],
            tenant,
            self.directory / "tls" / "ca.pem",
            folder / "cert.pem",
            folder / "key.pem",
        )

    def add_caller(self, role: Role, tenant: str) -> str:
        """Give a caller of a further tenant a certificate of the local CA; returns what to name as its role here."""
        now, folder = datetime.now(UTC), self.directory / "clients" / f"{tenant}-{role}"
        folder.mkdir(mode=0o700)
        pair = LocalCa.read(self.directory).issue_client(spiffe_id(DOMAIN, tenant, role, "local"), now, _LIFETIME)
        pair.write(folder / "cert.pem", folder / "key.pem")
        return folder.name

    def client(self, role: str, retry: RetryPolicy = NO_RETRY, timeout: float = 30) -> Client:
        return Client(self.connection(role), retry=retry, timeout=timeout)

    def create_key(self, key_id: str, algorithm: str = P256) -> str:
        with self.client("custodian") as client:
            return client.create_key(PARENT, key_id, algorithm).key.name

    def trust(self) -> TrustRoot:
        with self.client("verifier") as client:
            found = client.trust_root(PARENT)
        return TrustRoot.from_json(found.trusted_root, found.keys)

    def tree_size(self, log: str = "transparency") -> int:
        with self.client("admin") as client:
            return client.checkpoint(f"logs/{log}").tree_size
