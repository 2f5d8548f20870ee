"""How to reach a gateway: flags, then ``SEALKEEPER_*`` variables, then a TOML file.

::

    endpoint = "gateway.example.com:8443"
    ca = "ca.pem"                # relative to this file
    certificate = "cert.pem"
    key = "key.pem"
    tenant = "acme"
    signing_key = "release"      # for commands that are not told which key

Instead of ``certificate`` and ``key``, callers of the gateway's port for tokens have ``token_file``, the variable
``SEALKEEPER_ID_TOKEN``, a login (``login_issuer``, ``login_client_id``), or run in a CI system that gives tokens out;
the first that there is counts.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealkeeper.client.errors import ConfigurationError, FieldViolation
from sealkeeper.client.token_source import ID_TOKEN, TokenSource, explicit_source, no_identity

if TYPE_CHECKING:
    import grpc

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_DEFAULT_FILE = Path("~/.config/sealkeeper/client.toml")
_MAX_MESSAGE = 64 * 1024 * 1024
_PATHS = ("ca", "certificate", "key", "token_file", "approval_key")
_NAMES = ("endpoint", "tenant", *_PATHS, "audience", "login_issuer", "login_client_id", "login_token", "signing_key")
ID_TOKEN_KIND, ACCESS_TOKEN_KIND = "id_token", "access_token"
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    # Retries are ours: they know the request ids.
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a gateway, and as whom.

    Attributes:
        endpoint: ``host:port``.
        tenant: whose keys are meant where a name says none.
        ca: PEM file that the gateway's certificate is checked against; ``None`` for the system's.
        certificate: PEM file of the caller.
        key: PEM file of its private key.
        insecure: plaintext; allowed to loopback only.
        tokens: instead of a certificate, where the caller's tokens come from.
        approval_key: PEM file of the private key that approvals are signed with; ``None`` for ``key``.
    """

    endpoint: str
    tenant: str = ""
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    insecure: bool = False
    tokens: TokenSource | None = field(default=None, repr=False, compare=False)
    approval_key: Path | None = None

    def __post_init__(self) -> None:
        host = _host(self.endpoint)
        if self.insecure and host not in LOOPBACK:
            raise ConfigurationError(f"plaintext is allowed to loopback only, not to {host}")
        if self.approval_key is None:
            object.__setattr__(self, "approval_key", self.key)
        if self.insecure:
            return
        if self.certificate is None and self.key is None:
            if self.tokens is None:
                raise no_identity()
            return
        if self.tokens is not None:
            raise _two_identities()
        if self.certificate is None or self.key is None:
            raise ConfigurationError(
                "a client certificate and its key are needed, both",
                next_step="name a file that sealkeeper init made, as --config DIR/clients/ci.toml",
            )

    @classmethod
    def load(
        cls,
        config: Path | None = None,
        *,
        insecure: bool = False,
        environment: Mapping[str, str] = os.environ,
        root: Path = Path("/"),
        **flags: str | None,
    ) -> Connection:
        """Put it together.

        Args:
            config: TOML file; ``None`` for ``$SEALKEEPER_CONFIG`` or ``~/.config/sealkeeper/client.toml``.
            insecure: plaintext.
            environment: variables.
            root: of the file system that CI systems put their tokens into; another in tests.
            flags: named as in the file: they win.

        Raises:
            ConfigurationError: something is missing or malformed.
            TokenUnavailableError: this is a CI system, and it gives this job no token.
        """
        found = _found(config, environment, flags)
        if "endpoint" not in found:
            raise ConfigurationError(
                "no gateway is named",
                next_step="give --config FILE or --endpoint HOST:PORT, or set SEALKEEPER_CONFIG",
            )
        paths = {name: Path(found[name]) for name in _PATHS if name in found and name != "token_file"}
        tokens = None if insecure else _tokens(found, environment, root)
        return cls(found["endpoint"], found.get("tenant", ""), **paths, insecure=insecure, tokens=tokens)

    def warnings(self) -> list[str]:
        """What a person should put right."""
        try:
            mode = self.key.stat().st_mode if self.key is not None else 0
        except OSError:
            return []
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            return [f"{self.key} can be read by others: chmod 600 {self.key}"]
        return []

    def credentials(self) -> grpc.ChannelCredentials:
        """For a TLS channel, from files that have been found to belong together; tokens are not part of it.

        Raises:
            ConfigurationError: naming ``ca``, ``certificate`` or ``key``: it cannot be read or used.
        """
        import grpc

        from sealkeeper.client.tls_files import certificates, check_identity, read_pem

        if self.ca is not None:
            certificates(self.ca, "ca")
        if self.tokens is not None:
            return grpc.ssl_channel_credentials(read_pem(self.ca, "ca") if self.ca is not None else None)
        certificate, key = read_pem(self.certificate, "certificate"), read_pem(self.key, "key")
        check_identity(self.certificate, self.key, datetime.now(UTC))
        return grpc.ssl_channel_credentials(read_pem(self.ca, "ca") if self.ca is not None else None, key, certificate)


def load_tenant(config: Path | None, flag: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The tenant alone, as ``Connection.load`` finds it, where no gateway is asked; empty where none is named.

    Raises:
        ConfigurationError: the file is malformed.
    """
    return flag or environment.get("SEALKEEPER_TENANT") or _read_file(config, environment).get("tenant", "")


def load_signing_key(config: Path | None, environment: Mapping[str, str] = os.environ) -> str:
    """The key that is meant where none is named, as ``Connection.load`` finds things; empty where there is none.

    Raises:
        ConfigurationError: the file is malformed.
    """
    return environment.get("SEALKEEPER_SIGNING_KEY") or _read_file(config, environment).get("signing_key", "")


@dataclass(frozen=True, slots=True)
class LoginSettings:
    """Where a person logs in.

    Attributes:
        issuer: an OpenID provider.
        client_id: by which it knows this client.
        token: which of its tokens the gateway gets: ``id_token`` or ``access_token``; empty where no setting says.
        audience: whom its access tokens are to be for; empty for what the issuer makes of it.
    """

    issuer: str
    client_id: str
    token: str = ""
    audience: str = ""


def load_login(
    config: Path | None, environment: Mapping[str, str] = os.environ, **flags: str | None
) -> LoginSettings | None:
    """Where a person logs in, as ``Connection.load`` finds it; ``None`` where nothing says.

    Raises:
        ConfigurationError: the file is malformed, or only part of it is there.
    """
    return _login(_found(config, environment, flags))


def _login(found: Mapping[str, str]) -> LoginSettings | None:
    issuer, client, token = (found.get(name, "") for name in ("login_issuer", "login_client_id", "login_token"))
    if token not in ("", ID_TOKEN_KIND, ACCESS_TOKEN_KIND):
        problem = f"must be {ID_TOKEN_KIND} or {ACCESS_TOKEN_KIND}"
        raise ConfigurationError(f"login_token: {problem}", violations=[FieldViolation("login_token", problem)])
    if not issuer and not client:
        return None
    if not issuer or not client:
        raise ConfigurationError(
            f"{'login_issuer' if client else 'login_client_id'} is missing",
            next_step="set both login_issuer and login_client_id, in the client's file or as SEALKEEPER_* variables",
        )
    return LoginSettings(issuer, client, token, found.get("audience", ""))


def _found(config: Path | None, environment: Mapping[str, str], flags: Mapping[str, str | None]) -> dict[str, str]:
    found = _read_file(config, environment)
    for name in _NAMES:
        value = flags.get(name) or environment.get(f"SEALKEEPER_{name.upper()}")
        if value:
            found[name] = value
    return found


def _tokens(found: Mapping[str, str], environment: Mapping[str, str], root: Path) -> TokenSource | None:
    """Where tokens come from, by precedence; ``None`` where the caller has a certificate, or nothing."""
    named = explicit_source(Path(found["token_file"]) if "token_file" in found else None, environment)
    if "certificate" in found or "key" in found:
        if named is not None:
            raise _two_identities()
        return None
    if named is not None:
        return named
    # Both are for callers without a certificate only.
    from sealkeeper.client.ci_identity import detect
    from sealkeeper.client.login import kept_login

    settings = _login(found)
    kept = kept_login(settings, environment) if settings is not None else None
    source = kept or detect(environment, found.get("audience") or f"https://{_host(found['endpoint'])}", root)
    if source is None and settings is not None:
        raise ConfigurationError(
            f"nobody is logged in at {settings.issuer}, and there is no other token and no client certificate",
            next_step="log in: sealkeeper login",
        )
    return source


def _host(endpoint: str) -> str:
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigurationError(f"endpoint {endpoint!r}: must be host:port")
    return host


def _two_identities() -> ConfigurationError:
    return ConfigurationError(
        "there is a client certificate, and a token as well: it is not clear as whom to call",
        next_step=f"take away certificate and key, or token_file and {ID_TOKEN}",
    )


def _read_file(config: Path | None, environment: Mapping[str, str]) -> dict[str, str]:
    named = config or (Path(environment["SEALKEEPER_CONFIG"]) if environment.get("SEALKEEPER_CONFIG") else None)
    path = named or _DEFAULT_FILE.expanduser()
    if named is None and not path.exists():
        return {}
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from None
    return _checked(document, path)


def _checked(document: dict[str, Any], path: Path) -> dict[str, str]:
    for name, value in document.items():
        if name not in _NAMES:
            known = ", ".join(_NAMES)
            raise ConfigurationError(f"{path}: {name}: no such setting; known are {known}")
        if not isinstance(value, str):
            raise ConfigurationError(f"{path}: {name}: must be a string")
    for name in _PATHS:
        if name in document:
            document[name] = str(path.absolute().parent / document[name])
    return document
