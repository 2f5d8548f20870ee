"""A whole gateway in this process, with a clock that tests set."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from time import time_ns
from typing import Any, TypeVar

from sealkeeper.client import Client, Connection, message_content
from sealkeeper.server.gateway import Gateway
from sealkeeper.server.initialise import Plan, initialise
from sealkeeper.server.settings import load_settings
from sealkeeper.verify import TrustRoot
from tests.e2e.running import ANY_PORT, DOMAIN, NO_RETRY, P256, PARENT, TENANT
from tests.policies import one_is_enough, write_first_policy

T = TypeVar("T")
KEY = f"{PARENT}/keys/release"


class House:
    """A gateway's folder, and a clock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ahead = 0
        self._callers = ThreadPoolExecutor(32)

    @classmethod
    async def make(cls, directory: Path, policy: str | None = None) -> House:
        """Make a gateway's folder, by default with a policy that asks for no approvals."""
        await initialise(Plan(directory, DOMAIN, TENANT, None, {}, ANY_PORT, ANY_PORT, ANY_PORT))
        made = cls(directory)
        made.settings(write_first_policy(directory, TENANT, policy or one_is_enough()))
        return made

    def add_provider(self, name: str, region: str = "") -> None:
        """Another folder of sealed key files, as a provider."""
        folder = self.directory / f"store-{name}"
        folder.mkdir()
        seal = folder / "seal"
        seal.write_text("5a" * 32)
        seal.chmod(0o600)
        uri = f"software://{folder}/keys?sealing-key-source=file:{seal}"
        self.settings(f'[providers.{name}]\nuri = "{uri}"\nworkers = 1\nregion = "{region}"\n')

    def settings(self, more: str) -> None:
        """Add to the settings."""
        path = self.directory / "sealkeeper.toml"
        path.write_text(f"{path.read_text()}\n{more}")

    def key_files(self, name: str) -> list[Path]:
        """What lies in the folder of an added provider."""
        folder = self.directory / f"store-{name}" / "keys"
        return sorted(path for path in folder.iterdir() if path.name != "seal.json")

    @asynccontextmanager
    async def running(self, *, accept_clock: bool = False) -> AsyncIterator[Gateway]:
        settings = load_settings(self.directory / "sealkeeper.toml")
        gateway = await Gateway.start(settings, time_source=lambda: time_ns() + self.ahead, accept_clock=accept_clock)
        try:
            yield gateway
        finally:
            await gateway.stop()

    def connection(self, gateway: Gateway, role: str) -> Connection:
        folder = self.directory / "clients" / role
        ca = self.directory / "tls" / "ca.pem"
        return Connection(gateway.address, TENANT, ca, folder / "cert.pem", folder / "key.pem")

    async def ask(self, gateway: Gateway, role: str, question: Callable[[Client], T]) -> T:
        def work() -> T:
            with Client(self.connection(gateway, role), retry=NO_RETRY, timeout=30) as client:
                return question(client)

        # Not in the loop's own threads, which the gateway works with.
        return await asyncio.get_running_loop().run_in_executor(self._callers, work)

    async def sign(self, gateway: Gateway, key: str = KEY) -> Any:
        return await self.ask(gateway, "ci", lambda client: client.sign(key, message_content(b"x")))

    async def create_key(self, gateway: Gateway) -> None:
        await self.ask(gateway, "custodian", lambda client: client.create_key(PARENT, "release", P256))

    async def trust(self, gateway: Gateway) -> TrustRoot:
        found = await self.ask(gateway, "verifier", lambda client: client.trust_root(PARENT))
        return TrustRoot.from_json(found.trusted_root, found.keys)


def audit_records(client: Client) -> list[dict[str, Any]]:
    """The tenant's audit records."""
    return [json.loads(one.body) for one in client.entries("logs/audit") if one.body]
