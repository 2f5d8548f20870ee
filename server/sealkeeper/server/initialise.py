"""Makes a gateway's folder: its own keys, a local CA with certificates for each role, settings, secrets.

::

    sealkeeper.toml         settings
    tls/                    ca.pem, ca.key (certifies the gateway and its callers), server.pem, server.key
    clients/<role>.toml     how a caller of that role connects, with its certificate and key in clients/<role>/
    secrets/                what opens the provider
    audit.vkey              verifier key of the audit log's checkpoints
    state/                  logs, database, authorities.json
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sealkeeper.hsm import open_provider
from sealkeeper.server.authorities import create_authorities, save_authorities
from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.files import unusable, write_file
from sealkeeper.server.gateway import AUTHORITIES_FILE
from sealkeeper.server.identity import Role, spiffe_id
from sealkeeper.server.local_ca import CA_FILE, CA_KEY_FILE, CERTIFICATE_LIFETIME, LocalCa, host_names
from sealkeeper.server.log import AUDIT
from sealkeeper.server.settings import SETTINGS_FILE, Settings, endpoint_of, host_of, load_settings

PROVIDER = "main"
_FOLDERS = ("tls", "clients", "secrets", "state")
_MADE = (*_FOLDERS, "keys", SETTINGS_FILE, "audit.vkey")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be made.

    Attributes:
        directory: does not exist yet, or is empty.
        domain: names the gateway for good.
        tenant: the first tenant.
        provider_uri: where keys live; ``None`` for sealed files in the folder.
        environment: for the provider's worker processes.
        listen: of the gRPC port.
        http_listen: of the logs' HTTP port.
        metrics_listen: of the Prometheus port.
        hosts: further host names and IP addresses that callers reach the gateway by.
    """

    directory: Path
    domain: str
    tenant: str
    provider_uri: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    listen: str = "127.0.0.1:8443"
    http_listen: str = "127.0.0.1:8080"
    metrics_listen: str = "127.0.0.1:9464"
    hosts: Sequence[str] = ()


async def initialise(plan: Plan, tell: Callable[[str], None] = lambda _: None) -> Settings:
    """Make the folder; where that fails, nothing of it is left. A folder that was there keeps its owner and mode.

    Args:
        plan: what to make.
        tell: told of each step.

    Raises:
        ConfigurationError: the folder is in use or cannot be written, or a value of the plan is wrong.
        ProviderError: the provider cannot be opened or cannot make the keys.
    """
    directory = plan.directory.absolute()
    try:
        with _claimed(directory):
            return await _make(plan, directory, tell)
    except OSError as error:
        raise unusable(error, directory) from error


@contextmanager
def _claimed(directory: Path) -> Iterator[None]:
    """A folder that is empty and ours; on failure what was made in it goes, and itself where it was not there."""
    made: list[Path] = []
    if directory.is_symlink() or directory.exists():
        if not directory.is_dir():
            raise ConfigurationError(f"{directory} is not a folder", next_step="name a new folder")
        if any(directory.iterdir()):
            raise ConfigurationError(
                f"{directory} is not empty", next_step="name a new folder; a gateway's folder is made once"
            )
    else:
        made = [one for one in (directory, *directory.parents) if not one.exists()]
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield
    except BaseException:
        # By name: what somebody else put there meanwhile is not ours to remove.
        for name in _MADE:
            _remove(directory / name)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def _remove(path: Path) -> None:
    # The error that brought us here is the one to tell, whatever goes wrong now.
    with suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


async def _make(plan: Plan, directory: Path, tell: Callable[[str], None]) -> Settings:
    for name in _FOLDERS:
        (directory / name).mkdir(mode=0o700)
    uri = plan.provider_uri or _sealed_files(directory)
    write_file(directory / SETTINGS_FILE, _settings(plan, uri).encode(), replace=False)
    settings = load_settings(directory / SETTINGS_FILE)
    now = datetime.now(UTC)
    _make_certificates(plan, directory, now)
    tell(f"made a local CA and certificates for {', '.join(Role)}")
    provider = await open_provider(uri, state_dir=directory / "state", environment=plan.environment)
    try:
        tell(f"opened the key provider: {provider.info.description}")
        authorities = await create_authorities(plan.domain, PROVIDER, provider, now)
    finally:
        await provider.close()
    save_authorities(directory / "state" / AUTHORITIES_FILE, authorities)
    verifier = authorities.log_verifier(AUDIT)
    write_file(directory / "audit.vkey", f"{verifier.vkey()}\n".encode(), mode=0o644)
    tell("made the gateway's own keys in it: certificate authority, timestamp authority, logs")
    return settings


def _sealed_files(directory: Path) -> str:
    write_file(directory / "secrets" / "sealing-key", secrets.token_hex(32).encode() + b"\n", mode=0o600)
    return f"software://{directory}/keys?sealing-key-source=file:{directory}/secrets/sealing-key"


def _settings(plan: Plan, uri: str) -> str:
    environment = ", ".join(f"{name} = {_quoted(value)}" for name, value in plan.environment.items())
    return f"""\
# Settings of a Sealkeeper gateway. Relative paths are relative to this file.
# Every setting can be overridden: SEALKEEPER_GATEWAY__LISTEN overrides [gateway] listen.

tenants = [{_quoted(plan.tenant)}]

[gateway]
# Names the gateway for good: logs, certificates and callers' identities are made of it.
domain = {_quoted(plan.domain)}
listen = {_quoted(plan.listen)}
# For callers with tokens of CI systems or of a login, where there are [issuers.NAME]: docs/identity.
# token_listen = "127.0.0.1:8444"
tls = {{ certificate = "tls/server.pem", key = "tls/server.key", client_ca = "tls/ca.pem" }}

[http]
# Public logs, read-only: /transparency/checkpoint, /transparency/tile/...
listen = {_quoted(plan.http_listen)}

[storage]
directory = "state"

[providers.{PROVIDER}]
uri = {_quoted(uri)}
environment = {{ {environment} }}

[keys]
default_provider = "{PROVIDER}"
# How long a new version is PUBLISHED before it signs, so that verifiers can fetch the trust root.
publish_period = "PT1H"
minimum_destroy_delay = "PT24H"

[telemetry]
metrics_listen = {_quoted(plan.metrics_listen)}
"""


def _quoted(text: str) -> str:
    # A TOML basic string; control characters are not for settings.
    if not text.isprintable():
        raise ConfigurationError(f"{text!r} has characters that a setting cannot have")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _make_certificates(plan: Plan, directory: Path, now: datetime) -> None:
    ca = LocalCa.create(plan.domain, now)
    ca.pair.write(directory / CA_FILE, directory / CA_KEY_FILE)
    names = host_names(server_hosts(plan.domain, plan.listen, plan.hosts))
    server = ca.issue_server(names, now, CERTIFICATE_LIFETIME)
    server.write(directory / "tls" / "server.pem", directory / "tls" / "server.key")
    for role in Role:
        folder = directory / "clients" / role
        folder.mkdir(mode=0o700)
        # Named like its role: names are persons', and whoever proposes something does not approve of it.
        caller = ca.issue_client(spiffe_id(plan.domain, plan.tenant, role, role), now, CERTIFICATE_LIFETIME)
        caller.write(folder / "cert.pem", folder / "key.pem")
        client = client_settings(
            f"clients/{role}.toml",
            role,
            endpoint_of(plan.listen, plan.domain),
            plan.tenant,
            ("../tls/ca.pem", f"{role}/cert.pem", f"{role}/key.pem"),
        )
        write_file(directory / "clients" / f"{role}.toml", client)


def server_hosts(domain: str, listen: str, hosts: Sequence[str]) -> list[str]:
    """What a gateway's certificate is for: its domain, where it listens, this machine, and what else was asked for."""
    return [domain, host_of(listen), "localhost", "127.0.0.1", "::1", *hosts]


def client_settings(name: str, role: Role, endpoint: str, tenant: str, files: tuple[str, str, str]) -> bytes:
    """A caller's settings, TOML.

    Args:
        name: of the file, for its first line.
        role: the caller's.
        endpoint: ``host:port`` of the gateway.
        tenant: the caller's.
        files: PEM files of the CA, the caller's certificate, its key; relative to this file.
    """
    ca, certificate, key = files
    return (
        f"# How a caller of the role {role} connects: sealkeeper --config {name} …\n"
        f"endpoint = {_quoted(endpoint)}\n"
        f"ca = {_quoted(ca)}\n"
        f"certificate = {_quoted(certificate)}\n"
        f"key = {_quoted(key)}\n"
        f"tenant = {_quoted(tenant)}\n"
    ).encode()
