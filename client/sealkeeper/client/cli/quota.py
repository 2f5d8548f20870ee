"""``sealkeeper quota``: how much your tenant, and each of its callers, may ask for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from sealkeeper.client.cli.options import EXIT_CODES, Json, options_of
from sealkeeper.client.cli.output import print_json, print_table, print_text, printable

if TYPE_CHECKING:
    from sealkeeper.client.quota_operations import RateLimit
    from sealkeeper.v1 import quota_pb2

app = typer.Typer(no_args_is_help=True, help="Quotas: limits of your tenant and its callers.", epilog=EXIT_CODES)
_RATE = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,9})?)/s:([0-9]{1,8})")
_ROWS = (
    ("tenant_calls", "calls, all callers"),
    ("principal_calls", "calls, each caller"),
    ("tenant_signatures", "signatures, all callers"),
    ("principal_signatures", "signatures, each caller"),
)
_Rate: TypeAlias = Annotated[
    str | None, typer.Option(metavar="N/s:BURST", help="So many a second, and so many at once, for example 100/s:200.")
]


@app.command()
def show(context: typer.Context, json_output: Json = False) -> None:
    """Show the limits, how far they can be raised, and what is used of them."""
    from sealkeeper.client.quota_operations import get_quota

    options = options_of(context)
    operation = get_quota(options.parent())
    with options.client() as client:
        found = client.call(operation)
    _print(found, as_json=json_output)


@app.command("set")
def set_(
    context: typer.Context,
    tenant_calls: _Rate = None,
    tenant_signatures: _Rate = None,
    principal_calls: _Rate = None,
    principal_signatures: _Rate = None,
    keys: Annotated[int | None, typer.Option(help="Keys that your tenant may have.", min=0)] = None,
    reason: Annotated[str, typer.Option(help="Why, for those who approve.")] = "",
    json_output: Json = False,
) -> None:
    """Set limits: lower ones hold at once, higher ones when others have approved. Those not named stay."""
    from sealkeeper.client.quota_operations import update_quota

    given = {
        "tenant_calls": rate(tenant_calls, "--tenant-calls"),
        "tenant_signatures": rate(tenant_signatures, "--tenant-signatures"),
        "principal_calls": rate(principal_calls, "--principal-calls"),
        "principal_signatures": rate(principal_signatures, "--principal-signatures"),
    }
    if keys is None and not any(given.values()):
        raise typer.BadParameter("name at least one limit, for example --tenant-calls 100/s:200")
    options = options_of(context)
    operation = update_quota(options.parent(), **given, keys=keys, reason=reason)
    with options.client() as client:
        found = client.call(operation)
    _print(found, as_json=json_output)


def rate(text: str | None, option: str) -> RateLimit | None:
    """A rate with its burst, ``100/s:200``.

    Raises:
        typer.BadParameter: it is none.
    """
    from sealkeeper.client.quota_operations import RateLimit

    if text is None:
        return None
    match = _RATE.fullmatch(text)
    if match is None:
        raise typer.BadParameter("must be N/s:BURST, for example 100/s:200 or 0.5/s:10", param_hint=option)
    return RateLimit(float(match[1]), int(match[2]))


def _print(quota: quota_pb2.Quota, *, as_json: bool) -> None:
    if as_json:
        print_json(_document(quota))
        return
    print_text(printable(quota.name))
    available = {"tenant_calls": quota.calls_available, "tenant_signatures": quota.signatures_available}
    rows = [
        (title, _text(getattr(quota.limits, name)), _text(getattr(quota.ceilings, name)), available.get(name, ""))
        for name, title in _ROWS
    ]
    left = max(0, quota.limits.keys - quota.keys_used)
    print_table(
        ("LIMIT OF", "HOLDS", "AT MOST", "LEFT NOW"), [*rows, ("keys", quota.limits.keys, quota.ceilings.keys, left)]
    )
    print_text(f"refused since the gateway was started: {quota.refused}")


def _text(limit: quota_pb2.Rate) -> str:
    return f"{_number(limit.per_second)}/s:{limit.burst}"


def _number(value: float) -> str:
    return f"{value:.9f}".rstrip("0").rstrip(".")


def _document(quota: quota_pb2.Quota) -> dict[str, Any]:
    return {
        "name": quota.name,
        "limits": _limits_document(quota.limits),
        "ceilings": _limits_document(quota.ceilings),
        "keysUsed": quota.keys_used,
        "callsAvailable": quota.calls_available,
        "signaturesAvailable": quota.signatures_available,
        "refused": quota.refused,
    }


def _limits_document(limits: quota_pb2.Limits) -> dict[str, Any]:
    rates = {name: getattr(limits, name) for name, _ in _ROWS}
    return {
        **{_camel(name): {"perSecond": one.per_second, "burst": one.burst} for name, one in rates.items()},
        "keys": limits.keys,
    }


def _camel(name: str) -> str:
    first, _, second = name.partition("_")
    return first + second.capitalize()
