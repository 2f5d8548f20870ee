"""What ``sealkeeper doctor --gateway`` checks on the gateway's own machine."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from sealkeeper.hsm import ProviderError, open_provider
from sealkeeper.server.authorities import read_authorities
from sealkeeper.server.errors import SealkeeperError
from sealkeeper.server.gateway import AUTHORITIES_FILE
from sealkeeper.server.settings import SETTINGS_FILE, Settings, load_settings

Finding: TypeAlias = tuple[str, bool, str, str]
"""Name of the check, whether it passed, what was found, what to do."""

_LOW = 1024**3


def check(settings: Path) -> list[Finding]:
    """Check a gateway's settings and what they name, whether it runs or not.

    Args:
        settings: file or the folder that ``sealkeeper init`` made.
    """
    try:
        loaded = load_settings(settings / SETTINGS_FILE if settings.is_dir() else settings)
    except SealkeeperError as error:
        return [("settings", False, str(error), error.next_step)]
    findings: list[Finding] = [("settings", True, f"{settings} can be read", "")]
    checks: list[Callable[[Settings], list[Finding]]] = [_tls, _authorities, _providers, _ports, _disk]
    for one in checks:
        findings += one(loaded)
    return findings


def _tls(settings: Settings) -> list[Finding]:
    tls = settings.gateway.tls
    if tls is None:
        return [("tls", True, "off: plaintext on loopback", "")]
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        context.load_verify_locations(tls.client_ca)
    except OSError as error:
        text = f"{tls.certificate}, {tls.key} or {tls.client_ca}: {error.strerror or error}"
        return [("tls", False, text, "the certificate and key must be PEM files that belong together")]
    return [("tls", True, "certificate, key and client CA can be used", "")]


def _authorities(settings: Settings) -> list[Finding]:
    try:
        found = read_authorities(settings.storage.directory / AUTHORITIES_FILE)
    except SealkeeperError as error:
        return [("authorities", False, str(error), error.next_step)]
    if found.domain != settings.gateway.domain:
        text = f"they are those of {found.domain}, the settings name {settings.gateway.domain}"
        return [("authorities", False, text, "set gateway.domain back: it names a gateway for good")]
    return [("authorities", True, f"the gateway's own keys are in provider {found.provider}", "")]


def _providers(settings: Settings) -> list[Finding]:
    return asyncio.run(_open_providers(settings))


async def _open_providers(settings: Settings) -> list[Finding]:
    findings: list[Finding] = []
    for name, one in settings.providers.items():
        label = f"provider {name}"
        try:
            # With the gateway's state, so that a PIN that was refused is not tried again.
            provider = await open_provider(one.uri, state_dir=settings.storage.directory, environment=one.environment)
        except ProviderError as error:
            findings.append((label, False, str(error), error.next_step))
            continue
        findings.append((label, True, provider.info.description, ""))
        await provider.close()
    return findings


def _ports(settings: Settings) -> list[Finding]:
    addresses = {
        "gateway.listen": settings.gateway.listen,
        "http.listen": settings.http.listen,
        "telemetry.metrics_listen": settings.telemetry.metrics_listen,
    }
    return [_port(name, address) for name, address in addresses.items() if address is not None]


def _port(name: str, address: str) -> Finding:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            text = f"{address}: {error.strerror}"
            return (name, False, text, "fine if it is the gateway that listens there; else set another port")
    return (name, True, f"{address} is free", "")


def _disk(settings: Settings) -> list[Finding]:
    free = shutil.disk_usage(settings.storage.directory).free
    text = f"{free / 1024**3:.1f} GiB free for the logs"
    return [("disk", free >= _LOW, text, "" if free >= _LOW else "free space, or move storage.directory")]
