"""``sealkeeper keys import``: bring a private key of your own into a key store, wrapped where nobody else is."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealkeeper.client.cli.input_files import read_public_key
from sealkeeper.client.cli.options import EXIT_CODES, Json, PublishPeriod, options_of
from sealkeeper.client.cli.output import print_json, print_table, print_text, printable
from sealkeeper.client.cli.output_file import STDOUT, OutputFile
from sealkeeper.client.cli.resources import (
    enum_name,
    enum_names,
    key_document,
    made_text,
    short_name,
    time_of,
    time_text,
    version_document,
    where,
)
from sealkeeper.client.cli.values import algorithms, labels, period
from sealkeeper.client.cli.wrapping import WrappedKey, read_wrapped_key, wrap, wrapping
from sealkeeper.client.errors import ClientError, FieldViolation, RefusedError

if TYPE_CHECKING:
    from sealkeeper.client.client import Client
    from sealkeeper.v1 import key_import_pb2

app = typer.Typer(no_args_is_help=True, help="Bring a private key of your own.", epilog=EXIT_CODES)
Import = Annotated[str, typer.Argument(metavar="NAME", help="As begin names it: the last part is enough.")]
_ROOM = 256 * 1024


@app.command()
def begin(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help="NAME of the key that gets it; there may be one or not.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Import document to write, for wrapping.")],
    algorithm: Annotated[
        str,
        typer.Option(
            help="As in Sigstore's PublicKeyDetails [default: that of the key, if there is one]",
            autocompletion=algorithms,
        ),
    ] = "",
    provider: Annotated[
        str, typer.Option(help="Where the key is to live [default: as the key, or the gateway's]")
    ] = "",
    standby: Annotated[
        bool, typer.Option("--standby", help="It is to stand by a key that there is: name the --provider.")
    ] = False,
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of a new key; may be repeated.")] = None,
    offline_tool: Annotated[
        Path | None,
        typer.Option(help="Also write one Python file that wraps on a machine without Sealkeeper: wrap.py."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Have the store offer a key to wrap yours under. Nothing is made that signs."""
    from sealkeeper.client.key_wrapping import standalone

    options, given = options_of(context), labels(label)
    if standby and not provider:
        raise typer.BadParameter("must be named for a key that is to stand by", param_hint="--provider")
    full = options.key_name(key)
    parent, _, key_id = full.partition("/keys/")
    with OutputFile(output, room=_ROOM) as place, _optional_file(offline_tool) as tool:
        with options.client() as client:
            begun = client.begin_key_import(
                parent, key_id, algorithm=algorithm, provider=provider, standby=standby, labels=given
            )
        with wrapping(f"what came cannot be used: sealkeeper keys import cancel {short_name(begun.name)}"):
            data = _import_document(begun)
            if tool is not None:
                tool.write(standalone(data).encode())
        place.write(data)
    # Standard output holds the one document already.
    if str(output) == STDOUT:
        return
    if json_output:
        print_json(_document(begun))
    else:
        _print_begun(begun, output, offline_tool)


@contextmanager
def _optional_file(path: Path | None) -> Iterator[OutputFile | None]:
    if path is None:
        yield None
        return
    with OutputFile(path, "--offline-tool", room=_ROOM) as file:
        yield file


def _print_begun(begun: key_import_pb2.KeyImport, output: Path, tool: Path | None) -> None:
    from sealkeeper.client.key_wrapping import fingerprint, spoken

    into = printable(begun.provider)
    print_text(f"began {begun.name} of {begun.key} ({enum_name(begun, 'algorithm')}) into {into}")
    attested = "comes with an attestation" if begun.HasField("attestation") else "comes without an attestation"
    print_text(f"  wrapping key of the store ({attested}), SHA-256:")
    print_text(f"  {spoken(fingerprint(begun.wrapping_key))}")
    print_text(
        f"  next: carry {printable(tool or output)} to the machine that holds the private key, and wrap it there:"
    )
    if tool is not None:
        print_text(f"    python3 {printable(tool.name)} PRIVATE_KEY.pem -o wrapped.json")
    else:
        print_text(f"    sealkeeper keys import wrap {printable(output.name)} PRIVATE_KEY.pem -o wrapped.json")
    print_text("  and read the fingerprint above out to whoever does it, by telephone or in person")
    print_text(f"  then, before {time_text(begun.expire_time)}:")
    print_text("    sealkeeper keys import finish wrapped.json --public-key PUBLIC_KEY.pem")


def _import_document(begun: key_import_pb2.KeyImport) -> bytes:
    """The import as ``sealkeeper-key-import/1``, tried out.

    Raises:
        KeyWrappingError: what the gateway sent cannot be wrapped by.
    """
    from sealkeeper.client.key_wrapping import IMPORT_FORMAT, parse_import_document

    attestation = None
    if begun.HasField("attestation"):
        attestation = {
            "format": begun.attestation.format,
            "content": _base64(begun.attestation.content),
            "certificates": [_base64(one) for one in begun.attestation.certificates],
        }
    document = {
        "format": IMPORT_FORMAT,
        "name": begun.name,
        "key": begun.key,
        "algorithm": enum_name(begun, "algorithm"),
        "wrappingKey": _pem(begun.wrapping_key),
        "wrapMethods": enum_names(begun, "wrap_methods"),
        "expireTime": begun.expire_time.ToJsonString(),
        "attestation": attestation,
    }
    data = json.dumps(document, indent=1).encode() + b"\n"
    parse_import_document(data)
    return data


def _pem(spki: bytes) -> str:
    body = base64.encodebytes(spki).decode().replace("\n", "")
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join(("-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""))


app.command(epilog="Exit codes: 0 wrapped; 2 not wrapped.")(wrap)


@app.command()
def finish(
    context: typer.Context,
    wrapped: Annotated[Path, typer.Argument(metavar="WRAPPED", help="Wrapped key that wrap wrote.")],
    public_key: Annotated[
        Path, typer.Option(help="File with its public key, from another hand than the wrapped key: PEM or DER.")
    ],
    publish_period: PublishPeriod = None,
    json_output: Json = False,
) -> None:
    """Hand the wrapped key over: the store unwraps it, proves that it is yours, and can sign with it."""
    announced = period(publish_period, "--publish-period")
    document = read_wrapped_key(wrapped)
    _require_same(document.public_key, read_public_key(public_key, "--public-key"))
    with options_of(context).client() as client:
        _require_meant(client, document)
        made = client.finish_key_import(
            document.name, document.method, document.wrapped_key, document.public_key, publish_period=announced
        )
        index = _record_index(client, made.version.name)
    if json_output:
        key, version = key_document(made.key), version_document(made.version)
        print_json({"key": key, "version": version, "ceremonyLogIndex": index})
        return
    print_text(made_text(made.version))
    print_text(f"  {where(made.version)}; the store has proved by a signature that it holds the private key")
    entry = f"entry {index} of logs/audit" if index is not None else "in logs/audit"
    name = printable(short_name(made.version.name))
    print_text(f"  its ceremony record is {entry}: sealkeeper keys ceremony {name}")
    print_text("  verifiers need it with their next: sealkeeper trust export")


def _record_index(client: Client, version: str) -> int | None:
    """Where the ceremony record is; ``None`` where that cannot be found out just now: the key is there all the same."""
    try:
        return client.get_key_ceremony(version).log_index
    except ClientError:
        return None


def _require_same(wrapped: bytes, given: bytes) -> None:
    from sealkeeper.client.key_wrapping import fingerprint, spoken

    if wrapped != given:
        raise RefusedError(
            f"the public key that was given is {spoken(fingerprint(given))}, and that of the wrapped key is "
            f"{spoken(fingerprint(wrapped))}: nothing was sent",
            reason="PUBLIC_KEY_MISMATCH",
            next_step="find out whose key was wrapped before you go on: it may not be yours",
            violations=[FieldViolation("--public-key", "is not that of the wrapped key")],
        )


def _require_meant(client: Client, document: WrappedKey) -> None:
    # Stores wrap under one key for many imports: what was wrapped for one could be unwrapped for another.
    meant = client.get_key_import(document.name).key
    if meant != document.key:
        raise RefusedError(
            f"the key was wrapped for {document.key}, and {document.name} is of {meant}: nothing was sent",
            reason="IMPORT_OF_ANOTHER_KEY",
            next_step="give the file that was wrapped for this import: sealkeeper keys import show",
        )


@app.command("list")
def list_(context: typer.Context, json_output: Json = False) -> None:
    """List your tenant's imports; closed ones for 30 days."""
    options = options_of(context)
    with options.client() as client:
        found = list(client.list_key_imports(options.parent()))
    if json_output:
        print_json([_document(one) for one in found])
        return
    rows = [
        (
            short_name(one.name),
            enum_name(one, "state"),
            short_name(one.key),
            enum_name(one, "algorithm"),
            one.provider,
            time_of(one, "expire_time"),
            short_name(one.key_version) if one.key_version else "",
        )
        for one in found
    ]
    print_table(("IMPORT", "STATE", "KEY", "ALGORITHM", "PROVIDER", "UNTIL", "MADE"), rows)


@app.command()
def show(context: typer.Context, name: Import, json_output: Json = False) -> None:
    """Show an import."""
    from sealkeeper.client.key_wrapping import fingerprint, spoken

    options = options_of(context)
    with options.client() as client:
        found = client.get_key_import(options.import_name(name))
    if json_output:
        print_json(_document(found))
        return
    print_text(f"{printable(found.name)}  {enum_name(found, 'state')}")
    print_text(
        f"  {printable(found.key)} ({enum_name(found, 'algorithm')})" + (", to stand by" if found.standby else "")
    )
    print_text(f"  into {printable(found.provider)}" + (f", {printable(found.region)}" if found.region else ""))
    print_text(f"  begun {time_of(found, 'create_time')}, can be finished until {time_of(found, 'expire_time')}")
    print_text(f"  by {', '.join(enum_names(found, 'wrap_methods'))}")
    if found.wrapping_key:
        print_text(f"  wrapping key, SHA-256: {spoken(fingerprint(found.wrapping_key))}")
    if found.HasField("attestation"):
        print_text(f"  attested: {printable(found.attestation.format)}, {len(found.attestation.content)} bytes")
    if found.key_version:
        print_text(f"  made {printable(found.key_version)}")


@app.command()
def cancel(context: typer.Context, name: Import, json_output: Json = False) -> None:
    """Give an import up; what it left in the store is removed."""
    options = options_of(context)
    with options.client() as client:
        found = client.cancel_key_import(options.import_name(name))
    if json_output:
        print_json(_document(found))
    else:
        print_text(f"{printable(found.name)} is {enum_name(found, 'state')}")


def _document(one: key_import_pb2.KeyImport) -> dict[str, Any]:
    from sealkeeper.client.key_wrapping import fingerprint

    return {
        "name": one.name,
        "state": enum_name(one, "state"),
        "key": one.key,
        "algorithm": enum_name(one, "algorithm"),
        "provider": one.provider,
        "region": one.region or None,
        "standby": one.standby,
        "wrappingKeyFingerprint": fingerprint(one.wrapping_key) if one.wrapping_key else None,
        "wrapMethods": enum_names(one, "wrap_methods"),
        "attested": one.HasField("attestation"),
        "createTime": one.create_time.ToDatetime(UTC).isoformat(),
        "expireTime": one.expire_time.ToDatetime(UTC).isoformat(),
        "keyVersion": one.key_version or None,
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
