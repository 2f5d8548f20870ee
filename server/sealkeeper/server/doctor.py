"""What ``sealkeeper doctor --gateway`` checks on the gateway's own machine, beside a gateway that runs as well."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import ipaddress
import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509

from sealkeeper.server.access_doctor import check_access
from sealkeeper.server.authorities import read_authorities
from sealkeeper.server.clock import TOLERANCE
from sealkeeper.server.errors import SealkeeperError
from sealkeeper.server.files import unusable
from sealkeeper.server.finding import Finding
from sealkeeper.server.gateway import AUTHORITIES_FILE, LOGS_FOLDER
from sealkeeper.server.key_doctor import check_keys, check_residency
from sealkeeper.server.log import AUDIT, LOG_NAMES, LogError
from sealkeeper.server.log.journal import read_records
from sealkeeper.server.log.publisher import STATE_FILE
from sealkeeper.server.log.tiles import TILE_WIDTH, TileStore
from sealkeeper.server.provider_doctor import examine_providers
from sealkeeper.server.settings import SETTINGS_FILE, Settings, host_of, is_wildcard, load_settings
from sealkeeper.server.tls import RENEW, read_tls_files
from sealkeeper.verify.errors import NoteError
from sealkeeper.verify.note import parse_checkpoint, parse_signed_note

_LOW = 1024**3
_SOON = timedelta(days=14)
_TIMEOUT = 5.0
PATIENCE = timedelta(seconds=30)
"""How long a provider is waited for: a store's own timeouts are shorter, so that it can say what is wrong."""
_NEXT_STEPS = {
    errno.EADDRINUSE: "end what listens there, or set another port",
    errno.EACCES: "set a port from 1024 on, or let the gateway's user use lower ones",
    errno.EADDRNOTAVAIL: "set an address of this machine",
}


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is checked: the settings, whether a gateway runs with them, the time, how long a provider is waited for."""

    settings: Settings
    serves: bool
    now: datetime
    patience: timedelta

    @property
    def logs(self) -> Path:
        return self.settings.storage.directory / LOGS_FOLDER


def check(settings: Path, now: datetime | None = None, patience: timedelta = PATIENCE) -> list[Finding]:
    """Check a gateway's settings and what they name, whether it runs or not.

    Args:
        settings: file or the folder that ``sealkeeper init`` made.
        now: UTC; ``None`` for the machine's clock.
        patience: how long a provider is waited for.
    """
    try:
        loaded = load_settings(settings / SETTINGS_FILE if settings.is_dir() else settings)
    except SealkeeperError as error:
        return [("settings", False, str(error), error.next_step)]
    findings: list[Finding] = [("settings", True, f"{settings} can be read", "")]
    subject = _Subject(loaded, _serves(loaded.storage.directory / LOGS_FOLDER), now or datetime.now(UTC), patience)
    checks: list[Callable[[_Subject], list[Finding]]] = [
        _state,
        _tls,
        _access,
        _authorities,
        _providers,
        _keys,
        _ports,
        _clock,
    ]
    for one in checks:
        findings += one(subject)
    return findings


def _serves(logs: Path) -> bool:
    """Whether a gateway has the logs open: it holds a lock on them (see ``log/lock.py``)."""
    try:
        descriptor = os.open(logs / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared, and let go at once: two doctors do not take each other for a gateway.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _state(subject: _Subject) -> list[Finding]:
    directory = subject.settings.storage.directory
    try:
        if not directory.is_dir():
            text = f"{directory} is {'not a folder' if directory.exists() else 'missing'}"
            return [("state", False, text, "correct storage.directory; sealkeeper init makes the folder, once")]
        free = shutil.disk_usage(directory).free
    except OSError as error:
        refused = unusable(error, directory)
        return [("state", False, str(refused), refused.next_step)]
    text = f"{directory}: {free / 1024**3:.1f} GiB free for the logs"
    return [("state", free >= _LOW, text, "" if free >= _LOW else "free space, or move storage.directory")]


def _tls(subject: _Subject) -> list[Finding]:
    gateway = subject.settings.gateway
    if gateway.insecure or gateway.tls is None:
        return [("tls", True, "off: plaintext on loopback", "")]
    try:
        leaf = read_tls_files(gateway.tls, subject.now).leaf
    except SealkeeperError as error:
        return [("tls", False, str(error), error.next_step)]
    names = _names(leaf)
    for listen in filter(None, (gateway.listen, gateway.token_listen)):
        hosts = _hosts(gateway.domain, listen)
        if any(_fits(name, host) for name in names for host in hosts):
            continue
        text = f"gateway.tls.certificate: {gateway.tls.certificate} is for {', '.join(names)}, not for {hosts[0]}"
        return [("tls", False, text, f"use one that names {' or '.join(hosts)}; {RENEW}")]
    end = leaf.not_valid_after_utc
    if end - subject.now < _SOON:
        return [("tls", True, f"the gateway's certificate expires soon, at {end:%Y-%m-%d %H:%M} UTC", RENEW)]
    return [("tls", True, f"certificate, key and client CA can be used; valid until {end:%Y-%m-%d}", "")]


def _names(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return ["no name"]
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def _hosts(domain: str, listen: str) -> list[str]:
    """Where callers of a port connect to, as far as the settings tell."""
    return [domain] if is_wildcard(listen) else [domain, host_of(listen).strip("[]")]


def _fits(name: str, host: str) -> bool:
    """Whether a certificate's name is that of a host (RFC 9525 section 6.3: a wildcard is one whole first label)."""
    try:
        return ipaddress.ip_address(name) == ipaddress.ip_address(host)
    except ValueError:
        first, _, rest = name.lower().partition(".")
        return name.lower() == host.lower() or (first == "*" and host.lower().partition(".")[2] == rest)


def _access(subject: _Subject) -> list[Finding]:
    return check_access(subject.settings, subject.now)


def _authorities(subject: _Subject) -> list[Finding]:
    settings = subject.settings
    try:
        found = read_authorities(settings.storage.directory / AUTHORITIES_FILE)
    except SealkeeperError as error:
        return [("authorities", False, str(error), error.next_step)]
    if found.domain != settings.gateway.domain:
        text = f"they are those of {found.domain}, the settings name {settings.gateway.domain}"
        return [("authorities", False, text, "set gateway.domain back: it names a gateway for good")]
    if found.provider not in settings.providers:
        text = f"the gateway's own keys are in provider {found.provider}, which is not in the settings"
        return [("authorities", False, text, f"add [providers.{found.provider}] again")]
    return [("authorities", True, f"the gateway's own keys are in provider {found.provider}", "")]


def _providers(subject: _Subject) -> list[Finding]:
    settings = subject.settings
    examined = asyncio.run(examine_providers(settings, subject.patience))
    findings = [finding for one in examined.values() for finding in one.findings]
    return findings + check_residency(settings, {name: one.region for name, one in examined.items()})


def _keys(subject: _Subject) -> list[Finding]:
    return check_keys(subject.settings, subject.now)


def _ports(subject: _Subject) -> list[Finding]:
    settings = subject.settings
    addresses = {
        "gateway.listen": settings.gateway.listen,
        "gateway.token_listen": settings.gateway.token_listen,
        "http.listen": settings.http.listen,
        "telemetry.metrics_listen": settings.telemetry.metrics_listen,
    }
    return [_port(name, address, serves=subject.serves) for name, address in addresses.items() if address is not None]


def _port(name: str, address: str, *, serves: bool) -> Finding:
    host, port = host_of(address).strip("[]"), int(address.rpartition(":")[2])
    try:
        [family, kind, protocol, _, place] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and serves and _answers(host, port):
            return (name, True, f"{address}: the gateway answers", "")
        next_step = _NEXT_STEPS.get(error.errno or 0, "correct the address")
        return (name, False, f"{address}: {error.strerror or error}", next_step)
    return (name, True, f"{address} is free", "")


def _answers(host: str, port: int) -> bool:
    # Linux takes a wildcard address to connect to for this machine.
    try:
        socket.create_connection((host, port), timeout=_TIMEOUT).close()
    except OSError:
        return False
    return True


def _clock(subject: _Subject) -> list[Finding]:
    try:
        newest = _newest_record_time(subject)
    except (LogError, NoteError, OSError, ValueError, KeyError, TypeError) as error:
        text = f"the newest record of the audit log cannot be read: {error}"
        return [("clock", False, text, "start the gateway: it says what is wrong with its logs")]
    if newest is None:
        return [("clock", True, "there is no record yet to compare it with", "")]
    behind = newest - subject.now
    if behind > TOLERANCE:
        text = f"the machine's clock is {behind.total_seconds():.0f} s behind the newest record of the audit log"
        next_step = (
            "set the clock right (NTP); if it was ahead before and is right now: sealkeeper serve --accept-clock"
        )
        return [("clock", False, text, next_step)]
    return [("clock", True, "not behind the newest record of the audit log", "")]


def _newest_record_time(subject: _Subject) -> datetime | None:
    """The time of the audit log's last record; ``None`` where there is none.

    Without the lock: a gateway that runs publishes within a moment, so its tiles say enough. Of one that has ended the
    journal may have more.

    Raises:
        LogError, NoteError, OSError, ValueError, KeyError, TypeError: it cannot be read.
    """
    bodies = _journal_bodies(subject.logs) if not subject.serves else []
    body = bodies[-1] if bodies else _last_published(TileStore(subject.logs / AUDIT, private=True))
    return None if body is None else datetime.fromisoformat(msgspec.json.decode(body)["time"])


def _last_published(tiles: TileStore) -> bytes | None:
    for attempt in range(3):
        text = tiles.read_checkpoint()
        size = parse_checkpoint(parse_signed_note(text).text).size if text is not None else 0
        if size == 0:
            return None
        number, place = divmod(size - 1, TILE_WIDTH)
        try:
            return tiles.read_entries(number, place + 1)[-1]
        except LogError:
            # A partial tile goes once there is a fuller one; the checkpoint is a newer one then.
            if attempt == 2 or tiles.read_checkpoint() == text:
                raise
    return None


def _journal_bodies(logs: Path) -> list[bytes]:
    try:
        state = json.loads((logs / STATE_FILE).read_text("utf-8"))
    except FileNotFoundError:
        return []
    audit = LOG_NAMES.index(AUDIT)
    return [
        growth.entries[-1]
        for record in read_records(logs / "journal", int(state["nextSequence"]))
        for growth in record.growths
        if growth.log == audit and growth.entries
    ]
