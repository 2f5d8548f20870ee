"""``sealkeeper keys import wrap``: offline, on the custodian's own machine; and what it writes, read back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sealkeeper.client.cli.input_files import public_key_of, read_limited
from sealkeeper.client.cli.options import Json
from sealkeeper.client.cli.output import print_json, print_text, printable
from sealkeeper.client.cli.output_file import STDOUT, OutputFile
from sealkeeper.client.errors import USAGE, ClientError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

_MAX_DOCUMENT = 256 * 1024
_MAX_PRIVATE_KEY = 64 * 1024
_MAX_PASSPHRASE = 4096
_MAX_PEM = 8192
_METHODS = ("RSA_OAEP_SHA256_AES_256_KWP", "RSA_OAEP_SHA256", "RSA_OAEP_SHA1_AES_256_KWP")


class NotWrappedError(ClientError):
    """The private key cannot be wrapped, or what is to be handed over is no wrapped key."""

    exit_code = USAGE
    reason = "KEY_NOT_WRAPPED"


def _methods(incomplete: str) -> list[str]:
    return [one for one in _METHODS if one.startswith(incomplete.upper().replace("-", "_"))]


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

    with wrapping("put right what is said there, or begin another import: sealkeeper keys import begin"):
        document = key_wrapping.parse_import_document(read_limited(import_document, _MAX_DOCUMENT, "IMPORT"))
        with OutputFile(output, inputs=(private_key, import_document)) as place:
            key = _private_key(private_key, passphrase_file, key_wrapping.passphrase_prompt(document))
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


def _private_key(path: Path, passphrase_file: Path | None, prompt: str) -> PrivateKeyTypes:
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
    asked: str = typer.prompt(prompt, prompt_suffix="", hide_input=True, err=True)
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
def wrapping(next_step: str) -> Iterator[None]:
    """Make errors of wrapping those of the command line.

    Raises:
        NotWrappedError: in the place of a KeyWrappingError.
    """
    from sealkeeper.client.key_wrapping import KeyWrappingError

    try:
        yield
    except KeyWrappingError as error:
        raise NotWrappedError(str(error), next_step=next_step) from None


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A wrapped key document.

    Attributes:
        name: ``tenants/{tenant}/keyImports/{import}``.
        key: ``tenants/{tenant}/keys/{key}`` that it was wrapped for.
        method: as in ``WrapMethod``.
        wrapped_key: the private key, wrapped.
        public_key: that of the private key: SubjectPublicKeyInfo, DER.
    """

    name: str
    key: str
    method: str
    wrapped_key: bytes = field(repr=False)
    public_key: bytes


def read_wrapped_key(path: Path) -> WrappedKey:
    """Read a ``sealkeeper-wrapped-key/1``.

    Raises:
        NotWrappedError: it is none.
        OSError: it cannot be read.
    """
    from sealkeeper.verify.errors import VerifyError

    try:
        return _parsed(read_limited(path, _MAX_DOCUMENT, "WRAPPED"))
    except VerifyError as error:
        raise NotWrappedError(
            f"this is no wrapped key: {error}",
            next_step="give the file that sealkeeper keys import wrap wrote, whole; nothing was sent",
        ) from None


def _parsed(data: bytes) -> WrappedKey:
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
    return WrappedKey(
        name=members["name"].text(256),
        key=members["key"].text(256),
        method=members["wrapMethod"].text(64),
        wrapped_key=members["wrappedKey"].base64(),
        public_key=spki,
    )
