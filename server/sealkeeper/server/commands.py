"""What the server adds to the command line: ``sealkeeper init``, ``sealkeeper serve`` and ``sealkeeper issue``.

The client finds these functions by name; it turns the errors that they raise into exit codes.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import resource
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.identity import Role

if TYPE_CHECKING:
    from sealkeeper.server.gateway import Gateway
    from sealkeeper.server.settings import Settings

_log = logging.getLogger("sealkeeper")
_SWITCH_INTERVAL = 0.0002
_COLLECT = (20_000, 20, 50)


def init(
    directory: Annotated[Path, typer.Argument(help="Folder to make; must not exist or be empty.")],
    domain: Annotated[
        str, typer.Option(help="Names the gateway for good: its logs, certificates and callers.")
    ] = "sealkeeper.localhost",
    tenant: Annotated[str, typer.Option(help="The first tenant.")] = "default",
    provider_uri: Annotated[
        str | None,
        typer.Option(
            help="Where keys live, for example pkcs11:token=…?module-path=…&pin-source=file:… [default: files]"
        ),
    ] = None,
    environment: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the provider's library; may be repeated.")
    ] = None,
    listen: Annotated[str, typer.Option(help="Address of the gRPC port.")] = "127.0.0.1:8443",
    http_listen: Annotated[str, typer.Option(help="Address of the public logs over HTTP.")] = "127.0.0.1:8080",
    metrics_listen: Annotated[str, typer.Option(help="Address of the Prometheus endpoint.")] = "127.0.0.1:9464",
    host: Annotated[
        list[str] | None,
        typer.Option(help="A further name or address that callers reach the gateway by; may be repeated."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Make a gateway's folder: settings, its own keys, a local CA and certificates for each role."""
    from sealkeeper.server.initialise import Plan, initialise
    from sealkeeper.server.settings import SETTINGS_FILE

    plan = Plan(
        directory,
        domain,
        tenant,
        provider_uri,
        dict(_pair(one) for one in environment or ()),
        listen,
        http_listen,
        metrics_listen,
        tuple(host or ()),
    )

    def tell(text: str) -> None:
        if not json_output:
            print(f"  {text}")  # noqa: T201

    asyncio.run(initialise(plan, tell))
    settings = directory.absolute() / SETTINGS_FILE
    if json_output:
        print(json.dumps({"settings": str(settings), "domain": domain, "tenant": tenant}))  # noqa: T201
        return
    print(f"made {directory}")  # noqa: T201
    if provider_uri is None:
        print("  keys are in sealed files, which is for trying things out: give --provider-uri for an HSM or KMS")  # noqa: T201
    print(f"next: sealkeeper serve {settings}")  # noqa: T201


def serve(
    settings: Annotated[Path, typer.Argument(help="Settings file, or the folder that sealkeeper init made.")],
    insecure: Annotated[
        bool, typer.Option("--insecure", help="No TLS, no identity: for a loopback address only.")
    ] = False,
    accept_clock: Annotated[
        bool,
        typer.Option("--accept-clock", help="Take the machine's clock for right though there are newer records."),
    ] = False,
) -> None:
    """Run the gateway until SIGTERM or SIGINT; log lines are JSON on standard error."""
    # What a process remembers must not end in a file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # gRPC's core, once loaded, would write lines of its own among ours, which are JSON.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Its handlers of forks, which uvloop's subprocesses would set off, hold up every handshake for up to a minute.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    if insecure:
        os.environ["SEALKEEPER_GATEWAY__INSECURE"] = "true"
    # The journal is written in a thread, which must not wait for the loop for five milliseconds, as Python has it.
    sys.setswitchinterval(_SWITCH_INTERVAL)
    import uvloop

    from sealkeeper.server.settings import SETTINGS_FILE, load_settings

    loaded = load_settings(settings / SETTINGS_FILE if settings.is_dir() else settings)
    uvloop.run(_serve(loaded, accept_clock=accept_clock))


def issue(
    directory: Annotated[Path, typer.Argument(help="The gateway's folder, as sealkeeper init made it.")],
    role: Annotated[Role | None, typer.Option(help="What the caller may do.")] = None,
    tenant: Annotated[str | None, typer.Option(help="The caller's tenant. [default: the only one]")] = None,
    name: Annotated[str | None, typer.Option(help="Tells callers apart in audit records, for example build-7.")] = None,
    server: Annotated[
        bool, typer.Option("--server", help="Renew the certificate of the gateway's port instead.")
    ] = False,
    host: Annotated[
        list[str] | None, typer.Option(help="With --server: a further name or address; may be repeated.")
    ] = None,
    days: Annotated[int, typer.Option(help="How long it is valid.", min=1, max=3650)] = 365,
    out: Annotated[
        Path | None, typer.Option(help="Folder to make for the caller. [default: one in DIRECTORY/clients]")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Issue a certificate for a caller, or renew the gateway's own, with the local CA that sealkeeper init made."""
    from sealkeeper.server.issuing import Caller, issue_caller, renew_server

    now, lifetime = datetime.now(UTC), timedelta(days=days)
    if server:
        if role is not None or tenant is not None or name is not None or out is not None:
            raise ConfigurationError("--server: --role, --tenant, --name and --out are for callers")
        made = renew_server(directory, host or (), lifetime, now)
        next_step = "start the gateway again"
    else:
        if role is None or name is None or host:
            raise ConfigurationError("--role and --name are needed, without --host; or --server alone")
        made = issue_caller(directory, Caller(role, tenant, name), lifetime, out, now)
        next_step = f"carry {made.parent} to the caller, then: sealkeeper --config {made.name} doctor"
    if json_output:
        print(json.dumps({"made": str(made), "notAfter": (now + lifetime).isoformat(timespec="seconds")}))  # noqa: T201
        return
    print(f"made {made}, valid until {now + lifetime:%Y-%m-%d}")  # noqa: T201
    print(f"next: {next_step}")  # noqa: T201


async def _serve(settings: Settings, *, accept_clock: bool) -> None:
    from sealkeeper.server.telemetry import set_up_logging

    set_up_logging(settings.telemetry.log_level)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    gateway = await _started(settings, accept_clock=accept_clock)
    # What was made up to here stays: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    addresses = {"grpc": gateway.address, "http": gateway.http_address, "metrics": gateway.metrics_address}
    if gateway.token_address is not None:
        addresses["tokens"] = gateway.token_address
    _log.info("serving", extra={"fields": addresses})
    print(json.dumps({"serving": addresses}), flush=True)  # noqa: T201
    try:
        await stop.wait()
        _log.info("stopping")
    finally:
        await gateway.stop()
    _log.info("stopped")
    sys.stdout.flush()


async def _started(settings: Settings, *, accept_clock: bool) -> Gateway:
    from sealkeeper.server.files import unusable
    from sealkeeper.server.gateway import Gateway

    try:
        return await Gateway.start(settings, accept_clock=accept_clock)
    except (ConnectionError, TimeoutError):
        # Something did not answer: that says nothing of files.
        raise
    except OSError as error:
        raise unusable(error, settings.storage.directory) from error


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise ConfigurationError(f"--environment {text!r}: must be NAME=VALUE")
    return name, value
