"""``sealkeeper doctor``: finds the usual mistakes, and says what to do about each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sealkeeper.client.cli.options import Json, Options, options_of
from sealkeeper.client.cli.output import mark, print_json, print_text, printable
from sealkeeper.client.cli.server_commands import INSTALL, server_is_installed
from sealkeeper.client.errors import ClientError

if TYPE_CHECKING:
    from sealkeeper.client.connection import Connection

_SOON = timedelta(days=14)
_SKEW = timedelta(seconds=10)
_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    name: str
    passed: bool
    detail: str
    next_step: str = ""


def doctor(
    context: typer.Context,
    gateway: Annotated[
        Path | None, typer.Option(help="Settings of a gateway on this machine: checks PIN, library, ports, disk too.")
    ] = None,
    trust: Annotated[Path | None, typer.Option(help="Trust root folder to check.")] = None,
    json_output: Json = False,
) -> None:
    """Find the usual mistakes: connection, certificates, clock, trust root; with --gateway also PIN, library, ports."""
    findings = list(_findings(options_of(context), gateway, trust))
    if json_output:
        print_json(
            [
                {"name": one.name, "passed": one.passed, "detail": one.detail, "nextStep": one.next_step}
                for one in findings
            ]
        )
    else:
        for one in findings:
            print_text(f"{mark(one.passed)} {one.name:20} {printable(one.detail)}")
            if one.next_step:
                print_text(f"  next: {printable(one.next_step)}")
    if not all(one.passed for one in findings):
        raise typer.Exit(1)


def _findings(options: Options, gateway: Path | None, trust: Path | None) -> Iterator[Finding]:
    if gateway is not None:
        yield from _gateway(gateway)
    try:
        connection = options.connection()
    except ClientError as error:
        # Who looks at a gateway's own machine need not be one of its callers.
        if gateway is None:
            yield Finding("client settings", False, str(error), error.next_step)
    else:
        yield from _connection(connection, options)
    if trust is not None:
        yield _trust(trust)


def _gateway(settings: Path) -> Iterator[Finding]:
    from importlib.metadata import entry_points

    if not server_is_installed():
        yield Finding("gateway", False, "the server is not installed", INSTALL)
        return
    for one in entry_points(group="sealkeeper.doctor"):
        check: Callable[[Path], list[tuple[str, bool, str, str]]] = one.load()
        for name, passed, detail, next_step in check(settings):
            yield Finding(name, passed, detail, next_step)


def _connection(connection: Connection, options: Options) -> Iterator[Finding]:
    import socket

    warnings = connection.warnings()
    yield Finding("client settings", not warnings, "; ".join(warnings) or f"endpoint {connection.endpoint}")
    if not connection.insecure:
        finding = _token(connection) if connection.tokens is not None else _certificate(connection)
        yield finding
        if not finding.passed:
            return
    host, _, port = connection.endpoint.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT).close()
    except OSError as error:
        yield Finding(
            "port",
            False,
            f"{connection.endpoint}: {error.strerror or error}",
            "start the gateway, or correct it",
        )
        return
    yield Finding("port", True, f"{connection.endpoint} answers")
    yield from _calls(connection, options)


def _token(connection: Connection) -> Finding:
    try:
        connection.credentials()
        token = connection.tokens.fetch() if connection.tokens is not None else None
    except ClientError as error:
        return Finding("token", False, str(error), error.next_step)
    expires = token.expires if token is not None else None
    return Finding("token", True, f"good until {expires}" if expires else "there is one")


def _certificate(connection: Connection) -> Finding:
    from sealkeeper.client.tls_files import certificates

    name = "client certificate"
    try:
        connection.credentials()
        end = certificates(connection.certificate, "certificate")[0].not_valid_after_utc
    except ClientError as error:
        return Finding(name, False, str(error), error.next_step)
    if end - datetime.now(UTC) < _SOON:
        return Finding(name, True, f"it expires soon, at {end}", "have it issued anew")
    return Finding(name, True, f"valid until {end:%Y-%m-%d}")


def _calls(connection: Connection, options: Options) -> Iterator[Finding]:
    from sealkeeper.client.client import Client
    from sealkeeper.verify import TrustRoot

    with Client(connection, timeout=_TIMEOUT) as client:
        try:
            found = client.trust_root(options.parent())
        except ClientError as error:
            yield Finding("call", False, f"{error.reason}: {error}", error.next_step)
            return
    yield Finding("call", True, "the gateway knows us and answers")
    issued = TrustRoot.from_json(found.trusted_root, found.keys).issued_at
    skew = datetime.now(UTC) - issued if issued is not None else timedelta()
    if abs(skew) > _SKEW:
        yield Finding("clock", False, f"{skew.total_seconds():.0f} s off the gateway's", "set the clocks right (NTP)")
    else:
        yield Finding("clock", True, "within 10 s of the gateway's")


def _trust(directory: Path) -> Finding:
    from sealkeeper.verify import TrustRoot, TrustRootError

    try:
        root = TrustRoot.from_directory(directory)
    except TrustRootError as error:
        return Finding("trust root", False, str(error), "fetch it anew: sealkeeper trust export")
    return Finding("trust root", True, f"{len(root.logs)} log, {len(root.tenant_keys)} key versions")
