"""The command line ``sealkeeper``: parses, calls, reports, and turns errors into exit codes.

Modules that take long to import are imported where they are used, so that ``sealkeeper verify`` starts fast.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Annotated, Any

import typer

from sealkeeper.client.cli import keys, log, trust
from sealkeeper.client.cli.doctor import doctor
from sealkeeper.client.cli.options import Options
from sealkeeper.client.cli.output import note, print_error, print_text
from sealkeeper.client.cli.sign import sign
from sealkeeper.client.cli.verify import verify
from sealkeeper.client.errors import REFUSED, UNAVAILABLE, USAGE, ClientError
from sealkeeper.verify.errors import LogCorruptError, ProofError, StepFailedError, VerifyError

# Typer carries its own click and exports only some of its errors.
_ClickError = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
_INTERRUPTED = 130
_EPILOG = (
    "Exit codes: 0 done or verified; 1 refused, not verified; 2 wrong usage or input; 3 the gateway does not answer."
)
_SERVER_COMMANDS = {"init": "Make a gateway's folder.", "serve": "Run a gateway."}

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
    insecure: Annotated[bool, typer.Option("--insecure", help="No TLS: to loopback only.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for a call with all its retries.", min=0.1)] = 30.0,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Sign with keys that stay in your HSM or KMS; verify offline; read the log."""
    context.obj = Options(config, endpoint, ca, certificate, client_key, tenant, insecure, timeout)


app.command()(sign)
app.command()(verify)
app.add_typer(keys.app, name="keys")
app.add_typer(log.app, name="log")
app.add_typer(trust.app, name="trust")
app.command()(doctor)


def _add_server_commands(arguments: list[str]) -> None:
    """The server's commands: loaded only when one of them is meant, named in the help in any case."""
    found: dict[str, EntryPoint] = {one.name: one for one in entry_points(group="sealkeeper.commands")}
    for name, summary in _SERVER_COMMANDS.items():
        if name in arguments and name in found:
            try:
                app.command(name)(found[name].load())
                continue
            except ModuleNotFoundError:
                pass
        app.command(name, help=summary)(_missing(name))


def _missing(name: str) -> typer.models.CommandFunctionType:  # type: ignore[type-var]  # a command without arguments
    def missing() -> None:
        raise ClientError(f"sealkeeper {name} needs the server", next_step="pip install 'sealkeeper[server,pkcs11]'")

    return missing  # type: ignore[return-value]


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line.

    Returns:
        The exit code.
    """
    _add_server_commands(arguments)
    as_json = "--json" in arguments
    try:
        result = app(arguments, standalone_mode=False)
    except typer.Abort:
        note("stopped")
        return _INTERRUPTED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        sys.stderr.close()
        return 0
    except Exception as error:
        if isinstance(error, _ClickError):
            return _usage(error, as_json=as_json)
        code = _exit_code(error)
        if code is None:
            raise
        print_error(error, as_json=as_json)
        return code
    return result if isinstance(result, int) else 0


def _usage(error: Any, *, as_json: bool) -> int:
    if as_json:
        print_error(ClientError(error.format_message(), reason="USAGE"), as_json=True)
    else:
        error.show()
    return USAGE


def _exit_code(error: Exception) -> int | None:
    """For an error that is foreseen; ``None`` for a fault of ours, which shows its traceback."""
    if isinstance(error, ClientError):
        return error.exit_code
    if isinstance(error, StepFailedError | LogCorruptError | ProofError):
        return REFUSED
    if isinstance(error, VerifyError):
        return USAGE
    if isinstance(error, ConnectionError | TimeoutError):
        return UNAVAILABLE
    if isinstance(error, OSError):
        return USAGE
    # What the server's commands raise is known by its shape: the client does not import it.
    reason = getattr(error, "reason", None)
    if isinstance(reason, str) and reason.isupper():
        return USAGE if reason in ("MISCONFIGURED", "PROVIDER_URI_INVALID") else UNAVAILABLE
    return None
