"""Certificates for a gateway that was made before: for a new caller, and for its own port when the old one ends.

The local CA of the gateway's folder issues them; a gateway whose certificates come from elsewhere is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.files import unusable, write_file
from sealkeeper.server.identity import Role, spiffe_id
from sealkeeper.server.initialise import client_settings, server_hosts
from sealkeeper.server.local_ca import LocalCa, host_names
from sealkeeper.server.settings import SETTINGS_FILE, Settings, TlsSettings, endpoint_of, load_settings

CLIENT_FILE = "client.toml"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a certificate is for.

    Attributes:
        role: what it may do.
        tenant: one of the settings' tenants; ``None`` for their only one.
        name: tells callers of a role apart in audit records: 1 to 128 of A-Z, a-z, 0-9, ".", "_" and "-".
    """

    role: Role
    tenant: str | None
    name: str


def issue_caller(directory: Path, caller: Caller, lifetime: timedelta, out: Path | None, now: datetime) -> Path:
    """Issue a caller's certificate, into a folder that can be carried to the caller: PEM files and settings.

    Args:
        directory: the gateway's folder.
        caller: who it is for.
        lifetime: of the certificate.
        out: a folder that does not exist or is empty; ``None`` for one in the gateway's ``clients``.
        now: UTC.

    Returns:
        The settings file.

    Raises:
        ConfigurationError: a value is not allowed, the local CA cannot issue it, or the folder is in use.
    """
    settings = load_settings(directory / SETTINGS_FILE)
    tenant = _tenant(caller.tenant, settings.tenants)
    if not _NAME.fullmatch(caller.name):
        raise ConfigurationError(f'--name {caller.name!r}: must be 1 to 128 of A-Z, a-z, 0-9, ".", "_" and "-"')
    ca = LocalCa.read(directory)
    _require_callers_of(ca, _tls(settings))
    pair = ca.issue_client(spiffe_id(settings.gateway.domain, tenant, caller.role, caller.name), now, lifetime)
    folder = (out or directory / "clients" / f"{tenant}-{caller.role}-{caller.name}").absolute()
    endpoint = endpoint_of(settings.gateway.listen, settings.gateway.domain)
    files = ("ca.pem", "cert.pem", "key.pem")
    try:
        _make_empty(folder)
        pair.write(folder / "cert.pem", folder / "key.pem")
        write_file(folder / "ca.pem", ca.pem, mode=0o644)
        write_file(folder / CLIENT_FILE, client_settings(CLIENT_FILE, caller.role, endpoint, tenant, files))
    except OSError as error:
        raise unusable(error, folder) from error
    return folder / CLIENT_FILE


def renew_server(directory: Path, hosts: Sequence[str], lifetime: timedelta, now: datetime) -> Path:
    """Renew the certificate of the gateway's port, with a new key, for the names that it had and further ones.

    Args:
        directory: the gateway's folder.
        hosts: host names and IP addresses to add.
        lifetime: of the certificate.
        now: UTC.

    Returns:
        The certificate's file. A running gateway takes it when it is started again.

    Raises:
        ConfigurationError: the local CA cannot issue it, or did not issue the one that is there.
    """
    settings = load_settings(directory / SETTINGS_FILE)
    tls = _tls(settings)
    ca = LocalCa.read(directory)
    names = host_names(server_hosts(settings.gateway.domain, settings.gateway.listen, hosts))
    names = list(dict.fromkeys([*_present_names(tls.certificate, ca), *names]))
    pair = ca.issue_server(names, now, lifetime)
    try:
        pair.write(tls.certificate, tls.key)
    except OSError as error:
        raise unusable(error, tls.certificate.parent) from error
    return tls.certificate


def _tenant(asked: str | None, tenants: Sequence[str]) -> str:
    if asked is None and len(tenants) == 1:
        return tenants[0]
    if asked is None or asked not in tenants:
        wrong = "is missing" if asked is None else f"{asked!r} is not one of the settings' tenants"
        raise ConfigurationError(
            f"--tenant: {wrong}; they are {', '.join(tenants)}",
            next_step="name one of them, or add it to tenants in the settings and start the gateway again",
        )
    return asked


def _tls(settings: Settings) -> TlsSettings:
    if settings.gateway.tls is None:
        raise ConfigurationError(
            "gateway.tls: is off, so no certificate is asked for", next_step="set certificate, key and client_ca"
        )
    return settings.gateway.tls


def _require_callers_of(ca: LocalCa, tls: TlsSettings) -> None:
    try:
        trusted = x509.load_pem_x509_certificates(tls.client_ca.read_bytes())
    except OSError as error:
        raise unusable(error, tls.client_ca) from error
    except ValueError:
        trusted = []
    if ca.pair.certificate not in trusted:
        raise ConfigurationError(
            f"gateway.tls.client_ca: {tls.client_ca} does not have the local CA: its certificates would be refused",
            next_step="have the certificate issued by the CA that is there",
        )


def _present_names(certificate: Path, ca: LocalCa) -> list[x509.GeneralName]:
    try:
        present = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError):
        # Lost or damaged: the names of the settings are all that is known.
        return []
    if present.issuer != ca.pair.certificate.subject:
        raise ConfigurationError(
            f"gateway.tls.certificate: {certificate} was not issued by the local CA",
            next_step="have it renewed by the CA that issued it",
        )
    return list(present.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def _make_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(
            f"{folder} is there already", next_step="name another folder with --out, or another --name"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
