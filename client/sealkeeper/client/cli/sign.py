"""``sealkeeper sign``."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from sealkeeper.client.cli.options import Json, options_of
from sealkeeper.client.cli.output import SUFFIX, note, print_json, print_text, printable, progress
from sealkeeper.client.cli.output_file import ROOM, STDOUT, OutputFile, OutputFileError
from sealkeeper.client.errors import ClientError

if TYPE_CHECKING:
    from sealkeeper.client.client import Client
    from sealkeeper.v1 import signing_pb2

_CHUNK = 1024 * 1024
_MAX_MESSAGE = 4 * 1024 * 1024
_MAX_NAME = 512
_BATCH = 1000
_STDIN = "-"


class Material(StrEnum):
    """What proves the signer in the bundle."""

    PUBLIC_KEY = "public-key"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class _Artifact:
    """A file to sign, ``None`` for standard input, and where its bundle goes."""

    path: Path | None
    output: Path

    @property
    def name(self) -> str:
        """What it is called in the audit log: 512 printable characters at most; what else a name has is spelled out."""
        if self.path is None:
            return "stdin"
        return printable(os.fsencode(self.path.name).decode("utf-8", "backslashreplace"))[:_MAX_NAME]

    @property
    def size(self) -> int | None:
        """Bytes, where it is a regular file."""
        found = self.path.stat() if self.path is not None else None
        return found.st_size if found is not None and stat.S_ISREG(found.st_mode) else None

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open it; a file that was changed before it is closed is an error."""
        if self.path is None:
            yield sys.stdin.buffer
            return
        with self.path.open("rb") as file:
            before = _state(os.fstat(file.fileno()))
            yield file
            if stat.S_ISREG(before[0]) and not (before == _state(os.fstat(file.fileno())) == _state(self.path.stat())):
                raise typer.BadParameter(f"{printable(self.path)} was changed while it was read", param_hint="FILE")


def _state(found: os.stat_result) -> tuple[int, int, int, int, int]:
    return found.st_mode, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def sign(
    context: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Files to sign; - is standard input.")],
    key: Annotated[str, typer.Option(help="Key: NAME in your tenant, or tenants/T/keys/NAME.")],
    material: Annotated[
        Material, typer.Option(help="What proves the signer: a hint at the public key, or a short-lived certificate.")
    ] = Material.PUBLIC_KEY,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="Bundle file, - for standard output, or folder for many [default: FILE.sigstore.json]",
        ),
    ] = None,
    dsse: Annotated[bool, typer.Option("--dsse", help="Sign each file as the payload of a DSSE envelope.")] = False,
    payload_type: Annotated[str, typer.Option(help="Media type of the DSSE payload.")] = "application/vnd.in-toto+json",
    json_output: Json = False,
) -> None:
    """Sign files with a key that stays in its provider; writes FILE.sigstore.json beside each."""
    options = options_of(context)
    artifacts = _artifacts(files, output)
    name = options.key_name(key)
    with ExitStack() as stack:
        places = _places(artifacts, stack, dsse=dsse)
        client = stack.enter_context(options.client())
        contents = _contents(client, name, artifacts, payload_type if dsse else None, quiet=json_output)
        results = _sign_all(client, name, artifacts, contents, material is Material.CERTIFICATE, quiet=json_output)
        reports = _hand_over(results, places, as_json=json_output)
    if json_output:
        print_json(reports if len(reports) > 1 else reports[0])


def _hand_over(
    results: Iterator[tuple[_Artifact, str, signing_pb2.Signature]], places: Sequence[OutputFile], *, as_json: bool
) -> list[dict[str, Any]]:
    """Write the bundles, and report each; one that cannot be written does not keep the others back."""
    reports: list[dict[str, Any]] = []
    failures: list[OutputFileError] = []
    # Where a bundle goes to standard output, what is said does not.
    say = note if any(str(one.path) == STDOUT for one in places) else print_text
    try:
        for (artifact, version, signature), place in zip(results, places, strict=True):
            try:
                if not as_json or str(artifact.output) != STDOUT:
                    place.write(signature.bundle + b"\n")
            except OutputFileError as error:
                failures.append(error)
                continue
            if not as_json and artifact.path is not None:
                say(f"signed {printable(artifact.name)} with {version}, log entry {signature.log_index}")
                say(f"  {printable(artifact.output)}")
            reports.append(_report(artifact, version, signature))
    except ClientError as error:
        if reports:
            done = f"{len(reports)} of {len(places)} files are signed and have their bundles: sign the others"
            error.next_step = "; ".join(filter(None, (error.next_step, done)))
        raise
    if failures:
        raise failures[0]
    return reports


def _artifacts(files: Sequence[str], output: str | None) -> list[_Artifact]:
    if files.count(_STDIN) > 1:
        raise typer.BadParameter("standard input can be signed once", param_hint="FILE")
    if _STDIN in files and sys.stdin is None:
        raise typer.BadParameter("standard input is closed", param_hint="FILE")
    folder = _folder(files, output)
    made = []
    for file in files:
        path = Path(file) if file != _STDIN else None
        if path is not None and not path.exists():
            raise typer.BadParameter(f"{printable(path)} is not there", param_hint="FILE")
        if path is not None and path.is_dir():
            raise typer.BadParameter(f"{printable(path)} is a folder", param_hint="FILE")
        made.append(_Artifact(path, _output_of(path, output, folder)))
    places = [os.path.realpath(one.output) for one in made]
    if len(set(places)) < len(places):
        raise typer.BadParameter("two files would have the same bundle file", param_hint="FILE")
    if str(STDOUT) in (str(one.output) for one in made) and sys.stdout is None:
        raise typer.BadParameter("standard output is closed", param_hint="--output")
    return made


def _folder(files: Sequence[str], output: str | None) -> Path | None:
    if output is None or output == STDOUT:
        return None
    path = Path(output)
    # What is wrong with a path that cannot be looked up is told when it is opened.
    with suppress(OSError):
        if path.is_dir():
            return path
    if output.endswith("/"):
        raise typer.BadParameter(f"{printable(output)} is not a folder: make it first", param_hint="--output")
    if len(files) > 1:
        raise typer.BadParameter(
            f"{printable(path)} is not a folder, and there are many files: make it first", param_hint="--output"
        )
    return None


def _output_of(path: Path | None, output: str | None, folder: Path | None) -> Path:
    if folder is not None:
        return folder / f"{path.name if path is not None else 'stdin'}{SUFFIX}"
    if output is not None or path is None:
        return Path(output or STDOUT)
    if not path.is_file():
        raise typer.BadParameter(
            f"is needed: {printable(path)} is a pipe or device, beside which no bundle is put", param_hint="--output"
        )
    return path.with_name(path.name + SUFFIX)


def _places(artifacts: Sequence[_Artifact], stack: ExitStack, *, dsse: bool) -> list[OutputFile]:
    """Where the bundles go, tried before anything is signed: what is in the log and nowhere else is lost."""
    inputs = [one.path for one in artifacts if one.size is not None and one.path is not None]
    places = []
    for one in artifacts:
        # A DSSE bundle holds its payload, in base64.
        room = ROOM + (2 * min(one.size or 0, _MAX_MESSAGE) if dsse else 0)
        places.append(stack.enter_context(OutputFile(one.output, room=room, inputs=inputs)))
    return places


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
            with progress(f"hashing {one.name}", one.size, quiet=quiet) as advance:
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


def _report(artifact: _Artifact, version: str, signature: signing_pb2.Signature) -> dict[str, Any]:
    """For ``--json``; with the bundle itself where that has no file."""
    report: dict[str, Any] = {
        "artifact": str(artifact.path) if artifact.path is not None else _STDIN,
        "bundle": str(artifact.output),
        "keyVersion": version,
        "logIndex": signature.log_index,
    }
    return {**report, "document": json.loads(signature.bundle)} if str(artifact.output) == STDOUT else report
