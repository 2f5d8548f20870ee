"""``sealkeeper keys``: create, look at, rotate, change state."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealkeeper.client.cli.options import EXIT_CODES, Json, options_of
from sealkeeper.client.cli.output import print_json, print_table, print_text, printable
from sealkeeper.client.cli.output_file import STDOUT, OutputFile

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from sealkeeper.v1 import resources_pb2

app = typer.Typer(no_args_is_help=True, help="Keys and their versions.", epilog=EXIT_CODES)
Key = Annotated[str, typer.Argument(help="NAME in your tenant, or tenants/T/keys/NAME.")]
Version = Annotated[str, typer.Argument(help="NAME/NUMBER, or tenants/T/keys/NAME/versions/NUMBER.")]
_PERIOD = re.compile(r"(\d{1,9})(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DESTRUCTIVE = {"DISABLED", "COMPROMISED", "DESTROY_SCHEDULED"}
_STATES = ("ACTIVE", "VERIFY_ONLY", "DISABLED", "COMPROMISED", "DESTROY_SCHEDULED")


def _states(incomplete: str) -> list[str]:
    return [one for one in _STATES if one.startswith(incomplete.upper().replace("-", "_"))]


def _algorithms(incomplete: str) -> list[str]:
    from sealkeeper.verify.algorithms import ALGORITHMS

    return [one for one in ALGORITHMS if one.startswith(incomplete.upper())]


def _period(text: str | None, option: str) -> timedelta | None:
    if text is None:
        return None
    match = _PERIOD.fullmatch(text)
    if match is None:
        raise typer.BadParameter("must be a number with s, m, h or d, for example 24h", param_hint=option)
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _moment(text: str | None, option: str) -> datetime | None:
    """An instant of RFC 3339, in UTC where it names no zone."""
    if text is None:
        return None
    try:
        # A bare number is refused: a date to Python, seconds since 1970 to others.
        moment = datetime.fromisoformat(text) if "-" in text and ":" in text else None
    except ValueError:
        moment = None
    if moment is None:
        raise typer.BadParameter("must be a time, for example 2026-11-24T22:00:00+02:00", param_hint=option)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="NAME of the new key: a-z, 0-9 and -.")],
    algorithm: Annotated[
        str, typer.Option(help="As in Sigstore's PublicKeyDetails.", autocompletion=_algorithms)
    ] = "PKIX_ECDSA_P256_SHA_256",
    provider: Annotated[str, typer.Option(help="Where it is to live [default: the gateway's]")] = "",
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    json_output: Json = False,
) -> None:
    """Make a key; its first version signs at once."""
    options = options_of(context)
    labels = dict(_label(one) for one in label or ())
    with options.client() as client:
        made = client.create_key(options.parent(), name, algorithm, provider=provider, labels=labels)
    if json_output:
        print_json({"key": _key(made.key), "version": _version(made.version)})
        return
    print_text(f"made {made.key.name} ({algorithm})")
    print_text(f"  {made.version.name} is ACTIVE, {_where(made.version)}")


def _label(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise typer.BadParameter("must be NAME=VALUE", param_hint="--label")
    return name, value


@app.command("list")
def list_(context: typer.Context, json_output: Json = False) -> None:
    """List your tenant's keys."""
    options = options_of(context)
    with options.client() as client:
        keys = list(client.list_keys(options.parent()))
    if json_output:
        print_json([_key(one) for one in keys])
        return
    rows = [
        (
            _short(one.name),
            _enum(one, "algorithm"),
            one.provider,
            _short(one.active_version) or "none",
            _time(one.create_time),
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
        print_json({"key": _key(found), "versions": [_version(one) for one in versions]})
        return
    print_text(f"{found.name}  {_enum(found, 'algorithm')}  provider {found.provider}  etag {found.etag}")
    for label, value in sorted(found.labels.items()):
        print_text(f"  {printable(label)} = {printable(value)}")
    _print_versions(versions)


@app.command()
def versions(context: typer.Context, key: Key, json_output: Json = False) -> None:
    """List a key's versions, newest first."""
    options = options_of(context)
    with options.client() as client:
        found = list(client.list_key_versions(options.key_name(key)))
    if json_output:
        print_json([_version(one) for one in found])
    else:
        _print_versions(found)


@app.command()
def rotate(
    context: typer.Context,
    key: Key,
    publish_period: Annotated[
        str | None,
        typer.Option(
            help="How long the new version is announced before it signs: 0s, 90m, 24h [default: the gateway's]"
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Make a new version; the one before goes on verifying."""
    options = options_of(context)
    period = _period(publish_period, "--publish-period")
    with options.client() as client:
        made = client.rotate_key(options.key_name(key), publish_period=period)
    if json_output:
        print_json({"key": _key(made.key), "version": _version(made.version)})
        return
    state = _enum(made.version, "state")
    when = "" if state == "ACTIVE" else f", signs from {_time(made.version.activate_time)} on"
    print_text(f"made {made.version.name}: {state}{when}")


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
    options, state = options_of(context), state.upper().replace("-", "_")
    if state not in _STATES:
        raise typer.BadParameter(f"must be one of {', '.join(_STATES)}", param_hint="STATE")
    name = options.key_name(version)
    moment, delay = _moment(compromise_time, "--compromise-time"), _period(destroy_delay, "--destroy-delay")
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
            compromise_time=moment,
            destroy_delay=delay,
            etag=etag,
        )
    if json_output:
        print_json(_version(moved))
        return
    print_text(f"{moved.name} is {_enum(moved, 'state')}")
    if moved.HasField("destroy_time"):
        print_text(f"  its private key will be destroyed at {_time(moved.destroy_time)}")
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
        document = {"keyVersion": found.key_version, "algorithm": _enum(found, "algorithm")}
        print_json({**document, "pem": found.pem, "hint": found.hint})


def _print_versions(found: list[resources_pb2.KeyVersion]) -> None:
    rows = [
        (
            one.name.rpartition("/")[2],
            _enum(one, "state"),
            _where(one),
            _time(one.activate_time) if one.HasField("activate_time") else "",
            _time(one.retire_time) if one.HasField("retire_time") else "",
            _last(one),
        )
        for one in found
    ]
    print_table(("VERSION", "STATE", "KEPT IN", "SIGNS FROM", "UNTIL", ""), rows)


def _last(version: resources_pb2.KeyVersion) -> str:
    if version.HasField("destroy_time"):
        return f"destruction {_time(version.destroy_time)}"
    return f"refused from {_time(version.compromise_time)}" if version.HasField("compromise_time") else ""


def _where(version: resources_pb2.KeyVersion) -> str:
    return f"{version.provider} ({_enum(version, 'protection_level')})"


def _enum(message: Any, field: str) -> str:
    kind = message.DESCRIPTOR.fields_by_name[field].enum_type
    name: str = kind.values_by_number[getattr(message, field)].name
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.name).upper() + "_"
    return name.removeprefix(prefix)


def _short(name: str) -> str:
    return name.partition("/keys/")[2].replace("/versions/", "/")


def _time(moment: Timestamp) -> str:
    return moment.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _key(key: resources_pb2.Key) -> dict[str, Any]:
    return {
        "name": key.name,
        "algorithm": _enum(key, "algorithm"),
        "provider": key.provider,
        "activeVersion": key.active_version or None,
        "labels": dict(key.labels),
        "createTime": key.create_time.ToJsonString(),
        "etag": key.etag,
    }


def _version(version: resources_pb2.KeyVersion) -> dict[str, Any]:
    times = ("create_time", "activate_time", "retire_time", "compromise_time", "destroy_time")
    document: dict[str, Any] = {
        "name": version.name,
        "state": _enum(version, "state"),
        "algorithm": _enum(version, "algorithm"),
        "provider": version.provider,
        "protectionLevel": _enum(version, "protection_level"),
        "hint": version.hint,
    }
    for field in times:
        if version.HasField(field):  # type: ignore[arg-type]  # names of the message's own fields
            camel = field.split("_")[0] + "Time"
            document[camel] = getattr(version, field).ToJsonString()
    return document
