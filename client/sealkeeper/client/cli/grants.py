"""``sealkeeper grants`` and ``sealkeeper break-glass``: permissions of single callers that end by themselves."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from sealkeeper.client.cli.options import EXIT_CODES, Json, Key, Options, options_of
from sealkeeper.client.cli.output import Coloured, print_json, print_table, print_text, printable
from sealkeeper.client.cli.resources import enum_name, short_name, time_of
from sealkeeper.client.cli.values import period

if TYPE_CHECKING:
    from sealkeeper.v1 import grant_pb2

app = typer.Typer(no_args_is_help=True, help="Permissions of single callers that end by themselves.", epilog=EXIT_CODES)
Grant: TypeAlias = Annotated[str, typer.Argument(help="Its id, or tenants/T/grants/ID.")]
Reason: TypeAlias = Annotated[str, typer.Option(help="Why; it is in the audit log, and approvers see it.")]
_USES = ("Sign", "Attest", "Verify", "GetKey", "GetPublicKey")
_EMERGENCIES = (
    *("Sign", "CreateKey", "RotateKey", "ImportKey", "SetKeyVersionState", "CompromiseKeyVersion"),
    *("GetKey", "ListKeys", "ReadAuditLog"),
)
_COLOURS = {"ACTIVE": "green", "REVOKED": "red"}


@app.command()
def create(
    context: typer.Context,
    key: Key,
    subject: Annotated[str, typer.Option(help="Who may: a SPIFFE ID, or ISSUER#SUB of a token.")],
    lifetime: Annotated[str, typer.Option("--for", metavar="PERIOD", help="For how long: 1m to 90d.")],
    reason: Reason,
    action: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ACTION",
            help=f"{', '.join(_USES)}; may be repeated [default: Sign]",
            autocompletion=lambda incomplete: _starting(_USES, incomplete),
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Give a workload permission to use a key for a time."""
    from sealkeeper.client.grant_operations import create_grant

    options, chosen = options_of(context), _chosen(action, _USES)
    wanted, name = _lifetime(lifetime), options.key_name(key)
    parent = name.partition("/keys/")[0]
    with options.client() as client:
        made = client.call(create_grant(parent, subject, name, lifetime=wanted, reason=reason, actions=chosen))
    _print(made, json_output=json_output)


@app.command("list")
def list_(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Also those that have ended, for 30 days.")] = False,
    json_output: Json = False,
) -> None:
    """List your tenant's grants that are in force."""
    options = options_of(context)
    found = [one for one in _listed(options) if every or enum_name(one, "state") == "ACTIVE"]
    if json_output:
        print_json([_document(one) for one in found])
        return
    rows = [
        (
            short_name(one.name),
            Coloured(enum_name(one, "state"), _COLOURS.get(enum_name(one, "state"), "yellow")),
            one.subject,
            short_name(one.resource) if "/keys/" in one.resource else "all keys",
            ", ".join(one.actions),
            time_of(one, "expire_time"),
            "break-glass" if one.break_glass else "",
        )
        for one in found
    ]
    print_table(("GRANT", "STATE", "SUBJECT", "KEY", "ACTIONS", "UNTIL", ""), rows)


@app.command()
def show(context: typer.Context, name: Grant, json_output: Json = False) -> None:
    """Show a grant."""
    from sealkeeper.client.grant_operations import get_grant

    options = options_of(context)
    with options.client() as client:
        found = client.call(get_grant(_full_name(options, name)))
    _print(found, json_output=json_output)


@app.command()
def revoke(context: typer.Context, name: Grant, json_output: Json = False) -> None:
    """End a grant at once."""
    from sealkeeper.client.grant_operations import revoke_grant

    options = options_of(context)
    with options.client() as client:
        ended = client.call(revoke_grant(_full_name(options, name)))
    _print(ended, json_output=json_output)


def break_glass(
    context: typer.Context,
    lifetime: Annotated[str, typer.Option("--for", metavar="PERIOD", help="For how long: 1m to 4h.")],
    reason: Annotated[str, typer.Option(help="What has happened; everybody who is told of it sees it.")],
    action: Annotated[
        list[str],
        typer.Option(
            metavar="ACTION",
            help=f"{', '.join(_EMERGENCIES)}; may be repeated.",
            autocompletion=lambda incomplete: _starting(_EMERGENCIES, incomplete),
        ),
    ],
    key: Annotated[str | None, typer.Argument(help="NAME in your tenant, or tenants/T/keys/NAME.")] = None,
    tenant_wide: Annotated[bool, typer.Option("--tenant-wide", help="For all keys of your tenant.")] = False,
    json_output: Json = False,
) -> None:
    """Do in an emergency what your role may not. Another person approves first, and people are alerted."""
    from sealkeeper.client.grant_operations import break_glass as operation

    if (key is None) is not tenant_wide:
        raise typer.BadParameter("give a key, or --tenant-wide, and not both", param_hint="KEY")
    options, chosen = options_of(context), _chosen(action, _EMERGENCIES)
    resource, wanted = options.key_name(key) if key is not None else options.parent(), _lifetime(lifetime)
    with options.client() as client:
        made = client.call(operation(resource, chosen, lifetime=wanted, reason=reason))
    _print(made, json_output=json_output)


def _starting(known: tuple[str, ...], incomplete: str) -> list[str]:
    return [one for one in known if one.lower().startswith(incomplete.lower())]


def _chosen(actions: list[str] | None, known: tuple[str, ...]) -> list[str]:
    """Actions as the contract writes them, however they were written."""
    names = {one.lower(): one for one in known}
    for one in actions or ():
        if one.lower() not in names:
            raise typer.BadParameter(f"must be one of {', '.join(known)}", param_hint="--action")
    return [names[one.lower()] for one in actions or ()]


def _lifetime(text: str) -> timedelta:
    return period(text, "--for") or timedelta(0)


def _full_name(options: Options, name: str) -> str:
    return name if "/grants/" in name else f"{options.parent()}/grants/{name}"


def _listed(options: Options) -> list[grant_pb2.Grant]:
    from sealkeeper.client.grant_operations import list_grants

    with options.client() as client:
        return [one for page in client.pages(partial(list_grants, options.parent())) for one in page.grants]


def _print(grant: grant_pb2.Grant, *, json_output: bool) -> None:
    if json_output:
        print_json(_document(grant))
        return
    what = ", a break-glass" if grant.break_glass else ""
    print_text(f"{printable(grant.name)} is {enum_name(grant, 'state')}{what}")
    print_text(f"  {printable(grant.subject)} may {printable(', '.join(grant.actions))} on {printable(grant.resource)}")
    print_text(f"  from {time_of(grant, 'create_time')} until {time_of(grant, 'expire_time')}")
    print_text(f"  asked for by {printable(grant.created_by)}: {printable(grant.reason)}")
    if grant.proposal:
        print_text(f"  approved: sealkeeper approvals show {printable(short_name(grant.proposal))}")
    if grant.revoked_by:
        print_text(f"  ended {time_of(grant, 'revoke_time')} by {printable(grant.revoked_by)}")


def _document(grant: grant_pb2.Grant) -> dict[str, Any]:
    return {
        "name": grant.name,
        "state": enum_name(grant, "state"),
        "subject": grant.subject,
        "resource": grant.resource,
        "actions": list(grant.actions),
        "reason": grant.reason,
        "breakGlass": grant.break_glass,
        "createdBy": grant.created_by,
        "proposal": grant.proposal or None,
        "createTime": grant.create_time.ToJsonString(),
        "expireTime": grant.expire_time.ToJsonString(),
        "revokeTime": grant.revoke_time.ToJsonString() if grant.HasField("revoke_time") else None,
        "revokedBy": grant.revoked_by or None,
    }
