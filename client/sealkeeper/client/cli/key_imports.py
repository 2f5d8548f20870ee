"""``sealkeeper keys import``: bring a private key of your own into a key store, wrapped where nobody else is."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealkeeper.client.cli.input_files import public_key_of, read_limited, read_public_key
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
from sealkeeper.client.errors import USAGE, ClientError, FieldViolation, RefusedError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

    from sealkeeper.client.client import Client
    from sealkeeper.v1 import key_import_pb2

app = typer.Typer(no_args_is_help=True, help="Bring a private key of your own.", epilog=EXIT_CODES)
Import = Annotated[str, typer.Argument(metavar="NAME", help="As begin names it: the last part is enough.")]
_MAX_DOCUMENT = 256 * 1024
_MAX_PRIVATE_KEY = 64 * 1024
_MAX_PASSPHRASE = 4096
_MAX_PEM = 8192
_ROOM = 256 * 1024
_METHODS = ("RSA_OAEP_SHA256_AES_256_KWP", "RSA_OAEP_SHA256", "RSA_OAEP_SHA1_AES_256_KWP")


class NotWrappedError(ClientError):
    """The private key cannot be wrapped, or what is to be handed over is no wrapped key."""

    exit_code = USAGE
    reason = "KEY_NOT_WRAPPED"


def _methods(incomplete: str) -> list[str]:
    return [one for one in _METHODS if one.startswith(incomplete.upper().replace("-", "_"))]


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
        with _wrapping(f"what came cannot be used: sealkeeper keys import cancel {short_name(begun.name)}"):
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

    print_text(f"began {begun.name} of {begun.key} ({enum_name(begun, 'algorithm')}) into {begun.provider}")
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


@app.command(epilog="Exit codes: 0 wrapped; 2 not wrapped.")
def wrap(
    import_document: Annotated[Path, typer.Argument(metavar="IMPORT", help="Import document that begin wrote.")],
    private_key: Annotated[Path, typer.Argument(metavar="PRIVATE_KEY", help="Yours: PEM, or DER (PKCS#8).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Wrapped key to write, to be carried back.")],
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File with the passphrase of the private key; without it you are asked.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="To wrap by [default: the first of the import's that can be used]", autocompletion=_methods),
    ] = None,
    json_output: Json = False,
) -> None:
    """Wrap your private key for the store: offline, on a machine of your own."""
    from sealkeeper.client import key_wrapping

    with _wrapping("put right what is said there, or begin another import: sealkeeper keys import begin"):
        document = key_wrapping.parse_import_document(read_limited(import_document, _MAX_DOCUMENT, "IMPORT"))
        with OutputFile(output, inputs=(private_key, import_document)) as place:
            key = _private_key(private_key, passphrase_file)
            data = key_wrapping.wrap(document, key, method=method)
            place.write(data)
    # Standard output holds the one document already.
    if str(output) == STDOUT:
        return
    wrapped = json.loads(data)
    ours = key_wrapping.fingerprint(document.wrapping_key)
    if json_output:
        names = ("name", "key", "wrapMethod")
        shown = {name: wrapped[name] for name in names}
        print_json({**shown, "wrappingKeyFingerprint": ours, "publicKeyFingerprint": wrapped["fingerprint"]})
        return
    print_text(f"wrapped by {wrapped['wrapMethod']} for {document.key} ({document.algorithm}), {document.name}")
    print_text("  wrapping key of the store, SHA-256:")
    print_text(f"  {key_wrapping.spoken(ours)}")
    print_text("  public key of the private key that was wrapped, SHA-256:")
    print_text(f"  {key_wrapping.spoken(wrapped['fingerprint'])}")
    print_text("  next: have the first fingerprint read out to you from where the import was begun; if it differs,")
    print_text(f"  destroy {printable(output)}: somebody else could unwrap it")
    print_text(f"  then, with the public key from another hand, before {document.expire_time:%Y-%m-%d %H:%M:%SZ}:")
    print_text(f"    sealkeeper keys import finish {printable(output.name)} --public-key PUBLIC_KEY.pem")


def _private_key(path: Path, passphrase_file: Path | None) -> PrivateKeyTypes:
    from sealkeeper.client.key_wrapping import PassphraseNeededError, load_private_key

    data = read_limited(path, _MAX_PRIVATE_KEY, "PRIVATE_KEY")
    if passphrase_file is not None:
        return load_private_key(data, _passphrase(passphrase_file))
    try:
        return load_private_key(data)
    except PassphraseNeededError:
        if sys.stdin is None or not sys.stdin.isatty():
            raise typer.BadParameter(
                "is needed for an encrypted private key where nobody can be asked", param_hint="--passphrase-file"
            ) from None
    asked: str = typer.prompt("Passphrase of the private key", hide_input=True, err=True)
    return load_private_key(data, asked.encode())


def _passphrase(path: Path) -> bytes:
    data = read_limited(path, _MAX_PASSPHRASE, "--passphrase-file")
    if path.stat().st_mode & 0o007:
        raise typer.BadParameter(
            f"{printable(path)} is open to everybody on this machine: chmod 600", param_hint="--passphrase-file"
        )
    lines = data.splitlines()
    if len(lines) != 1 or not lines[0]:
        raise typer.BadParameter(f"{printable(path)} must hold one line", param_hint="--passphrase-file")
    return lines[0]


@contextmanager
def _wrapping(next_step: str) -> Iterator[None]:
    from sealkeeper.client.key_wrapping import KeyWrappingError

    try:
        yield
    except KeyWrappingError as error:
        raise NotWrappedError(str(error), next_step=next_step) from None


@dataclass(frozen=True, slots=True)
class _Wrapped:
    """A wrapped key document."""

    name: str
    key: str
    method: str
    wrapped_key: bytes
    public_key: bytes


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
    document = _wrapped_document(read_limited(wrapped, _MAX_DOCUMENT, "WRAPPED"))
    _require_same(document.public_key, read_public_key(public_key, "--public-key"))
    with options_of(context).client() as client:
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
    print_text(f"  its ceremony record is {entry}: sealkeeper keys ceremony {short_name(made.version.name)}")
    print_text("  verifiers need it with their next: sealkeeper trust export")


def _record_index(client: Client, version: str) -> int | None:
    """Where the ceremony record is; ``None`` where that cannot be found out just now: the key is there all the same."""
    try:
        return client.get_key_ceremony(version).log_index
    except ClientError:
        return None


def _wrapped_document(data: bytes) -> _Wrapped:
    """Read a ``sealkeeper-wrapped-key/1``.

    Raises:
        NotWrappedError: it is none.
    """
    from sealkeeper.verify.errors import VerifyError

    try:
        return _parsed(data)
    except VerifyError as error:
        raise NotWrappedError(
            f"this is no wrapped key: {error}",
            next_step="give the file that sealkeeper keys import wrap wrote, whole; nothing was sent",
        ) from None


def _parsed(data: bytes) -> _Wrapped:
    from sealkeeper.client.key_wrapping import WRAPPED_FORMAT, fingerprint
    from sealkeeper.verify.strict_json import JsonError, Value

    names = {"format", "name", "key", "wrapMethod", "wrappedKey", "publicKey", "fingerprint"}
    members = Value.parse(data, _MAX_DOCUMENT).members(names)
    if members["format"].text(64) != WRAPPED_FORMAT:
        raise JsonError(f"$.format: must be {WRAPPED_FORMAT}")
    spki = public_key_of(members["publicKey"].text(_MAX_PEM).encode())
    if spki is None:
        raise JsonError("$.publicKey: is not a public key, PEM")
    if members["fingerprint"].text(128) != fingerprint(spki):
        raise JsonError("$.fingerprint: is not that of the public key beside it")
    return _Wrapped(
        name=members["name"].text(256),
        key=members["key"].text(256),
        method=members["wrapMethod"].text(64),
        wrapped_key=members["wrappedKey"].base64(),
        public_key=spki,
    )


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
    print_text(f"{found.name}  {enum_name(found, 'state')}")
    print_text(f"  {found.key} ({enum_name(found, 'algorithm')})" + (", to stand by" if found.standby else ""))
    print_text(f"  into {found.provider}" + (f", {printable(found.region)}" if found.region else ""))
    print_text(f"  begun {time_of(found, 'create_time')}, can be finished until {time_of(found, 'expire_time')}")
    print_text(f"  by {', '.join(enum_names(found, 'wrap_methods'))}")
    if found.wrapping_key:
        print_text(f"  wrapping key, SHA-256: {spoken(fingerprint(found.wrapping_key))}")
    if found.HasField("attestation"):
        print_text(f"  attested: {printable(found.attestation.format)}, {len(found.attestation.content)} bytes")
    if found.key_version:
        print_text(f"  made {found.key_version}")


@app.command()
def cancel(context: typer.Context, name: Import, json_output: Json = False) -> None:
    """Give an import up; what it left in the store is removed."""
    options = options_of(context)
    with options.client() as client:
        found = client.cancel_key_import(options.import_name(name))
    if json_output:
        print_json(_document(found))
    else:
        print_text(f"{found.name} is {enum_name(found, 'state')}")


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
