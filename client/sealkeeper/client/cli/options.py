"""Options that commands share, and how they reach the gateway."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from sealkeeper.client.cli.output import note

if TYPE_CHECKING:
    from sealkeeper.client.client import Client
    from sealkeeper.client.connection import Connection

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@dataclass(frozen=True, slots=True)
class Options:
    """What was said before the command."""

    config: Path | None = None
    endpoint: str | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    tenant: str | None = None
    insecure: bool = False
    timeout: float = 30.0

    def connection(self) -> Connection:
        """How to reach the gateway.

        Raises:
            ConfigurationError: something is missing or malformed.
        """
        from sealkeeper.client.connection import Connection

        return Connection.load(
            self.config,
            insecure=self.insecure,
            endpoint=self.endpoint,
            ca=self.ca,
            certificate=self.certificate,
            key=self.key,
            tenant=self.tenant,
        )

    def client(self) -> Client:
        """A client.

        Raises:
            ConfigurationError: something is missing or malformed.
        """
        from sealkeeper.client.client import Client

        connection = self.connection()
        for warning in connection.warnings():
            note(f"warning: {warning}")
        return Client(connection, timeout=self.timeout)

    def parent(self) -> str:
        """``tenants/{tenant}`` of the connection.

        Raises:
            ConfigurationError: no tenant is named.
        """
        from sealkeeper.client.errors import ConfigurationError

        tenant = self.connection().tenant
        if not tenant:
            raise ConfigurationError("no tenant is named", next_step="give --tenant, or set it in the client's file")
        return f"tenants/{tenant}"

    def key_name(self, name: str) -> str:
        """A key's full name: ``release`` for ``tenants/{tenant}/keys/release``, ``release/2`` for a version."""
        if "/keys/" in name:
            return name
        key, _, version = name.partition("/")
        return f"{self.parent()}/keys/{key}" + (f"/versions/{version.removeprefix('versions/')}" if version else "")


def options_of(context: typer.Context) -> Options:
    """What was said before the command."""
    options = context.find_root().obj
    return options if isinstance(options, Options) else Options()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
