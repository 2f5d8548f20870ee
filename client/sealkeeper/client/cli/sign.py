"""``sealkeeper sign``."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from sealkeeper.client.cli.options import Json, options_of, write_atomically
from sealkeeper.client.cli.output import SUFFIX, print_json, print_text, printable, progress

if TYPE_CHECKING:
    from sealkeeper.client.client import Client
    from sealkeeper.v1 import signing_pb2

_CHUNK = 1024 * 1024
_MAX_MESSAGE = 4 * 1024 * 1024
_BATCH = 1000
_STDIN = "-"


class Material(StrEnum):
    """What proves the signer in the bundle."""

    PUBLIC_KEY = "public-key"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class _Artifact:
    """A file to sign, and where its bundle goes; ``None`` is standard output."""

    path: Path | None
    output: Path | None

    @property
    def name(self) -> str:
        return self.path.name if self.path is not None else "stdin"

    def open(self) -> BinaryIO:
        return self.path.open("rb") if self.path is not None else sys.stdin.buffer


def sign(
    context: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Files to sign; - is standard input.")],
    key: Annotated[str, typer.Option(help="Key: NAME in your tenant, or tenants/T/keys/NAME.")],
    material: Annotated[
        Material, typer.Option(help="What proves the signer: a hint at the public key, or a short-lived certificate.")
    ] = Material.PUBLIC_KEY,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Bundle file, or folder for many [default: FILE.sigstore.json]"),
    ] = None,
    dsse: Annotated[bool, typer.Option("--dsse", help="Sign each file as the payload of a DSSE envelope.")] = False,
    payload_type: Annotated[str, typer.Option(help="Media type of the DSSE payload.")] = "application/vnd.in-toto+json",
    json_output: Json = False,
) -> None:
    """Sign files with a key that stays in its provider; writes FILE.sigstore.json beside each."""
    options = options_of(context)
    artifacts = _artifacts(files, output)
    name = options.key_name(key)
    with options.client() as client:
        contents = _contents(client, name, artifacts, payload_type if dsse else None, quiet=json_output)
        results = _sign_all(client, name, artifacts, contents, material is Material.CERTIFICATE, quiet=json_output)
        for artifact, version, signature in results:
            _hand_over(artifact, version, signature, as_json=json_output)


def _artifacts(files: Sequence[str], output: Path | None) -> list[_Artifact]:
    if files.count(_STDIN) > 1:
        raise typer.BadParameter("standard input can be signed once", param_hint="FILE")
    folder = output if output is not None and (output.is_dir() or len(files) > 1) else None
    if folder is not None and not folder.is_dir():
        raise typer.BadParameter(f"{folder} is not a folder, and there are many files", param_hint="--output")
    made = []
    for file in files:
        path = Path(file) if file != _STDIN else None
        if path is not None and not path.is_file():
            raise typer.BadParameter(f"{printable(path)} is not a file", param_hint="FILE")
        made.append(_Artifact(path, _output_of(path, output, folder)))
    places = [one.output for one in made if one.output is not None]
    if len(set(places)) < len(places):
        raise typer.BadParameter("two files would have the same bundle file", param_hint="FILE")
    return made


def _output_of(path: Path | None, output: Path | None, folder: Path | None) -> Path | None:
    if folder is not None:
        return folder / f"{path.name if path is not None else 'stdin'}{SUFFIX}"
    if output is not None:
        return output
    return path.with_name(path.name + SUFFIX) if path is not None else None


def _contents(
    client: Client, key: str, artifacts: Sequence[_Artifact], payload_type: str | None, *, quiet: bool
) -> Iterator[signing_pb2.SignContent]:
    """What to send of each file: its digest where the key's algorithm signs digests, else the file itself."""
    from sealkeeper.client.operations import digest_content, dsse_content, message_content
    from sealkeeper.v1 import resources_pb2
    from sealkeeper.verify.algorithms import ALGORITHMS

    if payload_type is not None:
        for one in artifacts:
            yield dsse_content(payload_type, _whole(one, "a DSSE payload"), one.name)
        return
    value = client.public_key(key).algorithm
    algorithm = ALGORITHMS[resources_pb2.PublicKeyDetails.Name(value).removeprefix("PUBLIC_KEY_DETAILS_")]
    for one in artifacts:
        if algorithm.signs_digest:
            size = one.path.stat().st_size if one.path is not None else None
            with progress(f"hashing {one.name}", size, quiet=quiet) as advance:
                yield digest_content(algorithm.digest, _digest(one, algorithm.digest, advance), one.name)
        else:
            yield message_content(_whole(one, f"what {algorithm.name} signs"), one.name)


def _digest(artifact: _Artifact, algorithm: str, advance: Callable[[int], None]) -> bytes:
    digest = hashlib.new(algorithm.replace("SHA2_", "sha"))
    buffer = memoryview(bytearray(_CHUNK))
    with artifact.open() as file:
        while count := file.readinto(buffer):  # type: ignore[attr-defined]  # raw and buffered files have it
            digest.update(buffer[:count])
            advance(count)
    return digest.digest()


def _whole(artifact: _Artifact, what: str) -> bytes:
    with artifact.open() as file:
        data = file.read(_MAX_MESSAGE + 1)
    if len(data) > _MAX_MESSAGE:
        raise typer.BadParameter(
            f"{printable(artifact.name)} is longer than 4 MiB, the most for {what}; "
            "a key whose algorithm signs digests has no such limit",
            param_hint="FILE",
        )
    return data


def _sign_all(
    client: Client,
    key: str,
    artifacts: Sequence[_Artifact],
    contents: Iterator[signing_pb2.SignContent],
    certificate: bool,
    *,
    quiet: bool,
) -> Iterator[tuple[_Artifact, str, signing_pb2.Signature]]:
    if len(artifacts) == 1:
        answer = client.sign(key, next(contents), certificate=certificate)
        yield artifacts[0], answer.key_version, answer.signature
        return
    with progress("signing", len(artifacts), quiet=quiet, least=50) as advance:
        start = 0
        for batch in _batches(contents):
            answers = client.sign_batch(key, batch, certificate=certificate)
            for artifact, signature in zip(artifacts[start:], answers.signatures, strict=False):
                yield artifact, answers.key_version, signature
            start += len(batch)
            advance(len(batch))


def _batches(contents: Iterator[signing_pb2.SignContent]) -> Iterator[list[signing_pb2.SignContent]]:
    """Up to 1,000 items, and up to 4 MiB of messages and payloads."""
    batch: list[signing_pb2.SignContent] = []
    total = 0
    for one in contents:
        size = len(one.message) + len(one.dsse.payload)
        if batch and (len(batch) == _BATCH or total + size > _MAX_MESSAGE):
            yield batch
            batch, total = [], 0
        batch.append(one)
        total += size
    if batch:
        yield batch


def _hand_over(artifact: _Artifact, version: str, signature: signing_pb2.Signature, *, as_json: bool) -> None:
    if artifact.output is None:
        print_text(signature.bundle.decode())
        return
    write_atomically(artifact.output, signature.bundle + b"\n")
    if as_json:
        print_json(
            {
                "artifact": str(artifact.path) if artifact.path is not None else "-",
                "bundle": str(artifact.output),
                "keyVersion": version,
                "logIndex": signature.log_index,
            }
        )
    else:
        print_text(f"signed {printable(artifact.name)} with {version}, log entry {signature.log_index}")
        print_text(f"  {printable(artifact.output)}")
