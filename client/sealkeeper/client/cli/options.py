"""Options that commands share, and how they reach the gateway."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from sealkeeper.client.cli.output import note
from sealkeeper.client.errors import ConfigurationError, FieldViolation

if TYPE_CHECKING:
    from sealkeeper.client.client import Client
    from sealkeeper.client.connection import Connection, LoginSettings

EXIT_CODES = (
    "Exit codes: 0 done; 1 refused; 2 wrong usage or input; 3 the gateway does not answer; "
    "4 proposed: waits for approval."
)
"""What ``--help`` of a command says."""

Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Key: TypeAlias = Annotated[str, typer.Argument(help="NAME in your tenant, or tenants/T/keys/NAME.")]
Version: TypeAlias = Annotated[str, typer.Argument(help="NAME/NUMBER, or tenants/T/keys/NAME/versions/NUMBER.")]
PublishPeriod: TypeAlias = Annotated[
    str | None,
    typer.Option(help="How long the new version is announced before it signs: 0s, 90m, 24h [default: the gateway's]"),
]


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
    token_file: str | None = None
    audience: str | None = None
    login_issuer: str | None = None
    login_client_id: str | None = None
    approval_key: str | None = None

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
            token_file=self.token_file,
            audience=self.audience,
            login_issuer=self.login_issuer,
            login_client_id=self.login_client_id,
            approval_key=self.approval_key,
        )

    def login(self, token: str | None) -> LoginSettings | None:
        """Where a person logs in; ``None`` where nothing says.

        Args:
            token: which token the gateway gets, where not what the settings say.

        Raises:
            ConfigurationError: something is missing or malformed.
        """
        from sealkeeper.client.connection import load_login

        return load_login(
            self.config,
            audience=self.audience,
            login_issuer=self.login_issuer,
            login_client_id=self.login_client_id,
            login_token=token,
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
        """``tenants/{tenant}``; no gateway need be named for it.

        Raises:
            ConfigurationError: no tenant is named.
        """
        from sealkeeper.client.connection import load_tenant

        tenant = load_tenant(self.config, self.tenant)
        if not tenant:
            raise ConfigurationError(
                "no tenant is named",
                next_step="give --tenant, set it in the client's file, or give the full name: tenants/T/keys/NAME",
                violations=[FieldViolation("tenant", "is needed for a short name")],
            )
        return f"tenants/{tenant}"

    def key_name(self, name: str) -> str:
        """A key's full name: ``release`` for ``tenants/{tenant}/keys/release``, ``release/2`` for a version."""
        if "/keys/" in name:
            return name
        key, _, version = name.partition("/")
        return f"{self.parent()}/keys/{key}" + (f"/versions/{version.removeprefix('versions/')}" if version else "")

    def signing_key(self, name: str | None) -> str:
        """The key to sign with: the one named, or the one that the settings name.

        Raises:
            ConfigurationError: none is.
        """
        from sealkeeper.client.connection import load_signing_key

        found = name or load_signing_key(self.config)
        if not found:
            raise ConfigurationError(
                "no key is named",
                next_step="give --key, set SEALKEEPER_SIGNING_KEY, or signing_key in the client's file",
                violations=[FieldViolation("--key", "is needed")],
            )
        return found

    def import_name(self, name: str) -> str:
        """An import's full name, of its last part."""
        return name if "/keyImports/" in name else f"{self.parent()}/keyImports/{name}"

    def proposal_name(self, name: str) -> str:
        """A proposal's full name, of its last part."""
        return name if "/proposals/" in name else f"{self.parent()}/proposals/{name}"

    def provider_name(self, name: str) -> str:
        """A provider's full name, of its last part."""
        return name if "/providers/" in name else f"{self.parent()}/providers/{name}"


def options_of(context: typer.Context) -> Options:
    """What was said before the command."""
    options = context.find_root().obj
    return options if isinstance(options, Options) else Options()
