"""``sealkeeper whoami``: who the caller is to the gateway, what it may do, and by which policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealkeeper.client.cli.options import Json, options_of
from sealkeeper.client.cli.output import Coloured, print_json, print_table, print_text, printable
from sealkeeper.client.cli.resources import known_name, time_text

if TYPE_CHECKING:
    from sealkeeper.v1 import identity_pb2


def whoami(
    context: typer.Context,
    key: Annotated[
        str, typer.Option("--key", help="What you may do with this key: NAME, or tenants/T/keys/NAME.")
    ] = "",
    json_output: Json = False,
) -> None:
    """Show who you are to the gateway, and what you may do; with --key, what you may do with that key."""
    from sealkeeper.client.identity_operations import who_am_i

    options = options_of(context)
    with options.client() as client:
        found = client.call(who_am_i(options.key_name(key) if key else ""))
    if json_output:
        print_json(_document(found))
        return
    lines = _lines(found.principal)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print_text(f"{printable(name):{width}}  {printable(value)}")
    print_text()
    print_table(("ACTION", "ALLOWED", "APPROVALS", "POLICIES"), [_row(one) for one in found.permissions])
    print_text()
    print_text(f"by version {found.policy_version} of the tenant's policy" + ("" if key else ", for any of its keys"))


def _lines(one: identity_pb2.Principal) -> list[tuple[str, str]]:
    facts = [
        ("subject", one.subject),
        ("tenant", one.tenant),
        ("role", one.role),
        ("by", (known_name(one, "method") or "").lower()),
        ("person", one.person),
        ("issuer", one.issuer),
        ("key", "in hardware" if one.hardware else ""),
        ("acr", one.acr),
        ("amr", ", ".join(one.amr)),
        ("until", time_text(one.expire_time) if one.HasField("expire_time") else ""),
        *(sorted(one.attributes.items())),
    ]
    return [(name, value) for name, value in facts if value] or [("subject", "")]


def _row(one: identity_pb2.Permission) -> tuple[object, ...]:
    allowed = Coloured("yes", "green") if one.allowed else Coloured("no", "red")
    return one.action, allowed, str(one.approvals or ""), ", ".join(one.policies) or "no policy allows it"


def _document(found: identity_pb2.WhoAmIResponse) -> dict[str, Any]:
    one = found.principal
    return {
        "principal": {
            "tenant": one.tenant,
            "subject": one.subject,
            "role": one.role,
            "method": known_name(one, "method"),
            "person": one.person or None,
            "issuer": one.issuer or None,
            "attributes": dict(one.attributes),
            "hardware": one.hardware,
            "acr": one.acr or None,
            "amr": list(one.amr),
            "expireTime": one.expire_time.ToJsonString() if one.HasField("expire_time") else None,
        },
        "permissions": [
            {
                "action": each.action,
                "allowed": each.allowed,
                "policies": list(each.policies),
                "approvals": each.approvals,
            }
            for each in found.permissions
        ],
        "policyVersion": found.policy_version,
    }
