"""``sealkeeper providers``: the key stores, what they can do, and how they are."""

from __future__ import annotations

import re
from datetime import UTC
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealkeeper.client.cli.options import EXIT_CODES, Json, options_of
from sealkeeper.client.cli.output import Coloured, print_json, print_table
from sealkeeper.client.cli.resources import enum_name, enum_names, known_name, short_name, time_of

if TYPE_CHECKING:
    from sealkeeper.v1 import provider_pb2

app = typer.Typer(no_args_is_help=True, help="Key stores: where, what, and how they are.", epilog=EXIT_CODES)
_COLOURS = {"CLOSED": "green", "HALF_OPEN": "yellow", "OPEN": "red"}
_HASH = re.compile(r"_SHA_?\d+$")


@app.command("list")
def list_(context: typer.Context, json_output: Json = False) -> None:
    """List the providers that your tenant may use."""
    options = options_of(context)
    with options.client() as client:
        found = client.list_providers(options.parent())
    if json_output:
        print_json([_document(one) for one in found])
        return
    headings = ("PROVIDER", "KIND", "REGION", "PROTECTION", "CIRCUIT", "LATENCY", "ERRORS", "LAST SUCCESS")
    rows = [
        (
            short_name(one.name),
            one.scheme or "not reached yet",
            one.region,
            known_name(one, "protection_level") or "",
            _circuit(one.health),
            _latency(one.health),
            f"{one.health.error_rate:.0%}",
            time_of(one.health, "last_success_time"),
            " ".join(_HASH.sub("", name.removeprefix("PKIX_")) for name in enum_names(one, "algorithms")),
            " ".join(enum_names(one, "wrap_methods")) or "none",
        )
        for one in found
    ]
    print_table((*headings, "ALGORITHMS", "IMPORT BY"), rows)


@app.command()
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="NAME, or tenants/T/providers/NAME.")],
    json_output: Json = False,
) -> None:
    """Show a provider: what it can do, and how it has been answering."""
    options = options_of(context)
    with options.client() as client:
        found = client.get_provider(options.provider_name(name))
    if json_output:
        print_json(_document(found))
        return
    health = found.health
    rows: list[tuple[str, object]] = [
        ("name", found.name),
        ("kind", found.scheme or "not reached yet"),
        ("description", found.description),
        ("region", found.region or "not known"),
        ("protection", known_name(found, "protection_level") or "not known"),
        ("circuit", _circuit(health)),
        ("latency", _latency(health) or "not known"),
        ("error rate", f"{health.error_rate:.1%}"),
        ("last success", time_of(health, "last_success_time") or "never"),
        *(("last error", health.last_error) for _ in range(bool(health.last_error))),
        *(("tried again", time_of(health, "retry_time")) for _ in range(health.HasField("retry_time"))),
        *(("algorithm", one) for one in enum_names(found, "algorithms")),
        *(("import by", one) for one in enum_names(found, "wrap_methods") or ["no method: keys cannot be brought"]),
    ]
    print_table(("WHAT", ""), rows)


def _circuit(health: provider_pb2.ProviderHealth) -> Coloured:
    state = enum_name(health, "circuit")
    return Coloured(state, _COLOURS.get(state, ""))


def _latency(health: provider_pb2.ProviderHealth) -> str:
    return f"{health.latency.ToTimedelta().total_seconds() * 1e3:.1f} ms" if health.HasField("latency") else ""


def _document(one: provider_pb2.Provider) -> dict[str, Any]:
    health = one.health
    success, retry = (
        getattr(health, name).ToDatetime(UTC).isoformat() if health.HasField(name) else None
        for name in ("last_success_time", "retry_time")
    )
    return {
        "name": one.name,
        "scheme": one.scheme or None,
        "description": one.description,
        "protectionLevel": known_name(one, "protection_level"),
        "region": one.region or None,
        "algorithms": enum_names(one, "algorithms"),
        "wrapMethods": enum_names(one, "wrap_methods"),
        "health": {
            "circuit": enum_name(health, "circuit"),
            "latencySeconds": health.latency.ToTimedelta().total_seconds() if health.HasField("latency") else None,
            "errorRate": health.error_rate,
            "lastSuccessTime": success,
            "lastError": health.last_error or None,
            "retryTime": retry,
        },
    }
