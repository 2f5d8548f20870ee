"""``sealkeeper keys``: create, look at, rotate, change state, stand by."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sealkeeper.client.cli import key_imports
from sealkeeper.client.cli.key_ceremony import ceremony, evidence
from sealkeeper.client.cli.options import EXIT_CODES, Json, Key, PublishPeriod, Version, options_of
from sealkeeper.client.cli.output import print_json, print_table, print_text, printable
from sealkeeper.client.cli.output_file import STDOUT, OutputFile
from sealkeeper.client.cli.resources import (
    ceremony_hint,
    enum_name,
    key_document,
    known_name,
    made_text,
    print_versions,
    short_name,
    time_text,
    version_document,
    where,
)
from sealkeeper.client.cli.values import algorithms, labels, moment, one_of, period

app = typer.Typer(no_args_is_help=True, help="Keys and their versions.", epilog=EXIT_CODES)
_DESTRUCTIVE = {"DISABLED", "COMPROMISED", "DESTROY_SCHEDULED"}
_STATES = ("ACTIVE", "VERIFY_ONLY", "DISABLED", "COMPROMISED", "DESTROY_SCHEDULED")
_FAILOVERS = ("AUTOMATIC", "MANUAL")


def _states(incomplete: str) -> list[str]:
    return [one for one in _STATES if one.startswith(incomplete.upper().replace("-", "_"))]


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="NAME of the new key: a-z, 0-9 and -.")],
    algorithm: Annotated[
        str, typer.Option(help="As in Sigstore's PublicKeyDetails.", autocompletion=algorithms)
    ] = "PKIX_ECDSA_P256_SHA_256",
    provider: Annotated[str, typer.Option(help="Where it is to live [default: the gateway's]")] = "",
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    json_output: Json = False,
) -> None:
    """Make a key; its first version signs at once."""
    options = options_of(context)
    given = labels(label)
    with options.client() as client:
        made = client.create_key(options.parent(), name, algorithm, provider=provider, labels=given)
    if json_output:
        print_json({"key": key_document(made.key), "version": version_document(made.version)})
        return
    print_text(f"made {printable(made.key.name)} ({algorithm})")
    print_text(f"  {printable(made.version.name)} is ACTIVE, {where(made.version)}")
    print_text(f"  {ceremony_hint(made.version)}")


@app.command("list")
def list_(context: typer.Context, json_output: Json = False) -> None:
    """List your tenant's keys."""
    options = options_of(context)
    with options.client() as client:
        keys = list(client.list_keys(options.parent()))
    if json_output:
        print_json([key_document(one) for one in keys])
        return
    rows = [
        (
            short_name(one.name),
            enum_name(one, "algorithm"),
            one.provider,
            short_name(one.active_version) or "none",
            time_text(one.create_time),
        )
        for one in keys
    ]
    print_table(("KEY", "ALGORITHM", "PROVIDER", "ACTIVE", "MADE"), rows)


@app.command()
def show(context: typer.Context, key: Key, json_output: Json = False) -> None:
    """Show a key and its versions."""
    options = options_of(context)
    name = options.key_name(key)
    with options.client() as client:
        found, versions = client.get_key(name), list(client.list_key_versions(name))
    if json_output:
        print_json({"key": key_document(found), "versions": [version_document(one) for one in versions]})
        return
    provider, etag = printable(found.provider), printable(found.etag)
    print_text(f"{printable(found.name)}  {enum_name(found, 'algorithm')}  provider {provider}  etag {etag}")
    if found.standby_version:
        standby = printable(short_name(found.standby_version))
        print_text(f"  {standby} stands by, failover {known_name(found, 'failover') or 'none'}")
    for label, value in sorted(found.labels.items()):
        print_text(f"  {printable(label)} = {printable(value)}")
    print_versions(versions)


@app.command()
def versions(context: typer.Context, key: Key, json_output: Json = False) -> None:
    """List a key's versions, newest first."""
    options = options_of(context)
    with options.client() as client:
        found = list(client.list_key_versions(options.key_name(key)))
    if json_output:
        print_json([version_document(one) for one in found])
    else:
        print_versions(found)


@app.command()
def rotate(
    context: typer.Context,
    key: Key,
    publish_period: PublishPeriod = None,
    json_output: Json = False,
) -> None:
    """Make a new version; the one before goes on verifying."""
    options = options_of(context)
    announced = period(publish_period, "--publish-period")
    with options.client() as client:
        made = client.rotate_key(options.key_name(key), publish_period=announced)
    if json_output:
        print_json({"key": key_document(made.key), "version": version_document(made.version)})
        return
    print_text(made_text(made.version))
    print_text(f"  {ceremony_hint(made.version)}")


@app.command()
def standby(
    context: typer.Context,
    key: Key,
    provider: Annotated[str, typer.Option(help="Where it is to live: another provider than the key's.")],
    failover: Annotated[
        str,
        typer.Option(
            help="automatic: it signs by itself while the first provider does not answer; "
            "manual: only where the version itself is named.",
            autocompletion=lambda incomplete: [one.lower() for one in _FAILOVERS if one.startswith(incomplete.upper())],
        ),
    ] = "automatic",
    publish_period: PublishPeriod = None,
    json_output: Json = False,
) -> None:
    """Make a version in another provider that signs when the first one does not answer."""
    options, policy = options_of(context), one_of(failover, _FAILOVERS, "--failover")
    announced = period(publish_period, "--publish-period")
    with options.client() as client:
        made = client.add_standby_version(options.key_name(key), provider, failover=policy, publish_period=announced)
    if json_output:
        print_json({"key": key_document(made.key), "version": version_document(made.version)})
        return
    print_text(made_text(made.version))
    print_text(f"  {where(made.version)}, failover {policy.lower()}")
    print_text(f"  {ceremony_hint(made.version)}")
    print_text("  verifiers need it with their next: sealkeeper trust export")


@app.command("set-state")
def set_state(
    context: typer.Context,
    version: Version,
    state: Annotated[str, typer.Argument(help=f"One of {', '.join(_STATES)}.", autocompletion=_states)],
    compromise_time: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="With COMPROMISED: refuse what was signed from then on, as 2026-11-24T22:00:00+02:00; "
            "UTC where no zone is given [default: everything]",
        ),
    ] = None,
    destroy_delay: Annotated[
        str | None, typer.Option(help="With DESTROY_SCHEDULED: 24h, 30d [default: the gateway's minimum]")
    ] = None,
    etag: Annotated[str, typer.Option(help="Only if the key still has this etag.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_output: Json = False,
) -> None:
    """Move a version into another state."""
    options, state = options_of(context), one_of(state, _STATES, "STATE")
    name = options.key_name(version)
    since, delay = moment(compromise_time, "--compromise-time"), period(destroy_delay, "--destroy-delay")
    if state in _DESTRUCTIVE and not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter(
                f"is needed to make a version {state} where nobody can be asked", param_hint="--yes"
            )
        typer.confirm(f"Make {name} {state}? What it signed may stop verifying.", abort=True, err=True)
    with options.client() as client:
        moved = client.set_key_version_state(
            name,
            state,
            compromise_time=since,
            destroy_delay=delay,
            etag=etag,
        )
    if json_output:
        print_json(version_document(moved))
        return
    print_text(f"{printable(moved.name)} is {enum_name(moved, 'state')}")
    if moved.HasField("destroy_time"):
        print_text(f"  its private key will be destroyed at {time_text(moved.destroy_time)}")
    print_text("  verifiers see it with their next: sealkeeper trust export")


@app.command("public-key")
def public_key(
    context: typer.Context,
    key: Key,
    output: Annotated[Path, typer.Option("--output", "-o", help="PEM file to write.")] = Path(STDOUT),
    json_output: Json = False,
) -> None:
    """Print the public key of the ACTIVE version, or of a version, as PEM."""
    options = options_of(context)
    with OutputFile(output) as place, options.client() as client:
        found = client.public_key(options.key_name(key))
        if not json_output or str(output) != STDOUT:
            place.write(found.pem.encode())
    if json_output:
        document = {"keyVersion": found.key_version, "algorithm": enum_name(found, "algorithm")}
        print_json({**document, "pem": found.pem, "hint": found.hint})


app.add_typer(key_imports.app, name="import")
app.command()(evidence)
app.command()(ceremony)
