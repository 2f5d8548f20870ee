"""``sealkeeper log``: checkpoints, entries, proofs, and the walk over a whole log."""

from __future__ import annotations

import base64
import http.client
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from sealkeeper.client.cli.options import Json, options_of, write_atomically
from sealkeeper.client.cli.output import mark, note, print_json, print_text, printable, progress

if TYPE_CHECKING:
    from sealkeeper.v1 import log_pb2
    from sealkeeper.verify.log import TileSource
    from sealkeeper.verify.note import Checkpoint, NoteVerifier

app = typer.Typer(no_args_is_help=True, help="The gateway's logs.")
Log = Annotated[str, typer.Option("--log", help="transparency, ct or audit.")]
_MAX_FILE = 64 * 1024 * 1024
_TIMEOUT = 30


@app.command()
def checkpoint(
    context: typer.Context,
    log: Log = "transparency",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to keep it in, for --since.")] = None,
    json_output: Json = False,
) -> None:
    """Print the newest checkpoint, a signed note."""
    with options_of(context).client() as client:
        found = client.checkpoint(f"logs/{log}")
    if output is not None:
        write_atomically(output, found.checkpoint.encode())
    if json_output:
        root = base64.b64encode(found.root_hash).decode()
        print_json({"checkpoint": found.checkpoint, "treeSize": found.tree_size, "rootHash": root})
    elif output is None:
        print_text(found.checkpoint.rstrip("\n"))


@app.command()
def show(
    context: typer.Context,
    index: Annotated[int, typer.Argument(help="Index of the entry.", min=0)],
    log: Log = "transparency",
    json_output: Json = False,
) -> None:
    """Show one entry."""
    with options_of(context).client() as client:
        for entry in client.entries(f"logs/{log}", index, 1):
            _print_entry(entry, as_json=json_output)
            return
    note(f"there is no entry {index} yet")
    raise typer.Exit(2)


@app.command()
def entries(
    context: typer.Context,
    start: Annotated[int, typer.Option(help="Index of the first one.", min=0)] = 0,
    limit: Annotated[int, typer.Option(help="At most this many; 0 for all.", min=0)] = 100,
    log: Log = "transparency",
    json_output: Json = False,
) -> None:
    """Print entries in order; with --json one a line."""
    with options_of(context).client() as client:
        for entry in client.entries(f"logs/{log}", start, limit):
            _print_entry(entry, as_json=json_output)


def _print_entry(entry: log_pb2.LogEntry, *, as_json: bool) -> None:
    leaf = base64.b64encode(entry.leaf_hash).decode()
    body: Any = None
    if entry.body:
        try:
            body = json.loads(entry.body)
        except ValueError:
            body = base64.b64encode(entry.body).decode()
    if as_json:
        print_json({"logIndex": entry.log_index, "leafHash": leaf, "body": body})
        return
    text = json.dumps(body, ensure_ascii=False) if body is not None else "(of another tenant)"
    print_text(f"{entry.log_index}\t{printable(text)}")


@app.command()
def inclusion(
    context: typer.Context,
    index: Annotated[int, typer.Argument(help="Index of the entry.", min=0)],
    tree_size: Annotated[int, typer.Option(help="Size of the tree; 0 for the newest.", min=0)] = 0,
    log: Log = "transparency",
    json_output: Json = False,
) -> None:
    """Ask for an inclusion proof, and check it."""
    from sealkeeper.verify.merkle import verify_inclusion

    with options_of(context).client() as client:
        proof = client.inclusion_proof(f"logs/{log}", index, tree_size)
    verify_inclusion(proof.leaf_hash, proof.log_index, proof.tree_size, list(proof.hashes), proof.root_hash)
    hashes = [base64.b64encode(one).decode() for one in proof.hashes]
    root = base64.b64encode(proof.root_hash).decode()
    if json_output:
        print_json({"logIndex": index, "treeSize": proof.tree_size, "rootHash": root, "hashes": hashes})
        return
    print_text(f"{mark(True)} entry {index} is in the tree of {proof.tree_size} entries, root hash {root}")
    for one in hashes:
        print_text(f"  {one}")


@app.command()
def consistency(
    context: typer.Context,
    first: Annotated[int, typer.Argument(help="The smaller size.", min=0)],
    second: Annotated[int, typer.Argument(help="The larger size; 0 for the newest.", min=0)] = 0,
    log: Log = "transparency",
    json_output: Json = False,
) -> None:
    """Ask for a consistency proof: that nothing of the smaller tree was changed."""
    with options_of(context).client() as client:
        proof = client.consistency_proof(f"logs/{log}", first, second)
    hashes = [base64.b64encode(one).decode() for one in proof.hashes]
    if json_output:
        print_json({"firstSize": proof.first_size, "secondSize": proof.second_size, "hashes": hashes})
        return
    print_text(f"from {proof.first_size} to {proof.second_size} entries, {len(hashes)} hashes")
    for one in hashes:
        print_text(f"  {one}")


@app.command()
def verify(
    source: Annotated[str, typer.Argument(help="Folder with checkpoint and tile/, or its http(s) URL.")],
    trust: Annotated[
        Path, typer.Option(envvar="SEALKEEPER_TRUST", help="Folder that sealkeeper trust export wrote.")
    ] = Path("trust"),
    log_key: Annotated[
        Path | None, typer.Option(help="File with the log's verifier key instead, as audit.vkey of the gateway.")
    ] = None,
    since: Annotated[
        Path | None, typer.Option(help="Checkpoint kept from before, which the log must still contain.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Walk a whole log from its tiles, offline. Exit code 0: one history; 1: the first bad entry is named."""
    from sealkeeper.verify import LogCorruptError
    from sealkeeper.verify.log import read_checkpoint, verify_log

    opened = _open(source)
    verifier = _verifier(opened, trust, log_key)
    earlier = _checkpoint(since, verifier) if since is not None else None
    try:
        total = read_checkpoint(opened, verifier).size
        with progress("checking entries", total, quiet=json_output, least=50_000) as advance:
            done = 0

            def told(now: int, _: int) -> None:
                nonlocal done
                advance(now - done)
                done = now

            report = verify_log(opened, verifier, earlier=earlier, progress=told)
    except LogCorruptError as error:
        if json_output:
            print_json({"verified": False, "log": verifier.name, "firstBadEntry": error.index, "problem": str(error)})
        else:
            print_text(f"{mark(False)} {verifier.name}: {printable(error)}")
            if error.index is not None:
                print_text(f"  first bad entry: {error.index}")
        raise typer.Exit(1) from None
    root = base64.b64encode(report.checkpoint.root_hash).decode()
    if json_output:
        print_json({"verified": True, "log": verifier.name, "treeSize": report.checkpoint.size, "rootHash": root})
    else:
        print_text(
            f"{mark(True)} {verifier.name}: {report.checkpoint.size} entries lead to the signed root hash {root}"
        )


def _verifier(source: TileSource, trust: Path, log_key: Path | None) -> NoteVerifier:
    from sealkeeper.verify import TrustRoot
    from sealkeeper.verify.log import trusted_verifier
    from sealkeeper.verify.note import NoteVerifier

    if log_key is not None:
        return NoteVerifier.from_vkey(log_key.read_text("utf-8"))
    return trusted_verifier(source, TrustRoot.from_directory(trust))


def _checkpoint(path: Path, verifier: NoteVerifier) -> Checkpoint:
    from sealkeeper.verify.note import parse_checkpoint, parse_signed_note

    note = parse_signed_note(path.read_bytes())
    verifier.verify(note)
    return parse_checkpoint(note.text)


def _open(source: str) -> TileSource:
    from sealkeeper.verify.log import DirectorySource

    if source.startswith(("http://", "https://")):
        return HttpSource(source)
    return DirectorySource(Path(source))


class HttpSource:
    """A log over HTTP, on one connection.

    Args:
        url: where its checkpoint and tile/ are.
    """

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(self._url.netloc, timeout=_TIMEOUT)

    def read(self, path: str) -> bytes | None:
        """The file; ``None`` where there is none.

        Raises:
            OSError: it cannot be read.
        """
        try:
            self._connection.request("GET", f"{self._url.path.rstrip('/')}/{path}")
            response = self._connection.getresponse()
            data = response.read(_MAX_FILE)
            response.close()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{self._url.netloc} does not speak HTTP: {type(error).__name__}") from None
        if response.status == http.client.NOT_FOUND:
            return None
        if response.status != http.client.OK:
            raise ConnectionError(f"{self._url.netloc} answered {response.status} for {path}")
        return data
