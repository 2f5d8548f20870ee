"""``sealkeeper gate exceptions``: what may run for a time although the policy refuses it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealkeeper.client.cli.gate_policy import Gate, gate_name
from sealkeeper.client.cli.options import EXIT_CODES, Json, options_of
from sealkeeper.client.cli.output import Coloured, print_json, print_table, print_text, printable
from sealkeeper.client.cli.resources import enum_name, short_name, time_of
from sealkeeper.client.cli.values import period

if TYPE_CHECKING:
    from sealkeeper.v1 import gate_pb2

app = typer.Typer(
    no_args_is_help=True, help="What may run for a time although the policy refuses it.", epilog=EXIT_CODES
)
_COLOURS = {"ACTIVE": "green", "REVOKED": "red"}


@app.command()
def create(
    context: typer.Context,
    gate: Gate,
    lifetime: Annotated[str, typer.Option("--for", metavar="PERIOD", help="For how long: 1m to 90d.")],
    reason: Annotated[str, typer.Option(help="Why; approvers see it, and it is in the audit log.")],
    digest: Annotated[str, typer.Option(help="The artifact: sha256:HEX.")] = "",
    pattern: Annotated[str, typer.Option(help="Or artifacts by name: ghcr.io/acme/legacy/**")] = "",
    environment: Annotated[str, typer.Option(help="Where it is for [default: all environments]")] = "",
    json_output: Json = False,
) -> None:
    """Let an artifact run for a time. It may when others have approved."""
    if bool(digest) == bool(pattern):
        raise typer.BadParameter("give --digest or --pattern, and not both", param_hint="--digest")
    options = options_of(context)
    with options.client() as client:
        made = client.create_gate_exception(
            gate_name(options, gate),
            digest=digest,
            pattern=pattern,
            environment=environment,
            lifetime=period(lifetime, "--for") or timedelta(0),
            reason=reason,
        )
    _print(made, json_output=json_output)


@app.command("list")
def list_(
    context: typer.Context,
    gate: Gate,
    every: Annotated[bool, typer.Option("--all", help="Also those that have ended, for 90 days.")] = False,
    json_output: Json = False,
) -> None:
    """List a gate's exceptions that are in force, and how often they were used."""
    options = options_of(context)
    with options.client() as client:
        found = [
            one
            for one in client.list_gate_exceptions(gate_name(options, gate))
            if every or enum_name(one, "state") == "ACTIVE"
        ]
    if json_output:
        print_json([_document(one) for one in found])
        return
    rows = [
        (
            short_name(one.name),
            Coloured(enum_name(one, "state"), _COLOURS.get(enum_name(one, "state"), "yellow")),
            one.digest or one.pattern,
            one.environment or "all",
            time_of(one, "expire_time"),
            one.uses,
            one.reason,
        )
        for one in found
    ]
    print_table(("EXCEPTION", "STATE", "ARTIFACT", "ENVIRONMENT", "UNTIL", "USES", "REASON"), rows)


@app.command()
def revoke(
    context: typer.Context,
    gate: Gate,
    exception: Annotated[str, typer.Argument(help="Its id, or its full name.")],
    json_output: Json = False,
) -> None:
    """End an exception at once."""
    options = options_of(context)
    name = exception if "/exceptions/" in exception else f"{gate_name(options, gate)}/exceptions/{exception}"
    with options.client() as client:
        ended = client.revoke_gate_exception(name)
    _print(ended, json_output=json_output)


def _print(one: gate_pb2.GateException, *, json_output: bool) -> None:
    if json_output:
        print_json(_document(one))
        return
    print_text(f"{printable(one.name)} is {enum_name(one, 'state')}")
    where = f"in {printable(one.environment)}" if one.environment else "everywhere"
    print_text(f"  lets {printable(one.digest or one.pattern)} run {where} until {time_of(one, 'expire_time')}")
    print_text(f"  asked for by {printable(one.created_by)}: {printable(one.reason)}")
    if one.proposal:
        print_text(f"  approved: sealkeeper approvals show {printable(short_name(one.proposal))}")
    if one.revoked_by:
        print_text(f"  ended {time_of(one, 'revoke_time')} by {printable(one.revoked_by)}")


def _document(one: gate_pb2.GateException) -> dict[str, Any]:
    return {
        "name": one.name,
        "state": enum_name(one, "state"),
        "digest": one.digest or None,
        "pattern": one.pattern or None,
        "environment": one.environment or None,
        "reason": one.reason,
        "createdBy": one.created_by,
        "proposal": one.proposal or None,
        "createTime": one.create_time.ToJsonString(),
        "expireTime": one.expire_time.ToJsonString(),
        "revokeTime": one.revoke_time.ToJsonString() if one.HasField("revoke_time") else None,
        "revokedBy": one.revoked_by or None,
        "uses": one.uses,
    }
