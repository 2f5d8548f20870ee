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

import ipaddress
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sealkeeper.hsm import open_provider
from sealkeeper.server.authorities import create_authorities, save_authorities
from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.files import write_file
from sealkeeper.server.gateway import AUTHORITIES_FILE
from sealkeeper.server.identity import Role, spiffe_id
from sealkeeper.server.log import AUDIT
from sealkeeper.server.settings import SETTINGS_FILE, Settings, host_of, load_settings
from sealkeeper.server.x509_signing import key_usage

CERTIFICATE_LIFETIME = timedelta(days=365)
CA_LIFETIME = timedelta(days=3650)
PROVIDER = "main"


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
    """

    directory: Path
    domain: str
    tenant: str
    provider_uri: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    listen: str = "127.0.0.1:8443"
    http_listen: str = "127.0.0.1:8080"
    metrics_listen: str = "127.0.0.1:9464"


async def initialise(plan: Plan, tell: Callable[[str], None] = lambda _: None) -> Settings:
    """Make the folder; where that fails, nothing of it is left.

    Args:
        plan: what to make.
        tell: told of each step.

    Raises:
        ConfigurationError: the folder is in use, or a value of the plan is wrong.
        ProviderError: the provider cannot be opened or cannot make the keys.
        OSError: the folder cannot be written.
    """
    directory = plan.directory.absolute()
    if directory.exists() and any(directory.iterdir()):
        raise ConfigurationError(
            f"{directory} is not empty", next_step="name a new folder; a gateway's folder is made once"
        )
    existed = directory.exists()
    try:
        return await _make(plan, directory, tell)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        if existed:
            directory.mkdir(mode=0o700)
        raise


async def _make(plan: Plan, directory: Path, tell: Callable[[str], None]) -> Settings:
    for name in ("", "tls", "clients", "secrets", "state"):
        (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
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
    start = now - timedelta(minutes=5)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{plan.domain} callers")])
    ca = (
        x509.CertificateBuilder()
        .subject_name(ca_name)
        .issuer_name(ca_name)
        .public_key(ca_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(now + CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    tls = directory / "tls"
    _write_pair(tls / "ca.pem", tls / "ca.key", ca, ca_key)
    names = _server_names(plan)
    issue = _Issuer(ca, ca_key, start, now + CERTIFICATE_LIFETIME)
    issue.pair(tls / "server.pem", tls / "server.key", names, ExtendedKeyUsageOID.SERVER_AUTH)
    for role in Role:
        folder = directory / "clients" / role
        folder.mkdir(mode=0o700)
        uri = x509.UniformResourceIdentifier(spiffe_id(plan.domain, plan.tenant, role, "local"))
        issue.pair(folder / "cert.pem", folder / "key.pem", [uri], ExtendedKeyUsageOID.CLIENT_AUTH)
        client = (
            f"# How a caller of the role {role} connects: sealkeeper --config clients/{role}.toml …\n"
            f"endpoint = {_quoted(plan.listen)}\n"
            'ca = "../tls/ca.pem"\n'
            f'certificate = "{role}/cert.pem"\n'
            f'key = "{role}/key.pem"\n'
            f"tenant = {_quoted(plan.tenant)}\n"
        )
        write_file(directory / "clients" / f"{role}.toml", client.encode())


def _server_names(plan: Plan) -> list[x509.GeneralName]:
    hosts = dict.fromkeys([plan.domain, host_of(plan.listen).strip("[]"), "localhost", "127.0.0.1", "::1"])
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


@dataclass(frozen=True, slots=True)
class _Issuer:
    ca: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    start: datetime
    end: datetime

    def pair(self, certificate: Path, key: Path, names: list[x509.GeneralName], usage: x509.ObjectIdentifier) -> None:
        private = ec.generate_private_key(ec.SECP256R1())
        issued = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.ca.subject)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.start)
            .not_valid_after(self.end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        _write_pair(certificate, key, issued, private)


def _write_pair(certificate: Path, key: Path, issued: x509.Certificate, private: ec.EllipticCurvePrivateKey) -> None:
    pem = serialization.Encoding.PEM
    write_file(certificate, issued.public_bytes(pem), mode=0o644)
    unencrypted = serialization.NoEncryption()
    write_file(key, private.private_bytes(pem, serialization.PrivateFormat.PKCS8, unencrypted))
