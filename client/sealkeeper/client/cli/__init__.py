"""The command line ``sealkeeper``: parses, calls, reports, and turns errors into exit codes.

Modules that take long to import are imported where they are used, so that ``sealkeeper verify`` starts fast.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from sealkeeper.client.cli import (
    approvals,
    attestations,
    gate,
    grants,
    keys,
    log,
    policy,
    provenance,
    providers,
    quota,
    trust,
)
from sealkeeper.client.cli.arguments import asks_for_json, in_order
from sealkeeper.client.cli.attach import EXIT_CODES as ATTACH_EXIT_CODES
from sealkeeper.client.cli.attach import attach
from sealkeeper.client.cli.attest import attest
from sealkeeper.client.cli.doctor import doctor
from sealkeeper.client.cli.failures import FAULT, INTERRUPTED, STOPPED, failure_of, usage_failure
from sealkeeper.client.cli.login import login, logout
from sealkeeper.client.cli.options import EXIT_CODES, Options
from sealkeeper.client.cli.output import (
    OutputError,
    ReaderGoneError,
    flush_output,
    print_failure,
    print_text,
    set_up_streams,
)
from sealkeeper.client.cli.responsibilities import responsibilities
from sealkeeper.client.cli.server_commands import server_command, server_command_names
from sealkeeper.client.cli.sign import sign
from sealkeeper.client.cli.verify import verify
from sealkeeper.client.cli.whoami import whoami

# Typer carries its own click and exports only some of its errors.
_ClickError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
# Where shells put the line that is being typed: bash; zsh and fish.
_COMPLETED = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")
_EPILOG = """\
Options of the gateway may stand before or after the command.

Exit codes: 0 done or verified; 1 refused, not verified; 2 wrong usage or input; 3 the gateway does not answer; \
4 proposed: waits for approval; 70 a fault of Sealkeeper's own; 130 interrupted; 141 nobody read the output.

--json: standard output is exactly one JSON document a command, for an error too (error, reason, next_step, \
violations, exit_code), and standard error is for warnings only; `sign` of several files, and `attest` of several \
things, print one array. \
`log entries` and `approvals watch` are streams: one document a line (NDJSON).
"""

app = typer.Typer(
    name="sealkeeper",
    no_args_is_help=True,
    epilog=_EPILOG,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print_text(f"sealkeeper {version('sealkeeper')}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="How to reach the gateway: a TOML file.", envvar="SEALKEEPER_CONFIG")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="HOST:PORT of the gateway.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Your tenant.")] = None,
    ca: Annotated[str | None, typer.Option(help="PEM file that the gateway's certificate is checked against.")] = None,
    certificate: Annotated[str | None, typer.Option(help="PEM file with your certificate.")] = None,
    client_key: Annotated[str | None, typer.Option(help="PEM file with its private key.")] = None,
    token_file: Annotated[str | None, typer.Option(help="File with a token, instead of a certificate.")] = None,
    audience: Annotated[
        str | None, typer.Option(help="Whom tokens of CI systems are for [default: https:// and the gateway's host]")
    ] = None,
    login_issuer: Annotated[str | None, typer.Option(help="OpenID provider to log in at.")] = None,
    login_client_id: Annotated[str | None, typer.Option(help="By which it knows this client.")] = None,
    approval_key: Annotated[
        str | None, typer.Option(help="PEM file with the private key that approvals are signed with.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="No TLS: to loopback only.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for a call with all its retries.", min=0.1)] = 30.0,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Sign with keys that stay in your HSM or KMS; verify offline; read the log."""
    context.obj = Options(
        config,
        endpoint,
        ca,
        certificate,
        client_key,
        tenant,
        insecure,
        timeout,
        token_file=token_file,
        audience=audience,
        login_issuer=login_issuer,
        login_client_id=login_client_id,
        approval_key=approval_key,
    )


app.command(epilog=EXIT_CODES)(sign)
app.command(epilog=EXIT_CODES)(attest)
app.command(epilog=ATTACH_EXIT_CODES)(attach)
app.command(epilog="Exit codes: 0 verified; 1 refused; 2 wrong usage or input, or a file that is not there.")(verify)
app.add_typer(attestations.app, name="attestations")
app.add_typer(keys.app, name="keys")
app.add_typer(log.app, name="log")
app.add_typer(trust.app, name="trust")
app.add_typer(providers.app, name="providers")
app.add_typer(approvals.app, name="approvals")
app.add_typer(grants.app, name="grants")
app.command("break-glass", epilog=EXIT_CODES)(grants.break_glass)
app.add_typer(policy.app, name="policy")
app.add_typer(gate.app, name="gate")
app.add_typer(quota.app, name="quota")
app.add_typer(provenance.app, name="provenance")
app.command(epilog=EXIT_CODES)(whoami)
app.command(epilog="Exit codes: 0 done; 2 refused, or wrong usage; 3 the issuer does not answer; 130 given up.")(login)
app.command(epilog="Exit codes: 0 done; 2 wrong usage.")(logout)
app.command(epilog="Exit codes: 0 done; 2 wrong usage.")(responsibilities)
app.command(epilog="Exit codes: 0 nothing is wrong; 1 something is; 2 wrong usage.")(doctor)


def main() -> None:
    """Run the command line and exit."""
    set_up_streams()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line.

    Returns:
        The exit code.
    """
    as_json = asks_for_json(arguments)
    try:
        code = _call(arguments)
        if code == INTERRUPTED:
            print_failure(STOPPED, as_json=as_json)
        flush_output()
        return code  # noqa: TRY300
    except Exception as error:  # noqa: BLE001  # whatever it is, it ends in one of the exit codes
        return _fail(error, as_json=as_json)


def _call(arguments: list[str]) -> int:
    command: Any = typer.main.get_command(app)
    for name in server_command_names():
        command.add_command(server_command(name, _words(arguments)), name)
    try:
        result = command.main(in_order(command, arguments), prog_name="sealkeeper", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except SystemExit as ended:
        # So Typer answers a reader of its help that has gone.
        if isinstance(ended.__context__, BrokenPipeError):
            raise ReaderGoneError(ended.__context__) from None
        raise
    return result if isinstance(result, int) else 0


def _words(arguments: list[str]) -> list[str]:
    """Words of the command line; for a shell that asks for completions, of the line that is being typed."""
    if "_SEALKEEPER_COMPLETE" not in os.environ:
        return arguments
    return " ".join(os.environ.get(name, "") for name in _COMPLETED).split()


def _fail(error: Exception, *, as_json: bool) -> int:
    if isinstance(error, _ClickError):
        failure = usage_failure(error)
        if not as_json:
            error.show()
            return failure.exit_code
    else:
        failure = failure_of(error)
    if failure.exit_code == FAULT and os.environ.get("SEALKEEPER_DEBUG"):
        traceback.print_exception(error)
    if isinstance(error, ReaderGoneError):
        return failure.exit_code
    # A document would not get through where text did not.
    print_failure(failure, as_json=as_json and not isinstance(error, OutputError))
    with suppress(OutputError):
        flush_output()
    return failure.exit_code
