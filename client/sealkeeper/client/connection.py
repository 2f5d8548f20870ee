"""How to reach a gateway: flags, then ``SEALKEEPER_*`` variables, then a TOML file.

::

    endpoint = "gateway.example.com:8443"
    ca = "ca.pem"                # relative to this file
    certificate = "cert.pem"
    key = "key.pem"
    tenant = "acme"
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealkeeper.client.errors import ConfigurationError

if TYPE_CHECKING:
    import grpc

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_DEFAULT_FILE = Path("~/.config/sealkeeper/client.toml")
_MAX_MESSAGE = 64 * 1024 * 1024
_NAMES = ("endpoint", "ca", "certificate", "key", "tenant")
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
    """

    endpoint: str
    tenant: str = ""
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        host, _, port = self.endpoint.rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigurationError(f"endpoint {self.endpoint!r}: must be host:port")
        if self.insecure and host not in LOOPBACK:
            raise ConfigurationError(f"plaintext is allowed to loopback only, not to {host}")
        if not self.insecure and (self.certificate is None or self.key is None):
            raise ConfigurationError(
                "a client certificate and its key are needed",
                next_step="name a file that sealkeeper init made, as --config DIR/clients/ci.toml",
            )

    @classmethod
    def load(
        cls,
        config: Path | None = None,
        *,
        insecure: bool = False,
        environment: Mapping[str, str] = os.environ,
        **flags: str | None,
    ) -> Connection:
        """Put it together.

        Args:
            config: TOML file; ``None`` for ``$SEALKEEPER_CONFIG`` or ``~/.config/sealkeeper/client.toml``.
            insecure: plaintext.
            environment: variables.
            flags: ``endpoint``, ``ca``, ``certificate``, ``key``, ``tenant``: they win.

        Raises:
            ConfigurationError: something is missing or malformed.
        """
        found = _read_file(config, environment)
        for name in _NAMES:
            value = flags.get(name) or environment.get(f"SEALKEEPER_{name.upper()}")
            if value:
                found[name] = value
        if "endpoint" not in found:
            raise ConfigurationError(
                "no gateway is named",
                next_step="give --config FILE or --endpoint HOST:PORT, or set SEALKEEPER_CONFIG",
            )
        paths = {name: Path(found[name]) for name in ("ca", "certificate", "key") if name in found}
        return cls(found["endpoint"], found.get("tenant", ""), **paths, insecure=insecure)

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
        """For a TLS channel, from files that have been found to belong together.

        Raises:
            ConfigurationError: naming ``ca``, ``certificate`` or ``key``: it cannot be read or used.
        """
        import grpc

        from sealkeeper.client.tls_files import certificates, check_identity, read_pem

        certificate, key = read_pem(self.certificate, "certificate"), read_pem(self.key, "key")
        check_identity(self.certificate, self.key, datetime.now(UTC))
        if self.ca is not None:
            certificates(self.ca, "ca")
        return grpc.ssl_channel_credentials(read_pem(self.ca, "ca") if self.ca is not None else None, key, certificate)


def load_tenant(config: Path | None, flag: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The tenant alone, as ``Connection.load`` finds it, where no gateway is asked; empty where none is named.

    Raises:
        ConfigurationError: the file is malformed.
    """
    return flag or environment.get("SEALKEEPER_TENANT") or _read_file(config, environment).get("tenant", "")


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
    for name in ("ca", "certificate", "key"):
        if name in document:
            document[name] = str(path.absolute().parent / document[name])
    return document
